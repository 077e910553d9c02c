//! Families of addresses in nft's words, with the containers' subnet in each.

use std::net::Ipv4Addr;

use state::subnet::{Ipv4Subnet, Ipv6Subnet};

/// Half of the table.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Ipv4(
        /// Subnet of the containers.
        Ipv4Subnet,
    ),
    Ipv6(
        /// Subnet of the containers.
        Ipv6Subnet,
        /// The one from which their addresses in it follow.
        Ipv4Subnet,
    ),
}

impl Side {
    pub(super) const fn is_ipv6(self) -> bool {
        matches!(self, Self::Ipv6(..))
    }

    const fn choose(self, ipv4: &'static str, ipv6: &'static str) -> &'static str {
        match self {
            Self::Ipv4(_) => ipv4,
            Self::Ipv6(..) => ipv6,
        }
    }

    /// Word for the family, and for its header.
    pub(super) const fn word(self) -> &'static str {
        self.choose("ip", "ip6")
    }

    /// Type of an address.
    pub(super) const fn kind(self) -> &'static str {
        self.choose("ipv4_addr", "ipv6_addr")
    }

    /// Word for the header of its messages of control.
    pub(super) const fn icmp(self) -> &'static str {
        self.choose("icmp", "icmpv6")
    }

    /// Protocol of those messages.
    pub(super) const fn icmp_protocol(self) -> &'static str {
        self.choose("icmp", "ipv6-icmp")
    }

    pub(super) const fn loopback(self) -> &'static str {
        self.choose("127.0.0.0/8", "::1")
    }

    /// Link-local addresses, where clouds hand out the node's credentials, and where they do so else.
    pub(super) const fn link_local(self) -> &'static str {
        self.choose(
            "169.254.0.0/16",
            "{ fe80::/10, fd00:c1::a9fe:a9fe, fd00:ec2::254, fd20:ce::254 }",
        )
    }

    /// Condition of packets for a published port. To and from `::1` and addresses of a link alone the
    /// kernel leads none to a container: a caller who would wait in vain is refused at once.
    pub(super) const fn led(self) -> &'static str {
        self.choose("", "ip6 daddr != { ::1, fe80::/10 } ")
    }

    /// Whether the containers' addresses are not known outside.
    pub(super) const fn is_hidden(self) -> bool {
        match self {
            Self::Ipv4(_) => true,
            Self::Ipv6(subnet, _) => subnet.is_unique_local(),
        }
    }

    pub(super) fn subnet(self) -> String {
        match self {
            Self::Ipv4(subnet) => subnet.to_string(),
            Self::Ipv6(subnet, _) => subnet.to_string(),
        }
    }

    pub(super) fn gateway(self) -> String {
        match self {
            Self::Ipv4(subnet) => subnet.gateway().to_string(),
            Self::Ipv6(subnet, _) => subnet.gateway().to_string(),
        }
    }

    /// Address of the container that has this one of the IPv4 subnet. `None`: it has none.
    pub(super) fn address(self, address: Ipv4Addr) -> Option<String> {
        match self {
            Self::Ipv4(_) => Some(address.to_string()),
            Self::Ipv6(subnet, beside) => {
                let own = subnet.of(beside, address);
                own.map(|own| own.to_string())
            }
        }
    }
}
