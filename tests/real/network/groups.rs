//! Who reaches whom by `network.groups` and `network.allow`: the kernel against the one function.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use chas_node_agent::network::{
    AssignedInstance, BridgeNetwork, NetworkDriver as _, NetworkError, NetworkPaths,
};
use serde_json::{Value, json};
use state::desired::PortBinding;
use state::reach::{End, NodeReach, Talk};
use state::spec::Protocol::Tcp;
use state::spec::parse;

use crate::stand::eventually;

use super::lab::{self, Host, Server, UdpClient, ask_tcp, binding, on_a_private_host};
use super::{LOCALHOST, ask_udp};

/// A second address of the other host.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);

/// An instance with a network section, as a body has it.
pub(super) fn ruled(
    host: &Host,
    n: u64,
    address: u8,
    ports: Vec<PortBinding>,
    network: &Value,
) -> AssignedInstance {
    let (instance, name, assignment, _) = host.wanted(n, address, ports);
    let body = json!({"name": name.container, "image": "x", "network": network});
    let network = parse::deploy(&body).unwrap().spec.network;
    (instance, name, assignment, network)
}

pub(super) fn ask(from: &Path, to: Ipv4Addr, port: u16) -> std::io::Result<std::net::IpAddr> {
    lab::in_netns(from, || ask_tcp(to, port))
}

/// Containers 1 to 5 with addresses 2 to 6.
fn five(host: &Host) -> [AssignedInstance; 5] {
    let published = |port| vec![binding(Tcp, port, 80)];
    let db = json!({"groups": ["db"], "allow": {"ingress": [
        {"group": "shop", "ports": ["tcp/80"]},
        {"cidr": format!("{}/32", lab::OUTSIDE), "ports": ["tcp/80"]},
        {"group": "nobody-yet"},
    ]}});
    let narrow = json!({"groups": [], "allow": {"egress": [
        {"cidr": format!("{}/32", lab::OUTSIDE), "ports": ["tcp/80"]},
        {"group": "db"},
    ]}});
    [
        ruled(host, 1, 2, vec![], &json!({"groups": ["shop"]})),
        ruled(
            host,
            2,
            3,
            published(18083),
            &json!({"groups": ["shop", "other"]}),
        ),
        ruled(host, 3, 4, published(18084), &db),
        ruled(host, 4, 5, published(18085), &json!("bridge")),
        ruled(host, 5, 6, vec![], &narrow),
    ]
}

pub(super) async fn attach_as(
    net: &BridgeNetwork,
    (instance, name, assignment, network): &AssignedInstance,
) -> Result<NetworkPaths, NetworkError> {
    let attaching = net.attach(*instance, name, assignment, network);
    Ok(attaching.await?.paths)
}

pub(super) async fn attach(net: &BridgeNetwork, all: &[AssignedInstance]) -> Vec<NetworkPaths> {
    let mut attached = Vec::new();
    for one in all {
        attached.push(attach_as(net, one).await.unwrap());
    }
    attached
}

#[test]
fn groups_and_what_they_allow_decide_who_reaches_whom_with_and_without_br_netfilter() {
    for (bridged, open) in [("0", true), ("1", false)] {
        on_a_private_host("groups", async |host| {
            lab::shell(&format!(
                "sysctl -qw net.bridge.bridge-nf-call-iptables={bridged}"
            ));
            let all = five(host);
            let net = host
                .network_with(|config| config.reach.neighbours = open)
                .await;
            let paths = attach(&net, &all).await;
            let servers = paths.iter().flat_map(|paths| [(paths, 80), (paths, 81)]);
            let _inside: Vec<_> = servers
                .map(|(paths, port)| Server::tcp(&paths.netns, port))
                .collect();
            host.repairs_nothing(&net, &all).await;

            let node = NodeReach {
                subnet: host.subnet().parse().unwrap(),
                open,
                name_servers: BTreeSet::new(),
            };
            let end = |one: &'_ AssignedInstance| End {
                address: one.2.address.unwrap(),
                network: None,
            };
            for (from, paths) in all.iter().zip(&paths) {
                let hosts = std::fs::read_to_string(&paths.hosts).unwrap();
                for to in all.iter().filter(|to| to.0 != from.0) {
                    let (one, other) = (
                        End {
                            network: Some(&from.3),
                            ..end(from)
                        },
                        End {
                            network: Some(&to.3),
                            ..end(to)
                        },
                    );
                    for port in [80, 81] {
                        let talk = Talk {
                            port: Some((Tcp, port)),
                            called: None,
                        };
                        let asked = ask(&paths.netns, other.address, port);
                        let may = node.may(one, other, talk);
                        let way = format!(
                            "{} to {}:{port} {open} {asked:?}",
                            from.1.container, to.1.container
                        );
                        assert_eq!(asked.is_ok(), may, "{way}");
                        if let Err(error) = asked {
                            let kinds = [ErrorKind::ConnectionRefused, ErrorKind::HostUnreachable];
                            assert!(kinds.contains(&error.kind()), "at once: {way}");
                        }
                    }
                    let sees = hosts.contains(&format!("\t{}\n", to.1.container));
                    assert_eq!(
                        sees,
                        node.knows(one, other),
                        "{} sees {}",
                        from.1.container,
                        to.1.container
                    );
                }
            }
            published_ports_answer_whom_they_may(host, &all, &paths);
            net.teardown().await.unwrap();
        });
    }
}

