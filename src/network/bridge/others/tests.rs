//! What rules of others mean, by rules as they are read.

use super::*;
use crate::network::bridge::firewall::rules::BaseChain;

fn chain(table: &str, chain: &str) -> ChainName {
    ChainName {
        family: "ip",
        table: table.to_owned(),
        chain: chain.to_owned(),
    }
}

fn rule(place: ChainName) -> Rule {
    Rule::new(place)
}

fn ports(protocol: u8, ports: std::ops::RangeInclusive<u16>) -> Vec<PortMatch> {
    vec![PortMatch {
        protocol: Some(protocol),
        ports,
        to: None,
    }]
}

fn one(address: [u8; 4]) -> AddressRange {
    AddressRange {
        network: u32::from_be_bytes(address),
        mask: u32::MAX,
    }
}

fn with(hook: Hook, drops: bool, rules: Vec<Rule>) -> RuleSet {
    let name = chain("t", "base");
    RuleSet {
        base_chains: vec![BaseChain { name, hook, drops }],
        rules,
    }
}

fn binding(host_ip: Option<[u8; 4]>, host: u16, protocol: Protocol) -> PortBinding {
    PortBinding {
        host_ip: host_ip.map(IpAddr::from),
        host,
        container: 80,
        protocol,
    }
}

fn taken_by(set: &RuleSet, binding: &PortBinding) -> Option<String> {
    let local = |address| address == Ipv4Addr::new(192, 0, 2, 1);
    let found = published(set);
    let taken = found.iter().find(|port| port.takes(binding, local));
    taken.map(|port| port.by.chain.clone())
}

/// Docker's and the CNI's rules: the base chain leads to a chain of theirs, that to one of each
/// container.
#[test]
fn a_port_is_published_where_its_chain_leads_to_a_new_destination() {
    let set = with(
        Hook::Destination,
        false,
        vec![
            Rule {
                jumps: vec!["docker".into()],
                ..rule(chain("t", "base"))
            },
            Rule {
                ports: ports(6, 8080..=8090),
                redirects: true,
                ..rule(chain("t", "docker"))
            },
            Rule {
                ports: ports(17, 53..=53),
                to: Some(one([192, 0, 2, 1])),
                jumps: vec!["pod".into()],
                ..rule(chain("t", "docker"))
            },
            Rule {
                redirects: true,
                ..rule(chain("t", "pod"))
            },
            Rule {
                ports: ports(6, 443..=443),
                redirects: true,
                ..rule(chain("t", "unused"))
            },
            Rule {
                ports: ports(17, 54..=54),
                jumps: vec!["tcp".into()],
                ..rule(chain("t", "docker"))
            },
            Rule {
                protocol: Some(6),
                redirects: true,
                ..rule(chain("t", "tcp"))
            },
            Rule {
                ports: ports(6, 22..=22),
                ..rule(chain("t", "docker"))
            },
        ],
    );
    #[track_caller]
    fn check(set: &RuleSet, binding: &PortBinding, by: Option<&str>) {
        assert_eq!(taken_by(set, binding).as_deref(), by, "{binding:?}");
    }
    check(&set, &binding(None, 8085, Protocol::Tcp), Some("docker"));
    check(&set, &binding(None, 8085, Protocol::Udp), None);
    check(&set, &binding(None, 8091, Protocol::Tcp), None);
    check(&set, &binding(None, 53, Protocol::Udp), Some("pod"));
    check(
        &set,
        &binding(Some([192, 0, 2, 1]), 53, Protocol::Udp),
        Some("pod"),
    );
    check(
        &set,
        &binding(Some([127, 0, 0, 1]), 53, Protocol::Udp),
        None,
    );
    check(&set, &binding(None, 54, Protocol::Udp), None);
    check(&set, &binding(None, 443, Protocol::Tcp), None);
    check(&set, &binding(None, 22, Protocol::Tcp), None);
}

