//! Rules about who may talk to whom, of the same data as [`state::reach`], in nft's words.
//!
//! They are in the chain `forward` and stand over each packet, not over the first of a connection
//! alone: a talk that is not allowed any more ends, whoever began it, and so does one that began
//! while another program had flushed all rules. Answers are judged by the way of the question, which
//! the kernel knows (`ct direction`), so that each rule is there twice, once with both ends changed.
//!
//! Containers are found by their address in a map, so that a packet meets the rules of its own two
//! ends alone. A group is a set, and so is a list of ports: of sets without a name the kernel looks
//! through all for each new one. Containers with equal sections share their rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write as _};
use std::net::Ipv4Addr;

use state::id::ContainerName;
use state::reach::{NAME_SERVICE, NodeReach};
use state::spec::Protocol;
use state::spec::network::{AllowEntry, AllowedPeer, GroupName, Network};

use super::side::Side;

/// Containers with a network section of their own, by address.
pub(in crate::network::bridge) type RuledContainers = BTreeMap<Ipv4Addr, (ContainerName, Network)>;

/// Rules of the table about who talks to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::network::bridge) struct GroupRules {
    pub(in crate::network::bridge) ruled: RuledContainers,
    /// Name servers that containers are told of, if it matters.
    pub(in crate::network::bridge) name_servers: BTreeSet<Ipv4Addr>,
    /// Whether containers are closed to each other whatever is configured: what an earlier agent
    /// had put in force is not known.
    pub(in crate::network::bridge) is_closed: bool,
}

/// Parts of the table that groups make.
#[derive(Debug, Default)]
pub(super) struct GroupText {
    /// Sets, maps and chains.
    pub(super) definitions: String,
    /// Rule of the chain `forward`.
    pub(super) forward: String,
    /// Rule of the chain `input`, before all others.
    pub(super) input: String,
}

/// Words for the two ends of a talk in its packets.
#[derive(Clone, Copy)]
struct Words {
    caller: &'static str,
    receiver: &'static str,
    port: &'static str,
    suffix: &'static str,
}

const THERE: Words = Words {
    caller: "saddr",
    receiver: "daddr",
    port: "dport",
    suffix: "",
};
const BACK: Words = Words {
    caller: "daddr",
    receiver: "saddr",
    port: "sport",
    suffix: "-back",
};

/// Text for these containers; nothing for none.
pub(super) fn text(
    bridge: &str,
    side: Side,
    node: &NodeReach,
    ruled: &RuledContainers,
) -> GroupText {
    if ruled.is_empty() {
        return GroupText::default();
    }
    let writer = RuleText::new(bridge, side, node, ruled);
    let leaves = ruled.values().any(|(_, network)| network.egress.is_some());
    GroupText {
        definitions: writer.sets() + &writer.chains(),
        forward: "    jump groups\n".to_owned(),
        input: if leaves {
            format!("    iifname \"{bridge}\" jump groups-host\n")
        } else {
            String::new()
        },
    }
}

struct RuleText<'a> {
    bridge: &'a str,
    side: Side,
    node: &'a NodeReach,
    ruled: &'a RuledContainers,
    /// Sections that differ; their places name their chains.
    sections: Vec<&'a Network>,
    /// Lists of several ports that differ; their places name their sets.
    ports: Vec<&'a BTreeSet<(Protocol, u16)>>,
}

impl<'a> RuleText<'a> {
    fn new(bridge: &'a str, side: Side, node: &'a NodeReach, ruled: &'a RuledContainers) -> Self {
        let sections: BTreeSet<_> = ruled.values().map(|(_, network)| network).collect();
        let entries = sections.iter().flat_map(|one| one.entries());
        let several = entries.filter(|entry| entry.ports.len() > 1);
        let ports: BTreeSet<_> = several.map(|entry| &entry.ports).collect();
        Self {
            bridge,
            side,
            node,
            ruled,
            ports: ports.into_iter().collect(),
            sections: sections.into_iter().collect(),
        }
    }

    /// Whether the section says who reaches its container; else the node does.
    fn receives(network: &Network) -> bool {
        network.ingress.is_some() || !network.groups.is_empty()
    }

