//! What containers cannot reach although nobody but the agent forbids it, and what no container can be given.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use chas_node_agent::network::{BridgeNetwork, ContainerReach, HostReach, NetworkDriver as _};
use state::alarm::Alarm;
use state::assign::{HostNetwork as _, PortHolder};
use state::spec::Protocol::{Tcp, Udp};

use super::LOCALHOST;
use super::lab::{self, Server, ask_tcp, ask_udp, binding, bound, on_a_private_host};

/// Where clouds hand out a node's credentials.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Ways that lead out of a container, each with whether it is open on a node that closes what it can.
const WAYS: [(&str, Ipv4Addr, u16, bool); 10] = [
    ("a service of the host", lab::HOST_LAN, 7000, false),
    ("the same by the bridge", GATEWAY, 7000, false),
    ("a service that the node opens", lab::HOST_LAN, 7001, true),
    ("the same by the bridge", GATEWAY, 7001, true),
    ("the host's name server", lab::HOST_LAN, 53, true),
    (
        "one that another program leads elsewhere",
        GATEWAY,
        53,
        true,
    ),
    ("a published port", lab::HOST_LAN, 18080, true),
    ("the outside", lab::OUTSIDE, 80, true),
    ("the credentials of the node", METADATA, 80, false),
    ("a cloud's name server", METADATA, 53, true),
];

/// The bridge's address.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

#[test]
fn the_host_s_services_and_metadata_are_closed_to_containers_where_the_node_closes_them() {
    let closed = ContainerReach {
        host: HostReach::Only(BTreeSet::from([(Tcp, 7001)])),
        neighbours: true,
        link_local: false,
    };
    for reach in [None, Some(closed)] {
        on_a_private_host("belts", async |host| {
            let is_open = reach.is_none();
            let net = match reach.clone() {
                None => host.network().await,
                Some(reach) => host.network_with(|config| config.reach = reach).await,
            };
            let web = vec![binding(Tcp, 18080, 80)];
            let web = host.attach(&net, 1, 2, web).await.unwrap();
            let one = host.attach(&net, 2, 3, vec![]).await.unwrap();
            lab::shell(&format!("ip route add {METADATA} dev lan0"));
            let outside = host.outside();
            // Answers of its UDP servers come from where it was asked.
            outside.shell(&format!(
                "ip address add {METADATA}/32 dev lan0 && ip route change 192.0.2.0/24 dev lan0 src {METADATA}"
            ));
            lab::shell(&format!(
                "nft 'table ip dnsredirect {{ chain nat {{ type nat hook prerouting priority -100; \
                 ip daddr {GATEWAY} tcp dport 53 redirect to :8600; }}; }}'"
            ));
            let _here = [7000, 7001, 53, 8600].map(|port| Server::here(&format!("0.0.0.0:{port}")));
            let _there = [
                outside.tcp(80),
                outside.tcp(53),
                outside.udp(53),
                outside.udp(123),
            ];
            let _inside = Server::tcp(&web.netns, 80);

            for (what, address, port, always) in WAYS {
                let began = Instant::now();
                let asked = lab::in_netns(&one.netns, move || ask_tcp(address, port));
                assert_eq!(
                    asked.is_ok(),
                    always || is_open,
                    "{what}, {port}: {asked:?}"
                );
                // A closed door says so: a client would wait for minutes otherwise.
                let refused = asked.err().map(|error| error.kind());
                assert!(
                    refused.is_none_or(|kind| kind == ErrorKind::ConnectionRefused),
                    "{what}: {refused:?} after {:?}",
                    began.elapsed()
                );
            }
            for (port, always) in [(53, true), (123, false)] {
                let asked = lab::in_netns(&one.netns, move || ask_udp(METADATA, port));
                assert_eq!(asked.is_ok(), always || is_open, "UDP {port}: {asked:?}");
            }
            lab::in_netns(&one.netns, || {
                lab::shell(&format!("busybox ping -c 1 -W 5 {GATEWAY}"));
            });
            assert!(
                ask_tcp(host.address(2), 80).is_ok(),
                "the host reaches its containers"
            );
            let answered = outside.run(|| ask_tcp(lab::HOST_LAN, 18080));
            assert_eq!(answered.unwrap(), METADATA, "a caller with such an address");
            assert!(
                ask_tcp(LOCALHOST, 18080).is_ok(),
                "by a published port as well"
            );
            let both = [
                host.wanted(1, 2, vec![binding(Tcp, 18080, 80)]),
                host.wanted(2, 3, vec![]),
            ];
            host.repairs_nothing(&net, &both).await;
            net.teardown().await.unwrap();
        });
    }
}

