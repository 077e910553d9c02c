//! The rules' text, run as the kernel would, against [`NodeReach::may`].

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use proptest::prelude::*;
use serde_json::json;
use state::reach::{End, Talk};
use state::spec::parse;

use super::*;

const BRIDGE: &str = "chas0";

/// Packet of a talk as the chain `forward` meets it.
#[derive(Clone, Copy, Debug)]
struct Packet {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    /// Source and destination port.
    ports: Option<(Protocol, [u16; 2])>,
    /// Address and port that were called first, if a rule led on.
    called: Option<SocketAddrV4>,
    is_reply: bool,
    /// Whether it came from the bridge, and leaves by it.
    on_bridge: [bool; 2],
}

impl Packet {
    /// Address and port that the talk's first packet was sent to.
    fn original(&self) -> SocketAddrV4 {
        let ports = self.ports.map(|(_, ports)| ports).unwrap_or_default();
        let (receiver, port) = if self.is_reply {
            (self.source, ports[0])
        } else {
            (self.destination, ports[1])
        };
        self.called.unwrap_or(SocketAddrV4::new(receiver, port))
    }
}

/// The text, cut into its chains and sets.
struct Kernel {
    chains: BTreeMap<String, Vec<String>>,
    elements: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Refused,
    GoesOn,
}

impl Kernel {
    fn new(text: &str) -> Self {
        let (mut chains, mut elements) = (BTreeMap::new(), BTreeMap::new());
        let mut name = String::new();
        for line in text.lines() {
            if let Some(rule) = line.strip_prefix("    ") {
                if let Some(list) = rule.strip_prefix("elements = { ") {
                    let list = list.strip_suffix(" }").unwrap().split(", ");
                    elements.insert(name.clone(), list.map(str::to_owned).collect());
                } else if !rule.starts_with("type ") {
                    let rules: &mut Vec<String> = chains.entry(name.clone()).or_default();
                    rules.push(rule.to_owned());
                }
            } else if line != "  }" {
                let mut words = line.split_whitespace();
                let kind = words.next().unwrap();
                name = words.next().unwrap().to_owned();
                let (chain, set) = (kind == "chain", ["set", "map"].contains(&kind));
                assert!(chain || set, "{line}");
                if chain {
                    chains.entry(name.clone()).or_default();
                } else {
                    elements.entry(name.clone()).or_default();
                }
            }
        }
        Self { chains, elements }
    }

