//! Addresses that mean this node, or the link it stands on: a host elsewhere has no business in
//! leading there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use rustix::io::Errno;
use state::subnet::ContainerSubnets;

/// Services of clouds that tell a machine its secrets, where they are not on the link.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Port of a datagram that is never sent.
const DISCARD: u16 = 9;

/// Addresses of the node, of its link, and of its containers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NearAddresses {
    containers: Option<ContainerSubnets>,
}

impl NearAddresses {
    /// Addresses of this node, whose containers are in `containers`.
    pub(crate) fn new(containers: Option<ContainerSubnets>) -> Self {
        Self { containers }
    }

    /// Whether `address` is one of them.
    pub(crate) fn holds(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let is_fixed = match address {
            IpAddr::V4(address) => Self::holds_v4(address),
            IpAddr::V6(address) => {
                address.is_loopback()
                    || address.is_unspecified()
                    || address.is_unicast_link_local()
                    || address.is_multicast()
                    || carried(address).is_some_and(|address| self.holds(address.into()))
            }
        };
        let is_containers = || {
            let containers = self.containers;
            containers.is_some_and(|subnets| subnets.contains(address))
        };
        is_fixed || is_containers() || METADATA.contains(&address) || is_own(address)
    }

    fn holds_v4(address: Ipv4Addr) -> bool {
        address.is_loopback()
            || address.is_link_local()
            || address.is_multicast()
            || address.is_broadcast()
            // Linux takes all of 0.0.0.0/8 that it can connect to for itself.
            || address.octets()[0] == 0
    }
}

/// IPv4 address that one of IPv6 stands for: of NAT64 (RFC 6052), 6to4 (RFC 3056), or the oldest
/// form (RFC 4291, 2.5.5.1).
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let pair = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high, low] => {
            Some(pair(high, low))
        }
        [0x2002, high, low, ..] => Some(pair(high, low)),
        _ => None,
    }
}

/// Whether an interface of this machine has the address: from there, and from nowhere else, the
/// kernel sends to it. Nothing is sent.
fn is_own(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, DISCARD))?;
        socket.local_addr()
    });
    match source {
        Ok(source) => source.ip() == address,
        // Without a way there, or without that family, nobody is reached at all. Anything else, as
        // that no file can be opened, says nothing: then it may be this machine's.
        Err(error) => !matches!(
            error.raw_os_error().map(Errno::from_raw_os_error),
            Some(
                Errno::AFNOSUPPORT
                    | Errno::ADDRNOTAVAIL
                    | Errno::NETUNREACH
                    | Errno::HOSTUNREACH
                    | Errno::NETDOWN
                    | Errno::INVAL
                    | Errno::ACCESS
                    | Errno::PERM
            )
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_this_node_and_its_link_is_near() {
        let near = NearAddresses::new(Some(ContainerSubnets {
            ipv4: "10.231.0.0/16".parse().unwrap(),
            ipv6: "fd12:3456:789a::/64".parse().ok(),
        }));
        for (address, is_near) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("0.0.0.0", true),
            ("0.1.2.3", true),
            ("169.254.169.254", true),
            ("100.100.100.200", true),
            ("224.0.0.1", true),
            ("255.255.255.255", true),
            ("10.231.0.1", true),
            ("10.231.77.3", true),
            ("::1", true),
            ("::", true),
            ("fe80::1", true),
            ("fd12:3456:789a::77", true),
            ("fd12:3456:789b::77", false),
            ("ff02::1", true),
            ("fd00:ec2::254", true),
            ("::ffff:127.0.0.1", true),
            ("::ffff:169.254.169.254", true),
            ("::127.0.0.1", true),
            ("64:ff9b::7f00:1", true),
            ("2002:7f00:1::", true),
            ("10.232.0.1", false),
            ("192.0.2.7", false),
            ("2001:db8::1", false),
            ("64:ff9b::c000:207", false),
        ] {
            let found = near.holds(address.parse().unwrap());
            assert_eq!(found, is_near, "{address}");
        }
    }

    #[test]
    fn an_address_of_an_interface_is_near() {
        let way = UdpSocket::bind("0.0.0.0:0").unwrap();
        // Any route will do; a machine without one has only its loopback.
        if way.connect("192.0.2.1:9").is_ok() {
            let own = way.local_addr().unwrap().ip();
            assert!(NearAddresses::default().holds(own), "{own}");
        }
    }
}
