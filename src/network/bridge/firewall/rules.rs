//! Chains and rules of the host's firewall, as far as the agent understands them.

use std::ops::RangeInclusive;

/// Rules of the host, of every program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::network::bridge) struct RuleSet {
    /// Chains that the kernel itself sends packets through.
    pub(in crate::network::bridge) base_chains: Vec<BaseChain>,
    pub(in crate::network::bridge) rules: Vec<Rule>,
}

/// Chain of a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::network::bridge) struct ChainName {
    /// `ip`, `ip6` or `inet`; `legacy` for a table of `iptables-legacy`.
    pub(in crate::network::bridge) family: &'static str,
    pub(in crate::network::bridge) table: String,
    pub(in crate::network::bridge) chain: String,
}

impl std::fmt::Display for ChainName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "table {} {}, chain {}",
            self.family, self.table, self.chain
        )
    }
}

/// Chain that the kernel sends packets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::network::bridge) struct BaseChain {
    pub(in crate::network::bridge) name: ChainName,
    pub(in crate::network::bridge) hook: Hook,
    /// Whether packets that no rule accepts are dropped.
    pub(in crate::network::bridge) drops: bool,
}

/// Place of a base chain that the agent looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::network::bridge) enum Hook {
    /// Destinations of packets are changed: on their way in, and of the host's own.
    Destination,
    /// Packets of others are passed on.
    Forward,
}

/// Rule, as far as the agent understands it. A condition that is not understood makes the rule
/// narrower than it is taken for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::network::bridge) struct Rule {
    pub(in crate::network::bridge) chain: ChainName,
    /// Protocol that the rule names, by its number in IPv4's header.
    pub(in crate::network::bridge) protocol: Option<u8>,
    /// Destination ports that the rule names. Empty: it names none.
    pub(in crate::network::bridge) ports: Vec<PortMatch>,
    /// Destination address that the rule names.
    pub(in crate::network::bridge) to: Option<AddressRange>,
    /// Whether the rule gives packets another destination.
    pub(in crate::network::bridge) redirects: bool,
    /// Whether the rule drops every packet that comes to it.
    pub(in crate::network::bridge) stops_all: bool,
    /// Chains that the rule leads to.
    pub(in crate::network::bridge) jumps: Vec<String>,
    /// Names of interfaces that the rule names.
    pub(in crate::network::bridge) interfaces: Vec<String>,
    /// Addresses that the rule names, as source or destination.
    pub(in crate::network::bridge) addresses: Vec<AddressRange>,
}

/// Destination ports that a rule names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::network::bridge) struct PortMatch {
    /// Protocol of the ports. `None`: any.
    pub(in crate::network::bridge) protocol: Option<u8>,
    pub(in crate::network::bridge) ports: RangeInclusive<u16>,
    /// Destination address that goes with the port.
    pub(in crate::network::bridge) to: Option<AddressRange>,
}

/// Addresses that a rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::network::bridge) struct AddressRange {
    pub(in crate::network::bridge) network: u32,
    pub(in crate::network::bridge) mask: u32,
}

impl AddressRange {
    /// Range of an address in a packet's order of bytes; bytes that are missing are zeros.
    pub(super) fn read(value: &[u8], mask: u32) -> Option<Self> {
        let mut bytes = [0; 4];
        let given = value.len().min(4);
        bytes.get_mut(..given)?.copy_from_slice(&value[..given]);
        Some(Self {
            network: u32::from_be_bytes(bytes) & mask,
            mask,
        })
    }
}

impl Rule {
    pub(in crate::network::bridge) fn new(chain: ChainName) -> Self {
        Self {
            chain,
            protocol: None,
            ports: Vec::new(),
            to: None,
            redirects: false,
            stops_all: false,
            jumps: Vec::new(),
            interfaces: Vec::new(),
            addresses: Vec::new(),
        }
    }
}