    /// The element for a key, without its comment.
    fn element(&self, set: &str, key: &str) -> Option<String> {
        let set = &self.elements[set.strip_prefix('@').unwrap()];
        let found = set.iter().find(|element| {
            let rest = element.strip_prefix(key);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" comment "))
        });
        found.map(|element| element.split(" : ").nth(1).unwrap_or_default().to_owned())
    }

    fn run(&self, chain: &str, packet: &Packet) -> Verdict {
        for rule in &self.chains[chain] {
            let mut words: Vec<&str> = rule.split_whitespace().collect();
            let Some(action) = self.matches(&mut words, packet) else {
                continue;
            };
            let words: Vec<&str> = action.split_whitespace().collect();
            match words[..] {
                ["return"] => return Verdict::GoesOn,
                ["drop"] | ["reject", ..] => return Verdict::Refused,
                ["goto", target] => return self.run(target, packet),
                ["jump", target] => {
                    if self.run(target, packet) == Verdict::Refused {
                        return Verdict::Refused;
                    }
                }
                _ => panic!("{rule}"),
            }
        }
        Verdict::GoesOn
    }

    /// The rule's action if its conditions hold.
    fn matches(&self, words: &mut Vec<&str>, packet: &Packet) -> Option<String> {
        let address = |word: &str| match word {
            "saddr" => packet.source,
            "daddr" => packet.destination,
            _ => panic!("{word}"),
        };
        let port = |word: &str| {
            let place = usize::from(word == "dport");
            packet
                .ports
                .map(|(protocol, ports)| (protocol.as_str(), ports[place]))
        };
        loop {
            let (used, holds) = match words[..] {
                ["return" | "drop" | "reject" | "goto" | "jump", ..] => {
                    return Some(words.join(" "));
                }
                [side @ ("iifname" | "oifname"), "!=", name, ..] => {
                    assert_eq!(name, format!("\"{BRIDGE}\""));
                    (3, !packet.on_bridge[usize::from(side == "oifname")])
                }
                [side @ ("iifname" | "oifname"), _, ..] => {
                    (2, packet.on_bridge[usize::from(side == "oifname")])
                }
                ["ip", one, ".", "ip", other, set, ..] => {
                    let key = format!("{} . {}", address(one), address(other));
                    (6, self.element(set, &key).is_some())
                }
                ["ip", side, "vmap", map, ..] => {
                    return self.element(map, &address(side).to_string());
                }
                ["ip", side, "!=", other, ..] => (4, address(side).to_string() != other),
                ["ip", side, set, ..] if set.starts_with('@') => {
                    (3, self.element(set, &address(side).to_string()).is_some())
                }
                ["ip", side, range, ..] => {
                    let range: state::spec::network::AddressRange = range.parse().unwrap();
                    (3, range.contains(address(side)))
                }
                ["meta", "l4proto", "{", "tcp,", "udp", "}", ..] => (6, packet.ports.is_some()),
                ["meta", "l4proto", ".", "th", side, set, ..] => {
                    let key = port(side).map(|(protocol, port)| format!("{protocol} . {port}"));
                    (6, key.is_some_and(|key| self.element(set, &key).is_some()))
                }
                ["ct", "original", "ip", "daddr", set, ..] => {
                    let first = packet.original();
                    (5, self.element(set, &first.ip().to_string()).is_some())
                }
                ["ct", "original", "proto-dst", port, ..] => {
                    (4, packet.original().port().to_string() == port)
                }
                ["meta", "l4proto", protocol, ..] => {
                    let own = packet
                        .ports
                        .map_or("icmp", |(protocol, _)| protocol.as_str());
                    (3, own == protocol)
                }
                [protocol @ ("tcp" | "udp"), side, number, ..] => {
                    let own = port(side).filter(|(own, _)| *own == protocol);
                    (3, own.is_some_and(|(_, own)| own.to_string() == number))
                }
                ["ct", "status", "!", "dnat", ..] => (4, packet.called.is_none()),
                ["ct", "status", "dnat", ..] => (3, packet.called.is_some()),
                ["ct", "direction", way, ..] => (3, packet.is_reply == (way == "reply")),
                ["ct", "state", state, ..] => (3, {
                    assert!(["related", "invalid,untracked"].contains(&state));
                    false
                }),
                _ => panic!("{words:?}"),
            };
            if !holds {
                return None;
            }
            words.drain(..used);
        }
    }
}

fn port() -> impl Strategy<Value = Option<(Protocol, u16)>> {
    let some = (
        prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]),
        prop::sample::select(vec![53, 80, 443]),
    );
    prop::option::weighted(0.8, some)
}

/// Address and port that a rule leads on from: a name server's, or another's.
fn called() -> impl Strategy<Value = SocketAddrV4> {
    let addresses = [[198, 51, 100, 53], [198, 51, 100, 7], [10, 231, 0, 1]];
    let address = prop::sample::select(addresses.map(Ipv4Addr::from).to_vec());
    (address, prop::sample::select(vec![53, 8080]))
        .prop_map(|(address, port)| SocketAddrV4::new(address, port))
}

fn entries() -> impl Strategy<Value = Option<serde_json::Value>> {
    let groups = ["a", "b", "c", "nobody"].map(|group| json!({"group": group}));
    let ranges = [
        "0.0.0.0/0",
        "198.51.100.0/24",
        "10.231.0.0/16",
        "10.231.0.1/32",
    ];
    let ranges = ranges.map(|range| json!({"cidr": range}));
    let peer = prop::sample::select([&groups[..], &ranges[..]].concat());
    let ports = prop::sample::select(vec![
        json!(null),
        json!(["tcp/80"]),
        json!(["tcp/80", "tcp/443"]),
        json!(["udp/53", "tcp/80"]),
    ]);
    let entry = (peer, ports).prop_map(|(mut entry, ports)| {
        entry["ports"] = ports;
        entry
    });
    let list = prop::collection::vec(entry, 0..3);
    prop::option::weighted(0.4, list.prop_map(Into::into))
}

