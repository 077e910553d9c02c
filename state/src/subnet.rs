//! The subnets of the containers. Which address of it a container gets is decided by
//! [`crate::assign`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use ipv6::Ipv6Subnet;

mod ipv6;

/// An IPv4 subnet in CIDR notation (RFC 4632), as in `10.231.0.0/16`; prefixes from 8 to 29.
///
/// The first address is the gateway's, the last the broadcast address; those between are the
/// containers'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Subnet {
    network: u32,
    prefix: u8,
}

/// The subnets that the containers of a node have addresses of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerSubnets {
    /// The one that each has an address of.
    pub ipv4: Ipv4Subnet,
    /// The one beside it, where there is one.
    pub ipv6: Option<Ipv6Subnet>,
}

impl ContainerSubnets {
    /// Whether it is an address of one of them, however it is written.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => self.ipv4.contains(address),
            IpAddr::V6(address) => self.ipv6.is_some_and(|subnet| subnet.contains(address)),
        }
    }
}

impl From<Ipv4Subnet> for ContainerSubnets {
    fn from(ipv4: Ipv4Subnet) -> Self {
        Self { ipv4, ipv6: None }
    }
}

/// Error of a text that is no subnet; it says what the text must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSubnet(&'static str);

impl Ipv4Subnet {
    /// The number of bits in the network part, 8 to 29.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// The gateway, which is the host's own address in the subnet: the first.
    #[must_use]
    pub const fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network + 1)
    }

    /// The broadcast address: the last.
    #[must_use]
    pub const fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network | !self.mask())
    }

    /// The addresses containers may have, in ascending order.
    pub fn container_addresses(self) -> impl DoubleEndedIterator<Item = Ipv4Addr> {
        (self.network + 2..self.broadcast().to_bits()).map(Ipv4Addr::from_bits)
    }

    /// Whether a container may have this address.
    #[must_use]
    pub const fn is_container_address(self, address: Ipv4Addr) -> bool {
        let bits = address.to_bits();
        bits > self.network + 1 && bits < self.broadcast().to_bits()
    }

    /// Whether it is one of the subnet's addresses, the gateway's and the broadcast address among
    /// them.
    #[must_use]
    pub const fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.network
    }

    const fn mask(self) -> u32 {
        u32::MAX << (32 - self.prefix)
    }
}

impl FromStr for Ipv4Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        const WRONG: InvalidSubnet = InvalidSubnet(
            "must be an IPv4 subnet such as \"10.231.0.0/16\", with a prefix of 8 to 29",
        );
        let (address, prefix) = text.split_once('/').ok_or(WRONG)?;
        let address: Ipv4Addr = address.parse().map_err(|_| WRONG)?;
        let prefix: u8 = prefix.parse().map_err(|_| WRONG)?;
        if !(8..=29).contains(&prefix) {
            return Err(WRONG);
        }
        let subnet = Self {
            network: address.to_bits(),
            prefix,
        };
        if subnet.network & !subnet.mask() != 0 {
            return Err(InvalidSubnet(
                "has bits set beyond its prefix: \
                 write the subnet's first address, as in \"10.231.0.0/16\"",
            ));
        }
        if address.is_loopback() || address.is_multicast() || address.is_unspecified() {
            return Err(InvalidSubnet(
                "must not be a loopback, multicast or unspecified range",
            ));
        }
        Ok(subnet)
    }
}

stored_as_text!(Ipv4Subnet);

impl fmt::Display for Ipv4Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.network), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_reads_back_as_itself_and_knows_its_addresses() {
        let subnet: Ipv4Subnet = "10.231.8.0/29".parse().unwrap();
        assert_eq!(subnet.to_string(), "10.231.8.0/29");
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 231, 8, 1));
        assert_eq!(subnet.broadcast(), Ipv4Addr::new(10, 231, 8, 7));
        let all: Vec<_> = subnet
            .container_addresses()
            .map(|a| a.octets()[3])
            .collect();
        assert_eq!(all, [2, 3, 4, 5, 6]);
        for last in 0..=8 {
            let address = Ipv4Addr::new(10, 231, 8, last);
            assert_eq!(
                subnet.is_container_address(address),
                all.contains(&last),
                "{address}"
            );
            assert_eq!(subnet.contains(address), last < 8, "{address}");
        }
        assert!(!subnet.contains(Ipv4Addr::new(10, 231, 7, 255)));
    }

    #[test]
    fn a_text_that_is_no_usable_subnet_is_refused() {
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/7",
            "10.0.0.0/30",
            "10.0.0.1/24",
            "127.0.0.0/8",
            "224.0.0.0/8",
            "::/64",
        ] {
            assert!(bad.parse::<Ipv4Subnet>().is_err(), "{bad}");
        }
    }
}
