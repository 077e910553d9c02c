//! IPv6 of links: addresses without a question whether they are free, neighbours and routes without
//! questions at all, and who else has addresses of the containers' subnet.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use futures_util::TryStreamExt as _;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType,
};
use rustix::io::Errno;
use state::subnet::Ipv6Subnet;

use super::routes::{link_name, link_of};
use super::{Netlink, errno};
use crate::network::NetworkError;

/// Hardware addresses of neighbours, by their addresses.
pub(in crate::network::bridge) type Neighbours = BTreeMap<Ipv6Addr, [u8; 6]>;

impl Netlink {
    /// Gives a link an address that is usable at once: nobody is asked whether it is free. One that it
    /// has already is no error.
    pub(in crate::network::bridge) async fn set_address6(
        &self,
        index: u32,
        address: Ipv6Addr,
        prefix: u8,
    ) -> Result<(), NetworkError> {
        let mut request = self
            .0
            .address()
            .add(index, address.into(), prefix)
            .replace();
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        request.execute().await.map_err(|error| {
            let what = format!("cannot give the address {address}/{prefix} to link {index}");
            NetworkError::failed(what, error)
        })
    }

    /// Sets the one default route: through `gateway`, which is behind the hardware address `mac`.
    pub(in crate::network::bridge) async fn set_default_route6(
        &self,
        index: u32,
        gateway: Ipv6Addr,
        mac: [u8; 6],
    ) -> Result<(), NetworkError> {
        let failed = |error| {
            let what = format!("cannot set the default route through {gateway}");
            NetworkError::failed(what, error)
        };
        self.set_neighbour(index, gateway, mac).await?;
        let near = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(gateway, 128)
            .output_interface(index)
            .scope(RouteScope::Link)
            .build();
        let near = self.0.route().add(near).replace().execute().await;
        near.map_err(failed)?;
        let all = RouteMessageBuilder::<Ipv6Addr>::new()
            .gateway(gateway)
            .output_interface(index)
            .build();
        let all = self.0.route().add(all).replace().execute().await;
        all.map_err(failed)
    }

    /// Makes a neighbour known for good, so that nobody is asked for it and nobody can answer in its
    /// place.
    pub(in crate::network::bridge) async fn set_neighbour(
        &self,
        index: u32,
        address: Ipv6Addr,
        mac: [u8; 6],
    ) -> Result<(), NetworkError> {
        let neighbour = self.0.neighbours().add(index, address.into());
        let neighbour = neighbour.link_layer_address(&mac);
        let neighbour = neighbour.state(NeighbourState::Permanent).replace();
        neighbour.execute().await.map_err(|error| {
            let what = format!("cannot make {address} a neighbour of link {index}");
            NetworkError::failed(what, error)
        })
    }

    /// Makes these the neighbours of a link that are known for good. Answers those that were not.
    pub(in crate::network::bridge) async fn set_neighbours(
        &self,
        index: u32,
        wanted: &Neighbours,
    ) -> Result<Vec<Ipv6Addr>, NetworkError> {
        let failed = |error| NetworkError::failed("cannot change the neighbours of a link", error);
        let known = self.0.neighbours().get();
        let known = known.set_address_family(AddressFamily::Inet6).execute();
        let known: Vec<NeighbourMessage> = known.try_collect().await.map_err(failed)?;
        let mut right = Vec::new();
        for neighbour in known {
            let is_ours = neighbour.header.ifindex == index
                && neighbour.header.state == NeighbourState::Permanent;
            let Some((address, mac)) = read(&neighbour).filter(|_| is_ours) else {
                continue;
            };
            if wanted
                .get(&address)
                .is_some_and(|wanted| *wanted == mac[..])
            {
                right.push(address);
            } else if !wanted.contains_key(&address) {
                match self.0.neighbours().del(neighbour).execute().await {
                    Err(error) if errno(&error) != Some(Errno::NOENT) => return Err(failed(error)),
                    Ok(()) | Err(_) => {}
                }
            }
        }
        let mut set = Vec::new();
        for (address, mac) in wanted
            .iter()
            .filter(|(address, _)| !right.contains(address))
        {
            self.set_neighbour(index, *address, *mac).await?;
            set.push(*address);
        }
        Ok(set)
    }

    /// Whether a link has an address, and no question is open whether it is free.
    pub(in crate::network::bridge) async fn has_address6(
        &self,
        index: u32,
        address: Ipv6Addr,
    ) -> Result<bool, NetworkError> {
        let all = self.addresses6().await?;
        Ok(all
            .into_iter()
            .any(|(link, own, _)| (link, own) == (index, address)))
    }

    /// Takes all other addresses from a link, and answers them.
    pub(in crate::network::bridge) async fn remove_other_addresses6(
        &self,
        index: u32,
        address: Ipv6Addr,
    ) -> Result<Vec<Ipv6Addr>, NetworkError> {
        let failed = |error| NetworkError::failed("cannot change the addresses of a link", error);
        let request = self.0.address().get().set_link_index_filter(index);
        let all: Vec<AddressMessage> = request.execute().try_collect().await.map_err(failed)?;
        let mut removed = Vec::new();
        for message in all {
            let Some(other) = ipv6_of(&message).filter(|other| *other != address) else {
                continue;
            };
            match self.0.address().del(message).execute().await {
                Err(error) if errno(&error) != Some(Errno::ADDRNOTAVAIL) => {
                    return Err(failed(error));
                }
                Ok(()) | Err(_) => removed.push(other),
            }
        }
        Ok(removed)
    }