#[test]
fn the_port_of_the_agent_s_own_api_is_no_container_s_on_any_address() {
    on_a_private_host("ownport", async |host| {
        let net = host.network().await;
        // The API itself may listen on loopback only: nobody listens on this address.
        for wanted in [
            bound(lab::HOST_LAN, Tcp, lab::API_PORT, 80),
            bound(LOCALHOST, Tcp, lab::API_PORT, 80),
            binding(Tcp, lab::API_PORT, 80),
        ] {
            assert_eq!(net.holder(&wanted), Some(PortHolder::Agent));
        }
        assert_eq!(net.holder(&binding(Udp, lab::API_PORT, 80)), None);
        // One that has it from before, on another address than the API, is started with it.
        let had = vec![bound(lab::HOST_LAN, Tcp, lab::API_PORT, 80)];
        let web = host.attach(&net, 1, 2, had.clone()).await.unwrap();
        let _inside = Server::tcp(&web.netns, 80);
        let outside = host.outside();
        let asked = outside.run(|| ask_tcp(lab::HOST_LAN, lab::API_PORT));
        assert!(asked.is_ok(), "{asked:?}");
        host.repairs_nothing(&net, &[host.wanted(1, 2, had)]).await;
        told(&net, "hand it their token");
        net.teardown().await.unwrap();
    });
}

#[test]
fn a_container_never_stands_between_callers_and_the_agent_s_own_api() {
    on_a_private_host("ownapi", async |host| {
        let _api = Server::here(&format!("127.0.0.1:{}", lab::API_PORT));
        let everywhere = vec![binding(Tcp, lab::API_PORT, 80)];
        let net = host.network().await;
        let refused = host.attach(&net, 1, 2, everywhere.clone()).await;
        let refused = refused.err().unwrap().to_string();
        assert!(refused.contains("the agent's own API"), "{refused}");
        // The table of an agent that had another api.port.
        let web = host.attach(&net, 1, 2, vec![]).await.unwrap();
        let _inside = Server::tcp(&web.netns, 80);
        let (port, address) = (lab::API_PORT, host.address(2));
        lab::shell(&format!(
            "nft 'add element ip {} ports {{ tcp . {port} comment \"{}\" : {address} . 80 }}'",
            host.bridge(),
            lab::instance(1)
        ));
        let taken = ask_tcp(LOCALHOST, port).unwrap();
        assert_eq!(taken, GATEWAY, "the container answers for the API");
        let net = host.network().await;
        let answered = ask_tcp(LOCALHOST, lab::API_PORT).unwrap();
        assert_eq!(answered, LOCALHOST, "the API answers again");
        host.repairs_nothing(&net, &[host.wanted(1, 2, everywhere)])
            .await;
        told(&net, "the container gets no packets");
        net.teardown().await.unwrap();
    });
}

/// Asserts that the one alarm of the look before is about a port, and says this.
fn told(net: &BridgeNetwork, words: &str) {
    let told = net.findings().borrow().clone();
    let [contest] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(contest.alarm, Alarm::PortContested);
    assert!(contest.message.contains(words), "{contest:?}");
}

/// What comes back to a container's raw frame with so many VLAN tags.
fn answer_to_a_frame(program: &Path, netns: &Path, to: Ipv4Addr, port: u16, tags: u8) -> String {
    let arguments = [to.to_string(), port.to_string(), tags.to_string()];
    let sent = lab::in_netns(netns, || Command::new(program).args(&arguments).output());
    String::from_utf8(sent.unwrap().stdout).unwrap()
}