fn section() -> impl Strategy<Value = Network> {
    let groups = prop::sample::subsequence(vec!["a", "b", "c"], 0..=2);
    (groups, entries(), entries()).prop_map(|(groups, ingress, egress)| {
        let body = json!({"name": "x", "image": "x", "network": {
            "groups": groups, "allow": {"ingress": ingress, "egress": egress},
        }});
        parse::deploy(&body).unwrap().spec.network
    })
}

fn node(open: bool) -> NodeReach {
    NodeReach {
        subnet: "10.231.0.0/16".parse().unwrap(),
        open,
        name_servers: [
            Ipv4Addr::new(198, 51, 100, 53),
            Ipv4Addr::new(203, 0, 113, 53),
        ]
        .into(),
    }
}

const CONTAINERS: u8 = 4;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn the_rules_say_what_the_function_says_of_the_question_and_of_the_answer(
        open: bool,
        sections in prop::collection::vec(section(), usize::from(CONTAINERS)),
        ends in prop::sample::subsequence((0..CONTAINERS + 4).collect::<Vec<_>>(), 2).prop_shuffle(),
        to_itself in prop::bool::weighted(0.1),
        published: bool,
        called in called(),
        port in port(),
    ) {
        let node = node(open);
        let outside = [[198, 51, 100, 7], [203, 0, 113, 9], [203, 0, 113, 53], [198, 51, 100, 53]];
        let end = |index: u8| match sections.get(usize::from(index)) {
            Some(network) => End {
                address: Ipv4Addr::new(10, 231, 0, 2 + index),
                network: Some(network),
            },
            None => End {
                address: outside[usize::from(index - CONTAINERS)].into(),
                network: None,
            },
        };
        let (from, to) = (end(ends[0]), end(ends[usize::from(!to_itself)]));
        let sent = from.network.is_some();
        prop_assume!(sent || to.network.is_some());
        // Nobody outside gets in but by a published port, nobody outside has one here, and without
        // one what is for itself stays inside.
        let published = to.network.is_some() && (published || !sent || to_itself);
        let called = published.then_some(called);
        let talk = Talk { port, called };

        let ruled = (0u8..).zip(&sections).filter(|(_, network)| **network != Network::default());
        let ruled: RuledContainers = ruled
            .map(|(index, network)| {
                let name = format!("c{index}").parse().unwrap();
                (end(index).address, (name, network.clone()))
            })
            .collect();
        prop_assume!(!ruled.is_empty());
        let text = text(BRIDGE, Side::Ipv4(node.subnet), &node, &ruled);
        prop_assert_eq!(&text.forward, "    jump groups\n");
        let kernel = Kernel::new(&text.definitions);
        let question = Packet {
            source: from.address,
            destination: to.address,
            ports: port.map(|(protocol, port)| (protocol, [40_000, port])),
            called,
            is_reply: false,
            on_bridge: [from, to].map(|end| end.network.is_some()),
        };
        let [there, here] = question.on_bridge;
        let answer = Packet {
            source: to.address,
            destination: from.address,
            ports: port.map(|(protocol, port)| (protocol, [port, 40_000])),
            is_reply: true,
            on_bridge: [here, there],
            ..question
        };
        let may = node.may(from, to, talk);
        for packet in [question, answer] {
            let passes = kernel.run("groups", &packet) == Verdict::GoesOn;
            prop_assert_eq!(passes, may, "{:?}\n{}", packet, text.definitions);
        }
    }
}

#[test]
fn no_section_is_no_rule_and_the_rules_grow_with_the_sections_alone() {
    let none = text(
        BRIDGE,
        Side::Ipv4(node(true).subnet),
        &node(true),
        &RuledContainers::new(),
    );
    assert_eq!(none.definitions + &none.forward + &none.input, "");
    let many = |count: u8| {
        let container = |last| {
            let body = json!({"name": "x", "image": "x", "network": {"groups": ["web"]}});
            let network = parse::deploy(&body).unwrap().spec.network;
            let name = format!("c{last}").parse().unwrap();
            (Ipv4Addr::new(10, 231, 0, last), (name, network))
        };
        let text = text(
            BRIDGE,
            Side::Ipv4(node(true).subnet),
            &node(true),
            &(2..2 + count).map(container).collect(),
        );
        (text.definitions.lines().count(), text.input)
    };
    assert_eq!(many(200), many(1));
}