#[test]
fn packets_for_another_host_and_every_port_at_once_are_nobodys_host_port() {
    let set = with(
        Hook::Destination,
        false,
        vec![
            Rule {
                ports: ports(6, 443..=443),
                to: Some(one([10, 96, 0, 1])),
                redirects: true,
                ..rule(chain("t", "base"))
            },
            Rule {
                redirects: true,
                ..rule(chain("t", "base"))
            },
        ],
    );
    assert_eq!(taken_by(&set, &binding(None, 443, Protocol::Tcp)), None);
    assert_eq!(taken_by(&set, &binding(None, 80, Protocol::Tcp)), None);
}

#[test]
fn a_loop_of_chains_ends() {
    let round = |from: &str, to: &str| Rule {
        jumps: vec![to.into(), to.into()],
        ..rule(chain("t", from))
    };
    let rules = vec![round("base", "a"), round("a", "b"), round("b", "a")];
    assert_eq!(published(&with(Hook::Destination, false, rules)), []);
}

#[test]
fn a_chain_that_drops_is_closed_unless_its_table_speaks_of_the_bridge() {
    #[track_caller]
    fn check(drops: bool, rules: Vec<Rule>, closed: bool) {
        let set = with(Hook::Forward, drops, rules);
        let found = closed_chains(&set, "chas0", "10.231.0.0/16".parse().unwrap());
        assert_eq!(found.len(), usize::from(closed), "{set:?}");
    }
    let about = |name: &str| Rule {
        interfaces: vec![name.into()],
        ..rule(chain("t", "other"))
    };
    let stop = Rule {
        stops_all: true,
        ..rule(chain("t", "base"))
    };
    check(false, vec![], false);
    check(true, vec![], true);
    check(false, vec![stop.clone()], true);
    check(
        false,
        vec![Rule {
            chain: chain("t", "other"),
            ..stop.clone()
        }],
        false,
    );
    check(true, vec![about("docker0")], true);
    check(true, vec![about("chas0")], false);
    check(true, vec![about("chas*")], false);
    check(true, vec![about("chas1*")], true);
    let subnet = AddressRange {
        network: 0x0ae7_0000,
        mask: 0xffff_0000,
    };
    let by_address = Rule {
        addresses: vec![subnet],
        ..rule(chain("t", "base"))
    };
    check(false, vec![stop, by_address], false);
}

#[test]
fn all_packets_for_an_address_of_the_host_take_all_its_ports() {
    let dmz = Rule {
        to: Some(one([192, 0, 2, 1])),
        redirects: true,
        ..rule(chain("t", "base"))
    };
    let taken = |rule: Rule, wanted: &PortBinding| {
        taken_by(&with(Hook::Destination, false, vec![rule]), wanted).is_some()
    };
    let anywhere = binding(None, 80, Protocol::Tcp);
    assert!(taken(dmz.clone(), &anywhere));
    let here = |last| binding(Some([192, 0, 2, last]), 80, Protocol::Tcp);
    assert!(taken(dmz.clone(), &here(1)) && !taken(dmz.clone(), &here(2)));
    let only_udp = Rule {
        protocol: Some(17),
        ..dmz.clone()
    };
    assert!(!taken(only_udp, &anywhere));
    let elsewhere = Rule {
        to: Some(one([192, 0, 2, 9])),
        ..dmz.clone()
    };
    assert!(!taken(elsewhere, &anywhere));
    let of_one_source = Rule {
        addresses: vec![one([192, 0, 2, 1]), one([192, 0, 2, 7])],
        ..dmz
    };
    assert!(!taken(of_one_source, &anywhere));
}

#[test]
fn the_kernel_is_asked_only_for_addresses_of_rules_that_fit() {
    let rules = (1..=200).map(|n| Rule {
        ports: ports(6, n..=n),
        to: Some(one([192, 0, 2, 1])),
        redirects: true,
        ..rule(chain("t", "base"))
    });
    let found = published(&with(Hook::Destination, false, rules.collect()));
    let asked = std::cell::Cell::new(0);
    let local = |_| {
        asked.set(asked.get() + 1);
        true
    };
    let wanted = binding(None, 100, Protocol::Tcp);
    let takers = found.iter().filter(|port| port.takes(&wanted, local));
    assert_eq!((takers.count(), asked.get()), (1, 1));
}
