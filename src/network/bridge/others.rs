//! Meaning of other programs' rules for the agent: host ports that they publish, and chains that
//! drop the packets of the bridge. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use state::desired::PortBinding;
use state::spec::Protocol;
use state::subnet::Ipv4Subnet;

use super::firewall::rules::{AddressRange, ChainName, Hook, PortMatch, Rule, RuleSet};

/// Most rules that are looked at to see where chains lead; more are a loop, or many times what
/// hosts have.
const RULES_MAX: usize = 200_000;

/// Deepest call of a chain by another, as the kernel has it (`NFT_JUMP_STACK_SIZE`).
const DEPTH_MAX: usize = 16;

/// Host ports that a rule of another program publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RuledPort {
    /// Chain of the rule.
    pub(super) by: ChainName,
    ports: PortMatch,
}

/// Host ports that rules of others publish: ports for which they give packets another destination.
pub(super) fn published(set: &RuleSet) -> Vec<RuledPort> {
    let mut chains: BTreeMap<&ChainName, Vec<&Rule>> = BTreeMap::new();
    for rule in &set.rules {
        chains.entry(&rule.chain).or_default().push(rule);
    }
    let mut walk = Walk {
        chains,
        rules_left: RULES_MAX,
        found: Vec::new(),
    };
    let bases = set.base_chains.iter();
    for base in bases.filter(|base| base.hook == Hook::Destination) {
        walk.follow(&base.name, &[], None, DEPTH_MAX);
    }
    walk.found
}

struct Walk<'a> {
    chains: BTreeMap<&'a ChainName, Vec<&'a Rule>>,
    rules_left: usize,
    found: Vec<RuledPort>,
}

impl Walk<'_> {
    /// Follows the rules of a chain that packets for `ports` and `to` come to.
    fn follow(
        &mut self,
        chain: &ChainName,
        ports: &[PortMatch],
        to: Option<AddressRange>,
        depth: usize,
    ) {
        let Some(rules) = self.chains.get(chain).cloned() else {
            return;
        };
        for rule in rules {
            let Some(left) = self.rules_left.checked_sub(1) else {
                return;
            };
            self.rules_left = left;
            let ports = if rule.ports.is_empty() {
                ports
            } else {
                &rule.ports
            };
            let to = rule.to.or(to);
            let whole = if rule.redirects && ports.is_empty() {
                every_port_of(rule, to)
            } else {
                None
            };
            let ports = whole.as_ref().map_or(ports, std::slice::from_ref);
            if rule.redirects {
                let fits = |ports: &&PortMatch| {
                    let both = rule.protocol.zip(ports.protocol);
                    both.is_none_or(|(of_rule, of_ports)| of_rule == of_ports)
                };
                let found = ports.iter().filter(fits).map(|ports| RuledPort {
                    by: rule.chain.clone(),
                    ports: PortMatch {
                        to: ports.to.or(to),
                        ..ports.clone()
                    },
                });
                self.found.extend(found);
            }
            for jump in rule.jumps.iter().filter(|_| depth > 0) {
                let next = ChainName {
                    chain: jump.clone(),
                    ..rule.chain.clone()
                };
                self.follow(&next, ports, to, depth - 1);
            }
        }
    }
}

/// All ports of the address `to`, if a rule without ports gives all its packets another
/// destination. A rule that asks for a source as well takes only some.
fn every_port_of(rule: &Rule, to: Option<AddressRange>) -> Option<PortMatch> {
    to?.address().filter(|address| !address.is_loopback())?;
    let asks_only = rule.addresses.iter().all(|range| Some(*range) == rule.to);
    asks_only.then_some(PortMatch {
        protocol: rule.protocol,
        ports: 0..=u16::MAX,
        to,
    })
}

impl RuledPort {
    /// Whether the rule takes packets that a binding would take. `is_local` tells the addresses of
    /// this host: packets for others are none of the agent's.
    ///
    /// Of a rule for IPv6 packets no address is known: it counts as one for all.
    pub(super) fn takes(&self, binding: &PortBinding, is_local: impl Fn(IpAddr) -> bool) -> bool {
        let protocol = match binding.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        };
        let named = |address: &IpAddr| !address.is_unspecified() || address.is_ipv6();
        let host_ip = binding.host_ip.filter(named);
        // The kernel is asked for an address only where all else fits.
        let address_fits = || match (self.ports.to, host_ip) {
            (None, _) | (Some(_), Some(IpAddr::V6(_))) => true,
            (Some(range), Some(IpAddr::V4(address))) => range.contains(address),
            (Some(range), None) => {
                let address = range.address().map(IpAddr::from);
                address.is_none_or(&is_local)
            }
        };
        let is_ipv6 = binding.host_ip.is_some_and(|address| address.is_ipv6());
        let family_fits = match self.by.family {
            "inet" => !(is_ipv6 && self.ports.to.is_some()),
            "ip6" => is_ipv6,
            _ => !is_ipv6,
        };
        self.ports.protocol.is_none_or(|own| own == protocol)
            && self.ports.ports.contains(&binding.host)
            && family_fits
            && address_fits()
    }
}

impl AddressRange {
    fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask == self.network & self.mask
    }

    /// The address, if it is one alone.
    fn address(self) -> Option<Ipv4Addr> {
        (self.mask == u32::MAX).then(|| Ipv4Addr::from_bits(self.network))
    }
}

/// Chains of others that drop forwarded packets of the bridge: by their policy or by a rule for
/// everything, while no rule of their table names the bridge or its subnet.
///
/// A rule for packets that were given another destination opens published ports only, and leaves
/// what containers connect to closed. Where the agent put its rules by `iptables`, they name the
/// bridge.
pub(super) fn closed_chains(set: &RuleSet, bridge: &str, subnet: Ipv4Subnet) -> Vec<ChainName> {
    let rules_beside = |chain: &ChainName| {
        let (family, table) = (chain.family, chain.table.clone());
        set.rules
            .iter()
            .filter(move |rule| (rule.chain.family, &rule.chain.table) == (family, &table))
    };
    let names_bridge = |rule: &Rule| {
        let is_bridge = |name: &String| {
            let wildcard = name
                .strip_suffix('*')
                .is_some_and(|stem| bridge.starts_with(stem));
            name == bridge || wildcard
        };
        let of_subnet = |range: &AddressRange| range.contains(subnet.gateway());
        rule.interfaces.iter().any(is_bridge) || rule.addresses.iter().any(of_subnet)
    };
    let is_closed = |base: &super::firewall::rules::BaseChain| {
        let stops = |rule: &Rule| rule.chain == base.name && rule.stops_all;
        (base.drops || rules_beside(&base.name).any(stops))
            && !rules_beside(&base.name).any(names_bridge)
    };
    set.base_chains
        .iter()
        .filter(|base| base.hook == Hook::Forward)
        .filter(|base| is_closed(base))
        .map(|base| base.name.clone())
        .collect()
}

#[cfg(test)]
mod tests;