    fn sets(&self) -> String {
        let mut text = String::new();
        let kind = self.side.kind();
        let named: BTreeSet<&GroupName> =
            self.sections.iter().flat_map(|one| one.named()).collect();
        for group in named {
            let members = self.elements(
                |network| network.groups.contains(group),
                |_, _| String::new(),
            );
            text += &set(&format!("set group-{group}"), kind, &members);
        }
        for (index, ports) in self.ports.iter().enumerate() {
            let ports = ports.iter();
            let ports = ports.map(|(protocol, port)| format!("{} . {port}", protocol.as_str()));
            let ports: Vec<_> = ports.collect();
            let pair = "inet_proto . inet_service";
            text += &set(&format!("set ports-{index}"), pair, &ports);
        }
        // Containers are told of no IPv6 name server.
        let servers = self.node.name_servers.iter();
        let servers = servers.filter(|_| !self.side.is_ipv6());
        let servers = servers.map(ToString::to_string);
        text += &set("set name-servers", kind, &servers.collect::<Vec<_>>());
        text += &set(
            "set ruled",
            kind,
            &self.elements(|_| true, |_, _| String::new()),
        );
        let themselves = self.ruled.keys();
        let themselves = themselves.filter_map(|address| self.side.address(*address));
        let themselves: Vec<_> = themselves
            .map(|address| format!("{address} . {address}"))
            .collect();
        text += &set("set themselves", &format!("{kind} . {kind}"), &themselves);
        for Words { suffix, .. } in [THERE, BACK] {
            let callers = self.elements(
                |network| network.egress.is_some(),
                |index, _| format!(" : jump out-{index}{suffix}"),
            );
            text += &set(
                &format!("map callers{suffix}"),
                &format!("{kind} : verdict"),
                &callers,
            );
            let receivers = self.elements(Self::receives, |index, _| {
                format!(" : goto in-{index}{suffix}")
            });
            text += &set(
                &format!("map receivers{suffix}"),
                &format!("{kind} : verdict"),
                &receivers,
            );
        }
        text
    }

    /// Elements for the containers whose section is such, with their names, and what `verdict`
    /// makes of the place of the section.
    fn elements(
        &self,
        is_such: impl Fn(&Network) -> bool,
        verdict: impl Fn(usize, &Network) -> String,
    ) -> Vec<String> {
        let such = self
            .ruled
            .iter()
            .filter(|(_, (_, network))| is_such(network));
        let elements = such.filter_map(|(address, (name, network))| {
            let index = self.sections.binary_search(&network).unwrap_or_default();
            let address = self.side.address(*address)?;
            Some(format!(
                "{address} comment \"{name}\"{}",
                verdict(index, network)
            ))
        });
        elements.collect()
    }

    fn chains(&self) -> String {
        let mut text = String::new();
        let side = self.side;
        let rejected = format!("reject with {} type admin-prohibited", side.icmp());
        let refuse = ["meta l4proto tcp reject with tcp reset", &rejected];
        chain(&mut text, "refuse", refuse);
        for words in [THERE, BACK] {
            for (index, network) in self.sections.iter().enumerate() {
                if let Some(egress) = &network.egress {
                    let rules = self.leaving(network, egress, words);
                    chain(&mut text, &format!("out-{index}{}", words.suffix), rules);
                }
                if Self::receives(network) {
                    let rules = self.coming(network, words);
                    chain(&mut text, &format!("in-{index}{}", words.suffix), rules);
                }
            }
            let suffix = words.suffix;
            let receiver = self.receiver(words);
            chain(&mut text, &format!("groups-receiver{suffix}"), receiver);
            chain(&mut text, &format!("groups-way{suffix}"), way(side, words));
        }
        let Self { bridge, node, .. } = self;
        let ip = side.word();
        chain(&mut text, "groups-host", host(side, THERE));
        let lost = ["saddr", "daddr"].map(|end| format!("{ip} {end} @ruled drop"));
        let closed = format!("iifname \"{bridge}\" oifname \"{bridge}\" drop");
        let closed = (!node.open).then_some(closed);
        chain(&mut text, "groups-lost", lost.into_iter().chain(closed));
        chain(
            &mut text,
            "groups",
            [
                format!("iifname != \"{bridge}\" oifname != \"{bridge}\" return"),
                // Who is outside has no container's address.
                format!("iifname != \"{bridge}\" {ip} saddr {} drop", side.subnet()),
                related(side),
                "ct direction original jump groups-way".to_owned(),
                "ct direction reply jump groups-way-back".to_owned(),
                "ct state invalid,untracked jump groups-lost".to_owned(),
            ],
        );
        text
    }

    /// Rules of one way about the receiver's end.
    fn receiver(&self, words: Words) -> Vec<String> {
        let Words {
            receiver, suffix, ..
        } = words;
        let ip = self.side.word();
        let mut rules = vec![format!("{ip} {receiver} vmap @receivers{suffix}")];
        if !self.node.open {
            let bridge = self.bridge;
            rules.push(format!(
                "iifname \"{bridge}\" oifname \"{bridge}\" ct status ! dnat goto refuse"
            ));
        }
        rules
    }

