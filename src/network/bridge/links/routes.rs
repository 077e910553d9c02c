//! Routes and addresses of the host: the way to the outside, and who else has addresses of the
//! containers' subnet.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use futures_util::TryStreamExt as _;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteScope, RouteType,
};
use state::subnet::Ipv4Subnet;

use super::{KernelLink, Netlink};
use crate::network::NetworkError;

/// Packet sizes in bytes that the bridge takes over from another link: from IPv6's least (RFC 8200)
/// to that of jumbo frames. A link with another one (loopback, a tunnel's virtual 64 KiB) says
/// nothing about Ethernet.
const ETHERNET_MTU: RangeInclusive<u32> = 1280..=9216;

/// Tables of routes that every packet is looked up in: `local`, `main` and `default`.
const COMMON_TABLES: RangeInclusive<u32> = 253..=255;

/// Range of addresses that somebody else on the host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::network::bridge) struct OccupiedRange {
    pub(in crate::network::bridge) network: Ipv4Addr,
    pub(in crate::network::bridge) prefix: u8,
    /// Index of the interface, if it is one's.
    pub(in crate::network::bridge) link: Option<u32>,
    /// Name of the interface, or the kind of route.
    pub(in crate::network::bridge) holder: String,
    /// Whether the addresses are the interface's own neighbours.
    on_link: bool,
    /// Number of the table of routes.
    table: u32,
}

impl std::fmt::Display for OccupiedRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} of {}", self.network, self.prefix, self.holder)
    }
}

impl OccupiedRange {
    /// Harm of having this range and `subnet` on one host. `None`: there is none.
    ///
    /// A larger range behind a gateway does none: the subnet is the nearer way, and the rest of
    /// the range is reached as before.
    pub(in crate::network::bridge) fn collision(&self, subnet: Ipv4Subnet) -> Option<Collision> {
        let overlaps = self.overlaps(subnet);
        if overlaps && self.prefix >= subnet.prefix() {
            Some(Collision::CutsOff)
        } else {
            (overlaps && self.on_link).then_some(Collision::Hides)
        }
    }
}

impl OccupiedRange {
    /// Whether an address is in both; everything is in the route of everything else.
    pub(in crate::network::bridge) const fn overlaps(&self, subnet: Ipv4Subnet) -> bool {
        let common = if self.prefix < subnet.prefix() {
            self.prefix
        } else {
            subnet.prefix()
        };
        common != 0 && (self.network.to_bits() ^ subnet.gateway().to_bits()) >> (32 - common) == 0
    }
}

/// Harm of two equal ranges of addresses on one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::network::bridge) enum Collision {
    /// Packets for containers go to the other range, or the other way round.
    CutsOff,
    /// Neighbours of the host with an address of the subnet are not reached.
    Hides,
}

impl Netlink {
    /// Ranges of addresses that others have by a route, but not by the link `own`. Where there are
    /// very many routes this takes a second.
    pub(in crate::network::bridge) async fn ranges_of_routes(
        &self,
        own: Option<u32>,
    ) -> Result<Vec<OccupiedRange>, NetworkError> {
        let links = self.all().await?;
        let every = RouteMessageBuilder::<Ipv4Addr>::new().table_id(0).build();
        let routes = self.0.route().get(every).execute();
        let routes: Vec<RouteMessage> = routes
            .try_collect()
            .await
            .map_err(|error| NetworkError::failed("cannot list the routes", error))?;
        let ranges = routes.iter().filter_map(|route| of_route(route, &links));
        Ok(ranges
            .filter(|range| own.is_none() || range.link != own)
            .collect())
    }

    /// Largest packet in bytes of the link towards the outside. `None`: there is no way out (yet).
    pub(in crate::network::bridge) async fn uplink_mtu(&self) -> Result<Option<u32>, NetworkError> {
        // Any address of the outside does: the kernel is asked for its way there, and nothing is
        // sent.
        let Some(uplink) = self.link_towards(Ipv4Addr::new(203, 0, 113, 1)).await else {
            return Ok(None);
        };
        let links = self.all().await?;
        let mtu = links.iter().find(|link| link.index == uplink);
        Ok(mtu
            .map(|link| link.mtu)
            .filter(|mtu| ETHERNET_MTU.contains(mtu)))
    }

    /// Whether a link has an IPv4 address.
    pub(in crate::network::bridge) async fn has_any_address(
        &self,
        index: u32,
    ) -> Result<bool, NetworkError> {
        let request = self.0.address().get().set_link_index_filter(index);
        let addresses: Vec<AddressMessage> = request
            .execute()
            .try_collect()
            .await
            .map_err(|error| NetworkError::failed("cannot list the addresses", error))?;
        let is_ipv4 = |message: &AddressMessage| message.header.family == AddressFamily::Inet;
        Ok(addresses.iter().any(is_ipv4))
    }

    /// Ranges of addresses that interfaces have, but for the link `own`.
    pub(in crate::network::bridge) async fn ranges_of_links(
        &self,
        own: u32,
    ) -> Result<Vec<OccupiedRange>, NetworkError> {
        let addresses = self.0.address().get().execute();
        let addresses: Vec<AddressMessage> = addresses
            .try_collect()
            .await
            .map_err(|error| NetworkError::failed("cannot list the addresses", error))?;
        let foreign = addresses.iter().filter(|message| {
            message.header.family == AddressFamily::Inet && message.header.index != own
        });
        if foreign.clone().next().is_none() {
            return Ok(Vec::new());
        }
        let links = self.all().await?;
        Ok(foreign
            .filter_map(|message| of_address(message, &links))
            .collect())
    }