#[test]
fn a_flush_of_all_rules_lets_no_frame_of_a_container_to_the_host_s_loopback() {
    let directory = tempfile::tempdir().unwrap();
    let [source, program] = ["frame.c", "frame"].map(|name| directory.path().join(name));
    std::fs::write(&source, include_str!("frame.c")).unwrap();
    lab::shell(&format!(
        "cc -O1 -o {} {}",
        program.display(),
        source.display()
    ));
    on_a_private_host("flush", async |host| {
        let net = host.network().await;
        let web = host.attach(&net, 1, 2, vec![]).await.unwrap();
        let _local = Server::here("127.0.0.1:7100");
        let _open = Server::here("0.0.0.0:7101");
        lab::shell("nft flush ruleset");
        let asked = |to, port, tags| answer_to_a_frame(&program, &web.netns, to, port, tags);
        for tags in 0..2 {
            let answer = asked(GATEWAY, 7101, tags);
            assert_eq!(answer, "SYN-ACK\n", "{tags} tags: such a frame arrives");
        }
        for tags in 0..3 {
            assert_eq!(asked(LOCALHOST, 7100, tags), "no answer\n", "{tags} tags");
        }
        // Without the filter such frames do get there; the next repair puts it back.
        lab::shell(&format!("tc qdisc del dev {} clsact", host.veth()));
        for tags in 0..3 {
            assert_eq!(asked(LOCALHOST, 7100, tags), "SYN-ACK\n", "{tags} tags");
        }
        let wanted = [host.wanted(1, 2, vec![])];
        let repaired = net.repair(&wanted, &BTreeSet::new()).await.unwrap();
        let is_belt = |line: &String| line.contains("guard at");
        assert!(repaired.iter().any(is_belt), "{repaired:?}");
        lab::shell("nft flush ruleset");
        assert_eq!(asked(LOCALHOST, 7100, 0), "no answer\n");
        net.repair(&wanted, &BTreeSet::new()).await.unwrap();
        host.repairs_nothing(&net, &wanted).await;
        net.teardown().await.unwrap();
    });
}

/// Filters at the first of our links, as `tc` shows them.
fn filters(host: &lab::Host) -> String {
    lab::output(&format!("tc filter show dev {} ingress", host.veth()))
}

#[test]
fn another_program_s_filter_stays_and_one_in_the_guard_s_way_is_told() {
    on_a_private_host("filters", async |host| {
        let net = host.network().await;
        let wanted = [host.wanted(1, 2, vec![])];
        host.attach(&net, 1, 2, vec![]).await.unwrap();
        let link = host.veth();
        let add_other = |place: &str| {
            lab::shell(&format!(
                "tc qdisc del dev {link} clsact && tc qdisc add dev {link} clsact && tc filter add \
                 dev {link} ingress {place} bpf da bytecode '1,6 0 0 4294967295,'"
            ));
        };
        // As cilium does: the same place, the first handle.
        add_other("protocol all pref 1 handle 1");
        let repaired = net.repair(&wanted, &BTreeSet::new()).await.unwrap();
        assert_eq!(repaired.len(), 1, "{repaired:?}");
        let shown = filters(host);
        assert!(
            shown.contains("handle 0x1 ") && shown.contains("handle 0x63686173 "),
            "{shown}"
        );
        host.repairs_nothing(&net, &wanted).await;
        assert_eq!(net.findings().borrow().len(), 0);

        // A filter for IPv4 alone has the place: nobody else's fits in.
        add_other("protocol ip pref 1");
        let before = filters(host);
        host.repairs_nothing(&net, &wanted).await;
        assert_eq!(filters(host), before);
        let told = net.findings().borrow().clone();
        assert_eq!(told[0].alarm, Alarm::LinksUnguarded, "{told:?}");
        assert!(
            told[0].message.contains("another program's filter"),
            "{told:?}"
        );
        net.teardown().await.unwrap();
    });
}

#[test]
fn a_container_that_is_left_alone_gets_the_second_guard_all_the_same() {
    on_a_private_host("spared", async |host| {
        let net = host.network().await;
        host.attach(&net, 1, 2, vec![]).await.unwrap();
        lab::shell(&format!("tc qdisc del dev {} clsact", host.veth()));
        let untouched = BTreeSet::from([lab::instance(1).id]);
        let repaired = net.repair(&[], &untouched).await.unwrap();
        assert_eq!(repaired.len(), 1, "{repaired:?}");
        assert!(repaired[0].contains("guard at"), "{repaired:?}");
        net.teardown().await.unwrap();
    });
}