    fn leaving(&self, network: &Network, egress: &[AllowEntry], words: Words) -> Vec<String> {
        let Words { receiver, port, .. } = words;
        let mut rules = Vec::new();
        self.peers(network, egress, receiver, port, &mut rules);
        rules
    }

    fn coming(&self, network: &Network, words: Words) -> Vec<String> {
        let Words { caller, port, .. } = words;
        let mut rules = Vec::new();
        if network.ingress.is_none() {
            rules.push("ct status dnat return".to_owned());
        }
        let ingress = network.ingress.as_deref().unwrap_or_default();
        self.peers(network, ingress, caller, port, &mut rules);
        rules
    }

    /// Rules for the other end, which is at `peer` in a packet: its groups, entries, and refusal.
    fn peers(
        &self,
        network: &Network,
        entries: &[AllowEntry],
        peer: &str,
        port: &str,
        rules: &mut Vec<String>,
    ) {
        let (own, ip) = (network.groups.iter(), self.side.word());
        rules.extend(own.map(|group| format!("{ip} {peer} @group-{group} return")));
        let mut ranges = Vec::new();
        for entry in entries {
            let (list, from): (&mut Vec<String>, &dyn Display) = match &entry.peer {
                AllowedPeer::Group(group) => (rules, &format!("@group-{group}")),
                // Ranges are of IPv4: what is not allowed by a group is refused over IPv6.
                AllowedPeer::Cidr(_) if self.side.is_ipv6() => continue,
                AllowedPeer::Cidr(range) => (&mut ranges, range),
            };
            let ports = self.ports(entry, port);
            list.push(format!("{ip} {peer} {from}{ports} return"));
        }
        if !ranges.is_empty() {
            let (subnet, gateway) = (self.side.subnet(), self.side.gateway());
            rules.push(format!(
                "{ip} {peer} {subnet} {ip} {peer} != {gateway} goto refuse"
            ));
            rules.extend(ranges);
        }
        rules.push("goto refuse".to_owned());
    }

    /// Words for the ports of an entry; of one without, none.
    fn ports(&self, entry: &AllowEntry, word: &str) -> String {
        let mut ports = entry.ports.iter();
        match (ports.next(), ports.next()) {
            (None, _) => String::new(),
            (Some((protocol, port)), None) => format!(" {} {word} {port}", protocol.as_str()),
            (Some(_), Some(_)) => {
                let index = self.ports.binary_search(&&entry.ports).unwrap_or_default();
                format!(" meta l4proto . th {word} @ports-{index}")
            }
        }
    }
}

/// Rules of one way: the caller's end first, then the receiver's. Name servers that the caller was
/// told of are no matter of its own end, wherever a rule (a published port, another program's) leads
/// on what it asks them.
fn way(side: Side, words: Words) -> [String; 4] {
    let ip = side.word();
    let Words {
        caller,
        receiver,
        suffix,
        ..
    } = words;
    [
        format!("{ip} {caller} . {ip} {receiver} @themselves return"),
        format!(
            "meta l4proto {{ tcp, udp }} ct original {ip} daddr @name-servers ct original proto-dst \
             {NAME_SERVICE} goto groups-receiver{suffix}"
        ),
        format!("{ip} {caller} vmap @callers{suffix}"),
        format!("goto groups-receiver{suffix}"),
    ]
}

/// Rules for the host's own services, which are the node's matter beside: answers, name servers, and
/// what the caller's end lets out.
fn host(side: Side, words: Words) -> [String; 5] {
    let Words { caller, port, .. } = words;
    let asks = "meta l4proto { tcp, udp }";
    [
        "ct direction reply return".to_owned(),
        related(side),
        format!("{asks} th {port} {NAME_SERVICE} return"),
        // Other programs lead name servers' port elsewhere.
        format!("{asks} ct original proto-dst {NAME_SERVICE} return"),
        format!("{} {caller} vmap @callers", side.word()),
    ]
}

/// Rule that lets messages about a talk pass.
fn related(side: Side) -> String {
    let protocol = side.icmp_protocol();
    format!("ct state related meta l4proto {protocol} return")
}

fn set(name: &str, kind: &str, elements: &[String]) -> String {
    let elements = if elements.is_empty() {
        String::new()
    } else {
        format!("    elements = {{ {} }}\n", elements.join(", "))
    };
    format!("  {name} {{\n    type {kind}\n{elements}  }}\n")
}

fn chain(text: &mut String, name: &str, rules: impl IntoIterator<Item: Display>) {
    let rules: String = rules
        .into_iter()
        .map(|rule| format!("    {rule}\n"))
        .collect();
    writeln!(text, "  chain {name} {{\n{rules}  }}").expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests;
