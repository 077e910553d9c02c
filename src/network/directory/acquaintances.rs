//! Names that each instance on the network sees of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use state::id::InstanceName;
use state::reach::{End, NodeReach};
use state::spec::Network;

use super::Member;
use crate::network::hosts_files::Peers;

/// Names that each instance sees: of those that it reaches. Instances with equal network sections
/// see the same.
#[derive(Debug)]
pub(super) struct Acquaintances<'a>(BTreeMap<&'a Network, Peers>);

impl<'a> Acquaintances<'a> {
    pub(super) fn new(node: &NodeReach, members: &'a BTreeMap<InstanceName, Member>) -> Self {
        let sections: BTreeSet<&Network> = members.values().map(|member| &member.network).collect();
        // Any two addresses: which they are decides nothing between containers.
        let mut addresses = node.subnet.container_addresses();
        let mut end = || addresses.next().unwrap_or(Ipv4Addr::UNSPECIFIED);
        let [one, other] = [end(), end()];
        let peers = |own: &Network| {
            let reached: BTreeSet<&Network> = sections
                .iter()
                .copied()
                .filter(|section| {
                    let [from, to] =
                        [(one, own), (other, *section)].map(|(address, network)| End {
                            address,
                            network: Some(network),
                        });
                    node.knows(from, to)
                })
                .collect();
            let seen = members.values();
            let seen =
                seen.filter(|member| !member.stands_back && reached.contains(&member.network));
            seen.map(|member| (member.name.clone(), member.addresses()))
                .collect()
        };
        let peers = sections.iter().map(|section| (*section, peers(section)));
        Self(peers.collect())
    }

    /// Names for one of the instances that these were made of.
    pub(super) fn of(&self, member: &Member) -> &Peers {
        static NOBODY: Peers = Peers::new();
        self.0.get(&member.network).unwrap_or(&NOBODY)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use state::spec::parse;

    use state::id::ContainerName;
    use state::spec::Names;

    use super::*;

    fn member(name: &str, last: u8, network: &Value) -> (InstanceName, Member) {
        let body = json!({"name": name, "image": "nginx", "network": network});
        let deploy = parse::deploy(&body).unwrap();
        let instance = format!("0123456789{last:02}-1").parse().unwrap();
        let member = Member {
            name: deploy.name,
            address: Ipv4Addr::new(10, 231, 0, last),
            address6: None,
            network: deploy.spec.network,
            asked: Names::default(),
            stands_back: false,
        };
        (instance, member)
    }

    #[test]
    fn an_instance_sees_the_names_of_those_it_reaches() {
        let members = BTreeMap::from([
            member("web", 2, &json!({"groups": ["shop"]})),
            member(
                "api",
                3,
                &json!({"groups": ["shop"], "allow": {"egress": []}}),
            ),
            member(
                "db",
                4,
                &json!({"groups": ["db"], "allow": {"ingress": [{"group": "shop", "ports": ["tcp/5432"]}]}}),
            ),
            member("plain", 5, &json!("bridge")),
        ]);
        for (open, expected) in [
            (
                true,
                [
                    ["api", "db", "plain", "web"].as_slice(),
                    &["api", "web"],
                    &["db", "plain"],
                    &["plain"],
                ],
            ),
            (
                false,
                [&["api", "db", "web"], &["api", "web"], &["db"], &[]],
            ),
        ] {
            let node = NodeReach {
                subnet: "10.231.0.0/16".parse().unwrap(),
                open,
                name_servers: BTreeSet::new(),
            };
            let known = Acquaintances::new(&node, &members);
            for (member, expected) in members.values().zip(expected) {
                let seen: Vec<_> = known.of(member).keys().map(ContainerName::as_str).collect();
                assert_eq!(seen, expected, "{} {open}", member.name);
            }
        }
    }
}