fn published_ports_answer_whom_they_may(
    host: &Host,
    all: &[AssignedInstance],
    paths: &[NetworkPaths],
) {
    let gateway = host.address(1);
    // By the host's address: everybody, until `ingress` says whom.
    for (index, port, may) in [
        (0, 18083, true),
        (3, 18083, true),
        (0, 18084, true),
        (3, 18084, false),
        (2, 18084, true),
        (2, 18085, true),
        (4, 18085, false),
        (4, 18084, false),
    ] {
        for to in [gateway, lab::HOST_LAN] {
            let asked = ask(&paths[index].netns, to, port);
            assert_eq!(
                asked.is_ok(),
                may,
                "{} {to}:{port} {asked:?}",
                all[index].1.container
            );
        }
    }
    let outside = host.outside();
    outside.shell(&format!("ip address add {ELSEWHERE}/24 dev lan0"));
    for (from, port, may) in [
        (lab::OUTSIDE, 18083, true),
        (ELSEWHERE, 18083, true),
        (lab::OUTSIDE, 18084, true),
        (ELSEWHERE, 18084, false),
    ] {
        outside.shell(&format!(
            "ip route replace {} dev lan0 src {from}",
            lab::HOST_LAN
        ));
        let asked = outside.run(|| ask_tcp(lab::HOST_LAN, port));
        assert_eq!(asked.is_ok(), may, "{from} to {port}: {asked:?}");
    }
    for port in [18083, 18084, 18085] {
        assert!(ask_tcp(LOCALHOST, port).is_ok(), "the host itself");
    }
    assert!(ask_tcp(host.address(4), 81).is_ok(), "the host itself");
}

#[test]
fn egress_by_range_holds_for_the_outside_and_for_the_host() {
    on_a_private_host("egress", async |host| {
        let net = host.network().await;
        let allow = json!({"egress": [
            {"cidr": format!("{}/32", lab::OUTSIDE), "ports": ["tcp/80"]},
            {"cidr": "10.99.0.1/32", "ports": ["tcp/7301"]},
        ]});
        let narrow = ruled(host, 1, 2, vec![], &json!({ "allow": allow }));
        let plain = ruled(host, 2, 3, vec![], &json!("bridge"));
        let paths = attach(&net, &[narrow, plain]).await;
        let outside = host.outside();
        let _there = [outside.tcp(80), outside.tcp(81)];
        let _here = [7300, 7301].map(|port| Server::here(&format!("0.0.0.0:{port}")));
        let _name_service = Server::here("0.0.0.0:53");
        let gateway = host.address(1);
        for (to, port, may) in [
            (lab::OUTSIDE, 80, true),
            (lab::OUTSIDE, 81, false),
            (gateway, 7301, true),
            (gateway, 7300, false),
            (lab::HOST_LAN, 7301, false),
            (gateway, 53, true),
        ] {
            let asked = ask(&paths[0].netns, to, port);
            assert_eq!(asked.is_ok(), may, "{to}:{port}: {asked:?}");
            let asked = ask(&paths[1].netns, to, port);
            assert!(asked.is_ok(), "{to}:{port} from the other: {asked:?}");
        }
        let pings = |to: Ipv4Addr| {
            let ping = format!("busybox ping -c 1 -W 1 {to} >/dev/null && echo answered");
            lab::in_netns(&paths[0].netns, || lab::output(&ping)) == "answered\n"
        };
        assert!(!pings(lab::OUTSIDE) && !pings(gateway));
        // It is called as before, and answers.
        let _inside = Server::tcp(&paths[0].netns, 80);
        assert!(ask(&paths[1].netns, host.address(2), 80).is_ok());
        assert!(ask_tcp(host.address(2), 80).is_ok(), "the host");
        net.teardown().await.unwrap();
    });
}

