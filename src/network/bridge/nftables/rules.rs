//! Rules against what containers could reach beside each other and the outside: services of the
//! host itself, and the link-local addresses of its surroundings.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use state::spec::Protocol;

use super::side::Side;

/// Reach of containers into the host and its surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerReach {
    /// Services of the host itself.
    pub host: HostReach,
    /// Whether containers reach each other, and see each other's names. Published ports are reached
    /// either way.
    pub neighbours: bool,
    /// Whether link-local addresses (169.254.0.0/16, fe80::/10) are reached, where clouds hand out the node's
    /// credentials.
    pub link_local: bool,
}

/// Services of the host that its containers reach, by any of its addresses. Published ports are
/// containers' and not among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostReach {
    /// Every one that listens on an address of the host or the bridge.
    Open,
    /// Services on these ports alone, with name servers on port 53 and echoes of ping.
    Only(
        /// Ports of the host.
        BTreeSet<(Protocol, u16)>,
    ),
}

impl From<Option<BTreeSet<(Protocol, u16)>>> for HostReach {
    /// Reach to these ports; without any, to every one.
    fn from(ports: Option<BTreeSet<(Protocol, u16)>>) -> Self {
        ports.map_or(Self::Open, Self::Only)
    }
}

/// Chain that decides what containers reach of the host; nothing if that is everything. What is not
/// reached is refused at once: a client that waits for a closed door would wait for minutes.
///
/// `first` are the rules before all that.
pub(super) fn input(bridge: &str, side: Side, reach: &HostReach, first: &str) -> String {
    const HOOK: &str = "  chain input {
    type filter hook input priority 0; policy accept;
";
    let HostReach::Only(ports) = reach else {
        return match first {
            "" => String::new(),
            first => format!("{HOOK}{first}  }}\n"),
        };
    };
    let mut allowed = String::new();
    let name_servers = [Protocol::Tcp, Protocol::Udp].map(|protocol| (protocol, 53));
    // The host's name server may be on any of its addresses: containers have the host's list.
    for (protocol, port) in name_servers.iter().chain(ports) {
        let protocol = protocol.as_str();
        // By the port that was asked for as well: other programs lead name servers' port elsewhere.
        for asked in [
            format!("{protocol} dport {port}"),
            format!("meta l4proto {protocol} ct original proto-dst {port}"),
        ] {
            writeln!(allowed, "    iifname \"{bridge}\" {asked} accept")
                .expect("writing to a string cannot fail");
        }
    }
    format!(
        "{HOOK}{first}    iifname \"{bridge}\" ct state established,related accept
{allowed}    iifname \"{bridge}\" {icmp} type echo-request accept
    iifname \"{bridge}\" meta l4proto tcp reject with tcp reset
    iifname \"{bridge}\" reject with {icmp} type admin-prohibited
  }}
",
        icmp = side.icmp(),
    )
}

/// Rule of the chain `input` against what containers would tell the host about neighbours and routes:
/// it knows theirs, and asks nobody.
pub(super) fn neighbour_discovery(bridge: &str, side: Side) -> String {
    const KINDS: &str = "nd-router-solicit, nd-router-advert, nd-neighbor-solicit, \
                         nd-neighbor-advert, nd-redirect";
    match side {
        Side::Ipv4(_) => String::new(),
        Side::Ipv6(..) => format!("    iifname \"{bridge}\" icmpv6 type {{ {KINDS} }} drop\n"),
    }
}

/// Rules of the chain `forward` against packets from one container to another; nothing where
/// they reach each other. Their links let packets to the bridge alone pass then, and the host stands
/// in for their neighbours (`proxy_arp_pvlan`), so that all such packets come here, with and without
/// `br_netfilter`. Ports that the bridge isolates would not do: with `br_netfilter` it forwards by
/// itself what goes to a published port of a neighbour.
///
/// A connection from before they were closed to each other ends as well, and so does what belongs to
/// none, which no rule about a connection's status would match.
pub(super) fn neighbours(bridge: &str, side: Side, are_reached: bool) -> String {
    if are_reached {
        return String::new();
    }
    let rejected = format!(
        "ct status ! dnat reject with {} type admin-prohibited",
        side.icmp()
    );
    let closed = [
        "ct state invalid,untracked drop",
        "ct status ! dnat meta l4proto tcp reject with tcp reset",
        &rejected,
    ];
    closed
        .map(|rest| format!("    iifname \"{bridge}\" oifname \"{bridge}\" {rest}\n"))
        .concat()
}

/// Rules of the chain `forward` against link-local addresses. Name servers on them answer: some
/// clouds have the only one there, beside the credentials. Containers answer whom they cannot ask:
/// callers of published ports may have such addresses.
pub(super) fn link_local(bridge: &str, side: Side, is_reached: bool) -> String {
    if is_reached {
        return String::new();
    }
    let (ip, range) = (side.word(), side.link_local());
    let rejected = format!("reject with {} type admin-prohibited", side.icmp());
    let rules = [
        "ct direction reply accept",
        "udp dport 53 accept",
        "tcp dport 53 accept",
        "meta l4proto tcp reject with tcp reset",
        &rejected,
    ];
    rules
        .map(|rest| format!("    iifname \"{bridge}\" {ip} daddr {range} {rest}\n"))
        .concat()
}