    /// The first range of somebody else, but for the link `own`, that shares addresses with `subnet`: an
    /// interface's, or a route's that is not larger or has no gateway. In words.
    pub(in crate::network::bridge) async fn collision6(
        &self,
        own: Option<u32>,
        subnet: Ipv6Subnet,
    ) -> Result<Option<String>, NetworkError> {
        let links = self.all().await?;
        for (link, address, prefix) in self.addresses6().await? {
            if Some(link) != own && overlaps(subnet, address, prefix) {
                let name = link_name(Some(link), &links).unwrap_or_default();
                return Ok(Some(format!("{address}/{prefix} of the interface {name}")));
            }
        }
        let every = RouteMessageBuilder::<Ipv6Addr>::new().table_id(0).build();
        let routes = self.0.route().get(every).execute();
        let routes: Vec<RouteMessage> = routes
            .try_collect()
            .await
            .map_err(|error| NetworkError::failed("cannot list the routes", error))?;
        let collides = |route: &&RouteMessage| {
            let (prefix, link) = (route.header.destination_prefix_length, link_of(route));
            let is_somebodys = link.is_none() || link != own;
            let is_counted = matches!(
                route.header.kind,
                RouteType::Unicast
                    | RouteType::BlackHole
                    | RouteType::Unreachable
                    | RouteType::Prohibit
            );
            let is_near = !route
                .attributes
                .iter()
                .any(|attribute| matches!(attribute, RouteAttribute::Gateway(_)));
            let is_narrow = prefix >= subnet.prefix() || is_near;
            let to = destination(route);
            is_somebodys
                && is_counted
                && is_narrow
                && to.is_some_and(|to| overlaps(subnet, to, prefix))
        };
        Ok(routes.iter().find(collides).map(|route| {
            let to = destination(route).unwrap_or(Ipv6Addr::UNSPECIFIED);
            let by = link_name(link_of(route), &links);
            let by = by.map_or_else(
                || "a route".to_owned(),
                |name| format!("the route by {name}"),
            );
            format!("{to}/{} of {by}", route.header.destination_prefix_length)
        }))
    }

    /// Index of the link by which packets for an address leave. `None`: they do not.
    pub(in crate::network::bridge) async fn link_towards6(&self, address: Ipv6Addr) -> Option<u32> {
        let question = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(address, 128)
            .build();
        let mut answer = Box::pin(self.0.route().get(question).execute());
        let route = answer.try_next().await.ok()??;
        link_of(&route)
    }

    /// Link, address and prefix of each address that is not of a link alone.
    async fn addresses6(&self) -> Result<Vec<(u32, Ipv6Addr, u8)>, NetworkError> {
        let all: Vec<AddressMessage> = self
            .0
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| NetworkError::failed("cannot list the addresses", error))?;
        let read = |message: &AddressMessage| {
            let address = ipv6_of(message)?;
            let is_wide = !address.is_unicast_link_local() && !address.is_loopback();
            is_wide.then_some((message.header.index, address, message.header.prefix_len))
        };
        Ok(all.iter().filter_map(read).collect())
    }
}

fn ipv6_of(message: &AddressMessage) -> Option<Ipv6Addr> {
    message.attributes.iter().find_map(|attribute| {
        let AddressAttribute::Address(std::net::IpAddr::V6(address)) = attribute else {
            return None;
        };
        Some(*address)
    })
}

/// Whether an address is in both ranges; everything is in the route of everything else.
fn overlaps(subnet: Ipv6Subnet, address: Ipv6Addr, prefix: u8) -> bool {
    let common = prefix.min(subnet.prefix());
    let difference = address.to_bits() ^ subnet.network().to_bits();
    common != 0 && difference.checked_shr(128 - u32::from(common)) == Some(0)
}

fn destination(route: &RouteMessage) -> Option<Ipv6Addr> {
    route.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Destination(RouteAddress::Inet6(address)) = attribute else {
            return None;
        };
        Some(*address)
    })
}

fn read(neighbour: &NeighbourMessage) -> Option<(Ipv6Addr, Vec<u8>)> {
    let (mut address, mut mac) = (None, Vec::new());
    for attribute in &neighbour.attributes {
        if let NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) = attribute {
            address = Some(*found);
        } else if let NeighbourAttribute::LinkLayerAddress(found) = attribute {
            mac.clone_from(found);
        }
    }
    Some((address?, mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_overlap_if_one_is_in_the_other() {
        let subnet: Ipv6Subnet = "fd12:3456:789a::/64".parse().unwrap();
        for (address, prefix, expected) in [
            ("fd12:3456:789a::77", 128, true),
            ("fd12:3456:789a::", 48, true),
            ("fd12:3456:789a:1::", 64, false),
            ("fd12:3456:789b::", 48, false),
            ("2001:db8::1", 64, false),
            ("::", 0, false),
        ] {
            let address: Ipv6Addr = address.parse().unwrap();
            assert_eq!(
                overlaps(subnet, address, prefix),
                expected,
                "{address}/{prefix}"
            );
        }
    }
}