#[test]
fn the_first_group_of_a_node_ends_no_talk_of_others_and_one_that_is_not_allowed_ends() {
    on_a_private_host("turns", async |host| {
        let net = host.network().await;
        let plain = [host.wanted(1, 2, vec![]), host.wanted(2, 3, vec![])];
        let paths = attach(&net, &plain).await;
        let _inside = Server::udp(&paths[1].netns, 82);
        let mut talk = lab::in_netns(&paths[0].netns, || UdpClient::to(host.address(3), 82));
        assert!(talk.ask().is_ok());
        let knows = || lab::in_netns(&paths[0].netns, || lab::output("ip neigh show dev eth0"));
        assert!(
            knows().contains("10.99.0.3 lladdr 0a:58:0a:63:00:03"),
            "{}",
            knows()
        );

        let web = ruled(host, 3, 4, vec![], &json!({"groups": ["web"]}));
        let web_paths = attach_as(&net, &web).await.unwrap();
        assert!(
            knows().contains("10.99.0.3 lladdr 0a:58:0a:63:00:01"),
            "{}",
            knows()
        );
        assert!(
            talk.ask().is_ok(),
            "the other way, and no moment without one"
        );
        let _web = [
            Server::tcp(&web_paths.netns, 80),
            Server::udp(&web_paths.netns, 82),
        ];
        assert!(ask(&paths[0].netns, host.address(4), 80).is_err());
        let all = [&plain[..], std::slice::from_ref(&web)].concat();
        host.repairs_nothing(&net, &all).await;

        // While another program has flushed all rules, one gets in, and is out again with them.
        lab::shell("nft flush ruleset");
        let mut late = lab::in_netns(&paths[0].netns, || UdpClient::to(host.address(4), 82));
        assert!(late.ask().is_ok());
        net.repair(&all, &BTreeSet::new()).await.unwrap();
        assert!(late.ask().is_err());
        assert!(talk.ask().is_ok());
        net.teardown().await.unwrap();
    });
}

#[test]
fn rules_come_back_within_moments_and_follow_an_instance_to_another_address() {
    on_a_private_host("follows", async |host| {
        let net = host.network().await;
        let section = json!({"groups": ["web"]});
        let all = [
            ruled(host, 1, 2, vec![], &section),
            ruled(host, 2, 3, vec![], &section),
            host.wanted(3, 4, vec![]),
        ];
        let paths = attach(&net, &all).await;
        let _inside = Server::tcp(&paths[0].netns, 80);
        let watching = net.guard_table();
        let flushing = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            lab::shell("nft flush ruleset");
            eventually("the rules are back", async || {
                !lab::rules(&host.bridge()).is_empty()
            })
            .await;
            lab::rules(&host.bridge())
        };
        let shown = tokio::select! { () = watching => unreachable!(), shown = flushing => shown };
        assert!(
            shown.contains("10.99.0.2 comment \"c1\" : goto in-0"),
            "{shown}"
        );
        assert!(ask(&paths[2].netns, host.address(2), 80).is_err());

        net.detach(lab::instance(1)).await.unwrap();
        let moved = ruled(host, 1, 9, vec![], &section);
        let paths_moved = attach_as(&net, &moved).await.unwrap();
        let _inside = Server::tcp(&paths_moved.netns, 80);
        let shown = lab::rules(&host.bridge());
        assert!(
            !shown.contains("10.99.0.2 ") && shown.contains("10.99.0.9 "),
            "{shown}"
        );
        assert!(ask(&paths[1].netns, host.address(9), 80).is_ok());
        assert!(ask(&paths[2].netns, host.address(9), 80).is_err());

        // Nobody with rules is left: the node is as without, and the two go on.
        for n in [1, 2] {
            net.detach(lab::instance(n)).await.unwrap();
        }
        let late = host.attach(&net, 4, 5, vec![]).await.unwrap();
        let _inside = Server::udp(&late.netns, 82);
        let rest = [all[2].clone(), host.wanted(4, 5, vec![])];
        net.repair(&rest, &BTreeSet::new()).await.unwrap();
        host.repairs_nothing(&net, &rest).await;
        assert!(!lab::rules(&host.bridge()).contains("groups"));
        assert!(lab::in_netns(&paths[2].netns, || ask_udp(host.address(5), 82)).is_ok());
        net.teardown().await.unwrap();
    });
}

#[test]
fn a_new_agent_has_the_rules_of_the_one_before_before_it_knows_a_record() {
    on_a_private_host("again", async |host| {
        let first = host.network().await;
        let all = [
            ruled(host, 1, 2, vec![], &json!({"groups": ["web"]})),
            host.wanted(2, 3, vec![]),
            host.wanted(3, 4, vec![]),
        ];
        let paths = attach(&first, &all).await;
        let _inside = [0, 1].map(|index: usize| Server::tcp(&paths[index].netns, 80));
        let asks = |last| ask(&paths[2].netns, host.address(last), 80).is_ok();
        drop(first);
        let second = host.network().await;
        assert!(!asks(2) && asks(3));
        // A container whose record cannot be read keeps its rules.
        let untouched = BTreeSet::from([lab::instance(1).id]);
        second.repair(&all[1..], &untouched).await.unwrap();
        assert!(!asks(2) && asks(3));
        drop(second);

        // What is not known closes all, until the records are known.
        std::fs::write(host.netns_dir().with_file_name("rules"), "[{").unwrap();
        let third = host.network().await;
        assert!(!asks(2) && !asks(3));
        third.repair(&all, &BTreeSet::new()).await.unwrap();
        assert!(!asks(2) && asks(3));
        third.teardown().await.unwrap();
    });
}