    /// First range of `ranges` whose collision with `subnet` is one that `counts`. Routes of special
    /// tables count only if they are used for their first address.
    pub(in crate::network::bridge) async fn first_collision(
        &self,
        ranges: Vec<OccupiedRange>,
        subnet: Ipv4Subnet,
        counts: impl Fn(Collision) -> bool,
    ) -> Option<OccupiedRange> {
        let collides = |range: &OccupiedRange| range.collision(subnet).is_some_and(&counts);
        for range in ranges.into_iter().filter(collides) {
            if COMMON_TABLES.contains(&range.table) || self.is_used(&range).await {
                return Some(range);
            }
        }
        None
    }

    /// Whether the kernel chooses a route for the first address of its range.
    async fn is_used(&self, range: &OccupiedRange) -> bool {
        let mut question = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(range.network, 32)
            .build();
        question.header.flags = RouteFlags::FibMatch | RouteFlags::LookupTable;
        let mut answer = Box::pin(self.0.route().get(question).execute());
        let Ok(Some(route)) = answer.try_next().await else {
            return false;
        };
        table_of(&route) == range.table && route.header.destination_prefix_length == range.prefix
    }

    /// Index of the link by which packets for an address leave. `None`: they do not.
    pub(in crate::network::bridge) async fn link_towards(&self, address: Ipv4Addr) -> Option<u32> {
        let question = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .build();
        let mut answer = Box::pin(self.0.route().get(question).execute());
        let route = answer.try_next().await.ok()??;
        link_of(&route)
    }
}

pub(super) fn link_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Oif(index) = attribute {
            Some(*index)
        } else {
            None
        }
    })
}

/// Number of the table that a route is in; the header has room for small ones only.
fn table_of(route: &RouteMessage) -> u32 {
    let numbered = route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Table(number) = attribute {
            Some(*number)
        } else {
            None
        }
    });
    numbered.unwrap_or_else(|| route.header.table.into())
}

fn of_route(route: &RouteMessage, links: &[KernelLink]) -> Option<OccupiedRange> {
    let RouteHeader {
        destination_prefix_length: prefix,
        scope,
        kind,
        ..
    } = route.header;
    let refusal = if matches!(kind, RouteType::Unicast | RouteType::Local) {
        None
    } else if kind == RouteType::BlackHole {
        Some("a blackhole route")
    } else if matches!(kind, RouteType::Unreachable | RouteType::Prohibit) {
        Some("an unreachable route")
    } else {
        return None;
    };
    let (mut network, mut gateway) = (None, None);
    for attribute in &route.attributes {
        if let RouteAttribute::Destination(RouteAddress::Inet(address)) = attribute {
            network = Some(*address);
        } else if let RouteAttribute::Gateway(RouteAddress::Inet(address)) = attribute {
            gateway = Some(*address);
        }
    }
    let link = link_of(route);
    let interface = link_name(link, links);
    let holder = match (refusal, gateway, interface) {
        (Some(refusal), ..) => refusal.to_owned(),
        (None, Some(gateway), _) => format!("the route by way of {gateway}"),
        (None, None, Some(name)) => format!("the interface {name}"),
        (None, None, None) => "a route".to_owned(),
    };
    Some(OccupiedRange {
        network: network?,
        prefix,
        link,
        holder,
        on_link: refusal.is_none() && scope == RouteScope::Link,
        table: table_of(route),
    })
}

fn of_address(message: &AddressMessage, links: &[KernelLink]) -> Option<OccupiedRange> {
    let address = message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Local(std::net::IpAddr::V4(address)) = attribute {
            Some(*address)
        } else {
            None
        }
    });
    let prefix = message.header.prefix_len;
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32)));
    let name = link_name(Some(message.header.index), links)?;
    Some(OccupiedRange {
        network: Ipv4Addr::from_bits(address?.to_bits() & mask.unwrap_or(0)),
        prefix,
        link: Some(message.header.index),
        holder: format!("the interface {name}"),
        on_link: true,
        table: *COMMON_TABLES.start(),
    })
}

pub(super) fn link_name(index: Option<u32>, links: &[KernelLink]) -> Option<String> {
    let link = links.iter().find(|link| Some(link.index) == index);
    link.map(|link| link.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl OccupiedRange {
        /// Range of a test.
        pub(in crate::network::bridge) fn of(text: &str, on_link: bool) -> Self {
            let (network, prefix) = text.split_once('/').unwrap();
            Self {
                network: network.parse().unwrap(),
                prefix: prefix.parse().unwrap(),
                link: None,
                holder: "eth0".to_owned(),
                on_link,
                table: 254,
            }
        }
    }

    #[test]
    fn a_range_collides_if_packets_would_go_astray_and_one_behind_a_gateway_may_be_larger() {
        #[track_caller]
        fn check(range: &str, on_link: bool, expected: Option<Collision>) {
            let (network, prefix) = range.split_once('/').unwrap();
            let range = OccupiedRange {
                network: network.parse().unwrap(),
                prefix: prefix.parse().unwrap(),
                link: None,
                holder: String::new(),
                on_link,
                table: 254,
            };
            let found = range.collision("10.231.0.0/16".parse().unwrap());
            assert_eq!(found, expected, "{range:?}");
        }
        let (cuts_off, hides) = (Some(Collision::CutsOff), Some(Collision::Hides));
        check("10.231.0.0/16", false, cuts_off);
        check("10.231.7.0/24", false, cuts_off);
        check("10.231.0.0/16", true, cuts_off);
        check("10.0.0.0/8", true, hides);
        check("10.0.0.0/8", false, None);
        check("0.0.0.0/0", true, None);
        check("10.230.0.0/16", true, None);
        check("10.232.0.0/16", true, None);
    }
}
