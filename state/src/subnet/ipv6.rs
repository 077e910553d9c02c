//! The IPv6 subnet of the containers, beside the IPv4 one: a container's address in it follows from
//! the one in the other, so that one ledger is enough for both.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::{InvalidSubnet, Ipv4Subnet};

/// Prefixes of a subnet: from a whole site's to one with as many addresses as an IPv4 /16.
const PREFIXES: RangeInclusive<u8> = 48..=112;

/// An IPv6 subnet in CIDR notation (RFC 4291), as in `fd12:3456:789a::/64`: a unique local (RFC 4193)
/// or a global one, with a prefix from 48 to 112.
///
/// The first address is the gateway's. A container has the address that is as far from the subnet's
/// beginning as its IPv4 address is from that of the IPv4 subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ipv6Subnet {
    network: u128,
    prefix: u8,
}

impl Ipv6Subnet {
    /// The number of bits in the network part, 48 to 112.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// The subnet's own address, with all bits beyond its prefix unset.
    #[must_use]
    pub const fn network(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.network)
    }

    /// The gateway, which is the host's own address in the subnet: the first.
    #[must_use]
    pub const fn gateway(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.network + 1)
    }

    /// Whether it is one of the subnet's addresses, the gateway's among them.
    #[must_use]
    pub const fn contains(self, address: Ipv6Addr) -> bool {
        address.to_bits() & self.mask() == self.network
    }

    /// Whether its addresses are known to this site alone (RFC 4193), and packets to the outside need
    /// another source.
    #[must_use]
    pub const fn is_unique_local(self) -> bool {
        self.network().is_unique_local()
    }

    /// Whether it has an address for each one of this IPv4 subnet.
    #[must_use]
    pub const fn is_as_large_as(self, subnet: Ipv4Subnet) -> bool {
        128 - self.prefix >= 32 - subnet.prefix()
    }

    /// The address of the container that has `address` in the IPv4 subnet. `None`: that is none of its
    /// containers'.
    #[must_use]
    pub fn of(self, subnet: Ipv4Subnet, address: Ipv4Addr) -> Option<Ipv6Addr> {
        let fits = subnet.is_container_address(address) && self.is_as_large_as(subnet);
        // The gateway is the first of either.
        let distance = address.to_bits() - subnet.gateway().to_bits().min(address.to_bits());
        let bits = self.gateway().to_bits() + u128::from(distance);
        fits.then(|| Ipv6Addr::from_bits(bits))
    }

    const fn mask(self) -> u128 {
        u128::MAX << (128 - self.prefix)
    }
}

impl FromStr for Ipv6Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        const WRONG: InvalidSubnet = InvalidSubnet(
            "must be an IPv6 subnet such as \"fd12:3456:789a::/64\", with a prefix of 48 to 112",
        );
        let (address, prefix) = text.split_once('/').ok_or(WRONG)?;
        let address: Ipv6Addr = address.parse().map_err(|_| WRONG)?;
        let prefix: u8 = prefix.parse().map_err(|_| WRONG)?;
        if !PREFIXES.contains(&prefix) {
            return Err(WRONG);
        }
        let subnet = Self {
            network: address.to_bits(),
            prefix,
        };
        if subnet.network & !subnet.mask() != 0 {
            return Err(InvalidSubnet(
                "has bits set beyond its prefix: \
                 write the subnet's first address, as in \"fd12:3456:789a::/64\"",
            ));
        }
        let is_global = address.segments()[0] >> 13 == 1;
        if !address.is_unique_local() && !is_global {
            return Err(InvalidSubnet(
                "must be of the unique local addresses (fd00::/8), or of the global ones (2000::/3) \
                 that are led to this host",
            ));
        }
        Ok(subnet)
    }
}

impl fmt::Display for Ipv6Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_as_far_from_the_beginning_as_in_the_other_subnet() {
        let subnet: Ipv6Subnet = "fd12:3456:789a::/64".parse().unwrap();
        let ipv4: Ipv4Subnet = "10.231.8.0/22".parse().unwrap();
        assert_eq!(subnet.to_string(), "fd12:3456:789a::/64");
        assert_eq!(subnet.gateway().to_string(), "fd12:3456:789a::1");
        for (address, expected) in [
            ([10, 231, 8, 2], Some("fd12:3456:789a::2")),
            ([10, 231, 11, 254], Some("fd12:3456:789a::3fe")),
            ([10, 231, 8, 1], None),
            ([10, 231, 8, 0], None),
            ([10, 231, 11, 255], None),
            ([10, 231, 12, 2], None),
            ([10, 230, 0, 2], None),
        ] {
            let of = subnet.of(ipv4, address.into());
            assert_eq!(
                of.map(|of| of.to_string()).as_deref(),
                expected,
                "{address:?}"
            );
            assert!(of.is_none_or(|of| subnet.contains(of)));
        }
        let small: Ipv6Subnet = "2001:db8::/112".parse().unwrap();
        assert!(small.is_as_large_as("10.231.0.0/16".parse().unwrap()));
        assert!(!small.is_as_large_as("10.0.0.0/8".parse().unwrap()));
        assert!(subnet.is_unique_local() && !small.is_unique_local());
        assert!(!small.contains("2001:db8::1:0".parse().unwrap()));
    }

    #[test]
    fn a_text_that_is_no_usable_subnet_is_refused() {
        for bad in [
            "",
            "fd12::",
            "fd12::/",
            "fd12::/47",
            "fd12::/113",
            "fd12::1/64",
            "fe80::/64",
            "ff02::/64",
            "::/64",
            "::ffff:0:0/96",
            "10.231.0.0/16",
        ] {
            assert!(bad.parse::<Ipv6Subnet>().is_err(), "{bad}");
        }
    }
}
