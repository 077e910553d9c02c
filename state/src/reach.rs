//! Reach of containers on a node, who may talk to whom: one function over the specs. The kernel's
//! rules are made of the same data, and the names that a container sees follow from it.
//!
//! Both ends have to agree: the one that is called lets the caller in, and the caller may leave
//! towards it. A group is known within one node alone.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::spec::Protocol;
use crate::spec::network::{AllowEntry, AllowedPeer, Network};
use crate::subnet::Ipv4Subnet;

/// Port of a name server, which everybody reaches at the servers of the node.
pub const NAME_SERVICE: u16 = 53;

/// Facts about a node that decide beside the specs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReach {
    /// Range of the containers' addresses.
    pub subnet: Ipv4Subnet,
    /// Whether containers that say nothing about it are reached by their neighbours.
    pub open: bool,
    /// Name servers that containers are told of.
    pub name_servers: BTreeSet<Ipv4Addr>,
}

/// End of a talk.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Address of the end.
    pub address: Ipv4Addr,
    /// Network section of the container that has the address. `None`: it is no container of this
    /// node.
    pub network: Option<&'a Network>,
}

/// Talk as its receiver sees it: a packet to one of its ports, or of a protocol without ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Talk {
    /// Port of the receiver; behind a published port, that of the container.
    pub port: Option<(Protocol, u16)>,
    /// Address and port that were called, if a rule led on from there to the receiver: a published
    /// port of the host, or what another program has of the kind.
    pub called: Option<SocketAddrV4>,
}

impl NodeReach {
    /// Whether one end may begin a talk with another.
    #[must_use]
    pub fn may(&self, from: End<'_>, to: End<'_>, talk: Talk) -> bool {
        from.address == to.address
            || (self.lets_out(from, to, talk) && self.lets_in(from, to, talk))
    }

    /// Whether one container reaches another by its own address, on any port: then it sees its name.
    #[must_use]
    pub fn knows(&self, from: End<'_>, to: End<'_>) -> bool {
        let entries = |list: Option<&'_ Network>, of: fn(&Network) -> &Option<Vec<AllowEntry>>| {
            let entries = list.and_then(|network| of(network).clone());
            entries.unwrap_or_default()
        };
        let leaving = entries(from.network, |network| &network.egress);
        let coming = entries(to.network, |network| &network.ingress);
        let named = leaving.iter().chain(&coming).flat_map(|entry| &entry.ports);
        let ports = named.copied().map(Some);
        std::iter::once(None).chain(ports).any(|port| {
            let talk = Talk { port, called: None };
            self.may(from, to, talk)
        })
    }

    /// Whether an address is a neighbour's on the bridge, and not the host's own.
    #[must_use]
    pub fn is_neighbour(&self, address: Ipv4Addr) -> bool {
        self.subnet.contains(address) && address != self.subnet.gateway()
    }

    fn lets_out(&self, from: End<'_>, to: End<'_>, talk: Talk) -> bool {
        let Some(network) = from.network else {
            return true;
        };
        let Some(egress) = &network.egress else {
            return true;
        };
        let direct = |(_, port)| SocketAddrV4::new(to.address, port);
        let called = talk.port.map(|port| talk.called.unwrap_or(direct(port)));
        let is_name_server = |called: SocketAddrV4| {
            called.port() == NAME_SERVICE && self.name_servers.contains(called.ip())
        };
        share_a_group(from, to)
            || called.is_some_and(is_name_server)
            || egress.iter().any(|entry| self.allows(entry, to, talk))
    }

    fn lets_in(&self, from: End<'_>, to: End<'_>, talk: Talk) -> bool {
        let by_the_node = || self.open || !self.is_neighbour(from.address);
        let Some(network) = to.network else {
            return !self.is_neighbour(to.address) || talk.called.is_some() || by_the_node();
        };
        match &network.ingress {
            Some(ingress) => {
                let mut ingress = ingress.iter();
                share_a_group(from, to) || ingress.any(|entry| self.allows(entry, from, talk))
            }
            None if talk.called.is_some() => true,
            None if network.groups.is_empty() => by_the_node(),
            None => share_a_group(from, to),
        }
    }

    fn allows(&self, entry: &AllowEntry, peer: End<'_>, talk: Talk) -> bool {
        let is_meant = match &entry.peer {
            AllowedPeer::Group(group) => {
                let network = peer.network;
                network.is_some_and(|network| network.groups.contains(group))
            }
            AllowedPeer::Cidr(range) => {
                range.contains(peer.address) && !self.is_neighbour(peer.address)
            }
        };
        let is_port = || talk.port.is_some_and(|port| entry.ports.contains(&port));
        is_meant && (entry.ports.is_empty() || is_port())
    }
}

fn share_a_group(one: End<'_>, other: End<'_>) -> bool {
    let both = one.network.zip(other.network);
    both.is_some_and(|(one, other)| !one.groups.is_disjoint(&other.groups))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::spec::Protocol::{Tcp, Udp};
    use crate::spec::parse;

    fn network(section: &Value) -> Network {
        let body = json!({"name": "web", "image": "nginx", "network": section});
        parse::deploy(&body).unwrap().spec.network
    }

    fn node(open: bool) -> NodeReach {
        NodeReach {
            subnet: "10.231.0.0/16".parse().unwrap(),
            open,
            name_servers: [Ipv4Addr::new(192, 0, 2, 53)].into(),
        }
    }

    fn container(last: u8, network: &Network) -> End<'_> {
        End {
            address: Ipv4Addr::new(10, 231, 0, last),
            network: Some(network),
        }
    }

    fn address(octets: [u8; 4]) -> End<'static> {
        End {
            address: octets.into(),
            network: None,
        }
    }

    const fn direct(protocol: Protocol, port: u16) -> Talk {
        Talk {
            port: Some((protocol, port)),
            called: None,
        }
    }

    #[test]
    fn a_group_is_open_to_itself_and_closed_to_others_whatever_the_node_says() {
        let (web, both) = (json!({"groups": ["web"]}), json!({"groups": ["db", "web"]}));
        let [web, both, db] =
            [web, both, json!({"groups": ["db"]})].map(|section| network(&section));
        let plain = Network::default();
        let talk = direct(Tcp, 1);
        for open in [true, false] {
            let node = node(open);
            let may = |from, to| node.may(container(2, from), container(3, to), talk);
            assert!(
                may(&web, &both) && may(&both, &web) && may(&db, &both),
                "{open}"
            );
            assert!(
                !may(&web, &db) && !may(&db, &web) && !may(&plain, &web),
                "{open}"
            );
            assert_eq!(may(&web, &plain), open);
            assert_eq!(may(&plain, &plain), open);
            assert!(node.knows(container(2, &web), container(3, &both)));
            assert!(!node.knows(container(2, &web), container(3, &db)));
        }
    }

    #[test]
    fn both_ends_have_to_agree_and_ports_are_the_receivers() {
        let db = network(&json!({"groups": ["db"], "allow": {"ingress": [
            {"group": "web", "ports": ["tcp/5432"]},
        ]}}));
        let web = network(&json!({"groups": ["web"]}));
        let narrow = network(&json!({"groups": ["web"], "allow": {"egress": [
            {"group": "db", "ports": ["tcp/5433"]},
        ]}}));
        let node = node(false);
        let may = |from, talk| node.may(container(2, from), container(3, &db), talk);
        assert!(may(&web, direct(Tcp, 5432)));
        assert!(!may(&web, direct(Tcp, 5433)) && !may(&web, direct(Udp, 5432)));
        assert!(!may(&narrow, direct(Tcp, 5432)) && !may(&narrow, direct(Tcp, 5433)));
        assert!(!may(
            &web,
            Talk {
                port: None,
                called: None
            }
        ));
        assert!(node.knows(container(2, &web), container(3, &db)));
        assert!(!node.knows(container(2, &narrow), container(3, &db)));
        assert!(!node.knows(container(3, &db), container(2, &web)));
    }

    #[test]
    fn published_ports_answer_everybody_until_ingress_says_whom() {
        let quiet = network(&json!({"groups": ["web"]}));
        let listed = network(&json!({"groups": ["web"], "allow": {"ingress": [
            {"cidr": "198.51.100.0/24"},
        ]}}));
        let node = node(true);
        let talk = Talk {
            called: Some(SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 9), 8080)),
            ..direct(Tcp, 80)
        };
        let plain = Network::default();
        for (to, from, may) in [
            (&quiet, address([203, 0, 113, 1]), true),
            (&quiet, container(9, &plain), true),
            (&listed, address([203, 0, 113, 1]), false),
            (&listed, address([198, 51, 100, 1]), true),
            (&listed, container(9, &plain), false),
            (&listed, container(9, &quiet), true),
        ] {
            assert_eq!(node.may(from, container(3, to), talk), may, "{from:?}");
        }
        let itself = container(3, &listed);
        assert!(node.may(itself, itself, talk));
    }

    #[test]
    fn egress_by_range_means_addresses_elsewhere_and_leaves_the_name_servers() {
        let all =
            network(&json!({"allow": {"egress": [{"cidr": "0.0.0.0/0", "ports": ["tcp/443"]}]}}));
        let none = network(&json!({"allow": {"egress": []}}));
        let node = node(true);
        let may = |from, to, talk| node.may(container(2, from), to, talk);
        let plain = Network::default();
        assert!(may(&all, address([203, 0, 113, 1]), direct(Tcp, 443)));
        assert!(!may(&all, address([203, 0, 113, 1]), direct(Tcp, 80)));
        assert!(
            !may(&all, container(3, &plain), direct(Tcp, 443)),
            "a neighbour"
        );
        assert!(
            may(&all, address([10, 231, 0, 1]), direct(Tcp, 443)),
            "the host"
        );
        for network in [&all, &none] {
            assert!(may(network, address([192, 0, 2, 53]), direct(Udp, 53)));
            assert!(!may(network, address([192, 0, 2, 53]), direct(Udp, 54)));
            assert!(!may(network, address([203, 0, 113, 1]), direct(Udp, 53)));
        }
        assert!(may(&plain, address([203, 0, 113, 1]), direct(Udp, 53)));
        // The server is a published port of the node: what counts is whom they ask.
        let led_on = |called: &str| Talk {
            called: called.parse().ok(),
            ..direct(Udp, 5353)
        };
        for (called, expected) in [
            ("192.0.2.53:53", true),
            ("192.0.2.53:54", false),
            ("192.0.2.54:53", false),
        ] {
            let asked = may(&none, container(3, &plain), led_on(called));
            assert_eq!(asked, expected, "{called}");
        }
    }
}
