//! What containers on one bridge can do to each other.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use chas_node_agent::network::NetworkDriver as _;
use state::alarm::Alarm;
use state::failure::Failure;
use state::reason::Reason;
use state::spec::Protocol::Tcp;

use super::LOCALHOST;
use super::lab::{self, Server, UdpClient, ask_tcp, binding, on_a_private_host};

/// Port of the host to which the thief sends in its neighbour's name.
const PORT: u16 = 7200;

#[test]
fn a_neighbour_s_addresses_cannot_be_taken_unless_the_node_lets_them() {
    let directory = tempfile::tempdir().unwrap();
    let [source, program] = ["spoof.c", "spoof"].map(|name| directory.path().join(name));
    std::fs::write(&source, include_str!("spoof.c")).unwrap();
    let compile = format!("cc -O1 -o {} {}", program.display(), source.display());
    lab::shell(&compile);
    for guard in [false, true] {
        on_a_private_host("thief", async |host| {
            let net = host
                .network_with(|config| config.source_guard = guard)
                .await;
            let thief = host.attach(&net, 1, 2, vec![]).await.unwrap();
            let link = host.veth();
            let victim = host.attach(&net, 2, 3, vec![]).await.unwrap();
            let _inside = Server::tcp(&victim.netns, 80);
            let [gateway, address] = [1, 3].map(|last| host.address(last));
            let send = |netns: &Path, kind: &str| {
                let arguments = [
                    kind,
                    &address.to_string(),
                    &gateway.to_string(),
                    &PORT.to_string(),
                ];
                let sent = lab::in_netns(netns, || Command::new(&program).args(arguments).status());
                assert!(sent.unwrap().success());
            };
            let heard = UdpSocket::bind(("0.0.0.0", PORT)).unwrap();
            heard
                .set_read_timeout(Some(Duration::from_millis(500)))
                .unwrap();
            let hears = || heard.recv_from(&mut [0; 9]).map(|(_, from)| from.ip());
            assert!(ask_tcp(address, 80).is_ok());
            send(&victim.netns, "ip");
            assert_eq!(hears().unwrap(), address, "such a packet is heard");

            send(&thief.netns, "ip");
            assert_eq!(hears().is_ok(), !guard, "in the neighbour's name");

            let neighbour = format!("ip neigh show {address}");
            lab::shell(&format!(
                "ip neigh flush {address}; busybox ping -c 1 -W 5 {address}"
            ));
            let victims = "0a:58:0a:63:00:03";
            assert!(lab::output(&neighbour).contains(victims));
            // The kernel believes no second claim within a second of the first.
            std::thread::sleep(Duration::from_millis(1100));
            send(&thief.netns, "arp");
            let stays = lab::output(&neighbour).contains(victims);
            assert_eq!(stays, guard, "{}", lab::output(&neighbour));

            send(&thief.netns, "mac");
            let learnt = lab::output(&format!("bridge fdb show dev {link}"));
            assert_eq!(!learnt.contains(victims), guard, "{learnt}");
            if guard {
                assert!(ask_tcp(address, 80).is_ok());
            }
            let wanted = [host.wanted(1, 2, vec![]), host.wanted(2, 3, vec![])];
            host.repairs_nothing(&net, &wanted).await;
            net.teardown().await.unwrap();
        });
    }
}

#[test]
fn the_guard_of_an_earlier_agent_s_links_is_put_there_and_taken_away_again() {
    on_a_private_host("guards", async |host| {
        let wanted = [host.wanted(1, 2, vec![])];
        let guards = [false, true, false];
        for (before, guard) in [None, Some(false), Some(true)].into_iter().zip(guards) {
            let net = host
                .network_with(|config| config.source_guard = guard)
                .await;
            if before.is_none() {
                host.attach(&net, 1, 2, vec![]).await.unwrap();
            }
            let repaired = net.repair(&wanted, &Default::default()).await.unwrap();
            let changed = before.is_some_and(|before| before != guard);
            assert_eq!(repaired.len(), usize::from(changed), "{repaired:?}");
            let shown = lab::output(&format!("tc filter show dev {} ingress", host.veth()));
            assert_eq!(shown.matches("handle ").count(), 1, "{shown}");
            if before == Some(true) {
                net.teardown().await.unwrap();
            }
        }
    });
}

#[test]
fn isolated_containers_reach_published_ports_and_no_neighbour_with_and_without_br_netfilter() {
    for bridged in ["0", "1"] {
        on_a_private_host("isolated", async |host| {
            lab::shell(&format!(
                "sysctl -qw net.bridge.bridge-nf-call-iptables={bridged}"
            ));
            let ports = || vec![binding(Tcp, 18080, 80)];
            let wanted = [host.wanted(1, 2, vec![]), host.wanted(2, 3, ports())];
            let open = host.network().await;
            let one = host.attach(&open, 1, 2, vec![]).await.unwrap();
            let web = host.attach(&open, 2, 3, ports()).await.unwrap();
            let _inside = [Server::tcp(&web.netns, 80), Server::tcp(&web.netns, 81)];
            let _udp = Server::udp(&web.netns, 82);
            let _host = Server::here("0.0.0.0:7300");
            let outside = host.outside();
            let _there = outside.tcp(80);
            let ask = |from: &Path, to, port| lab::in_netns(from, || ask_tcp(to, port));
            let [gateway, address] = [1, 3].map(|last| host.address(last));
            let names = || std::fs::read_to_string(&one.hosts).unwrap();
            assert!(ask(&one.netns, address, 81).is_ok() && names().contains("\tc2\n"));

            let mut talk = lab::in_netns(&one.netns, || UdpClient::to(address, 82));
            assert!(talk.ask().is_ok());

            let net = host
                .network_with(|config| config.reach.neighbours = false)
                .await;
            let repaired = net.repair(&wanted, &BTreeSet::new()).await.unwrap();
            let guards = repaired.iter().filter(|line| line.starts_with("guard at"));
            assert_eq!(guards.count(), 2, "{repaired:?}");
            host.repairs_nothing(&net, &wanted).await;
            // They know each other's hardware address from before, which leads nowhere now.
            lab::in_netns(&one.netns, || lab::shell("ip neigh flush dev eth0"));
            for port in [80, 81] {
                let refused = ask(&one.netns, address, port).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{port}");
            }
            // Those who talked before do not go on.
            assert!(talk.ask().is_err());
            let ping = format!("! busybox ping -c 1 -W 1 {address}");
            lab::in_netns(&one.netns, || lab::shell(&ping));
            assert!(names().contains("\tc1\n") && !names().contains("\tc2\n"));
            for from in [&one.netns, &web.netns] {
                for (to, port) in [
                    (lab::HOST_LAN, 18080),
                    (gateway, 18080),
                    (lab::OUTSIDE, 80),
                    (gateway, 7300),
                ] {
                    let asked = ask(from, to, port);
                    assert!(asked.is_ok(), "{to}:{port}: {asked:?}");
                }
            }
            assert!(ask_tcp(address, 81).is_ok(), "the host");
            assert!(ask_tcp(LOCALHOST, 18080).is_ok(), "by a published port");
            let asked = outside.run(|| ask_tcp(lab::HOST_LAN, 18080));
            assert!(asked.is_ok(), "{asked:?}");
            // One that comes later is isolated from the beginning.
            let late = host.attach(&net, 3, 4, vec![]).await.unwrap();
            assert!(ask(&late.netns, address, 80).is_err());
            assert!(ask(&late.netns, gateway, 18080).is_ok());
            net.detach(lab::instance(3)).await.unwrap();

            let open = host.network().await;
            open.repair(&wanted, &BTreeSet::new()).await.unwrap();
            host.repairs_nothing(&open, &wanted).await;
            lab::in_netns(&one.netns, || lab::shell("ip neigh flush dev eth0"));
            assert!(ask(&one.netns, address, 81).is_ok() && names().contains("\tc2\n"));
            open.teardown().await.unwrap();
        });
    }
}

#[test]
fn an_isolated_container_whose_link_cannot_be_closed_is_not_connected_and_a_running_one_is_told() {
    on_a_private_host("unclosed", async |host| {
        let net = host
            .network_with(|config| config.reach.neighbours = false)
            .await;
        let wanted = [host.wanted(1, 2, vec![])];
        host.attach(&net, 1, 2, vec![]).await.unwrap();
        let link = host.veth();
        // A filter for IPv4 alone has the place: nobody else's fits in.
        lab::shell(&format!(
            "tc qdisc del dev {link} clsact && tc qdisc add dev {link} clsact && tc filter add dev \
             {link} ingress protocol ip pref 1 bpf da bytecode '1,6 0 0 4294967295,'"
        ));
        let refused = host.attach(&net, 1, 2, vec![]).await.unwrap_err();
        let Failure {
            reason, message, ..
        } = refused.into();
        assert_eq!(reason, Reason::BridgeFailed);
        for part in ["not connected", "another program's filter"] {
            assert!(message.contains(part), "{message}");
        }
        net.repair(&wanted, &BTreeSet::new()).await.unwrap();
        let told = net.findings().borrow().clone();
        assert_eq!(told[0].alarm, Alarm::NeighboursNotClosed, "{told:?}");
        assert!(told[0].message.contains(&link), "{told:?}");
        lab::shell(&format!("tc qdisc del dev {link} clsact"));
        host.attach(&net, 1, 2, vec![]).await.unwrap();
        net.repair(&wanted, &BTreeSet::new()).await.unwrap();
        assert_eq!(net.findings().borrow().len(), 0);

        // Of a link that does not tell whose it is nothing wider is believed, by a new agent.
        let net = host
            .network_with(|config| config.reach.neighbours = false)
            .await;
        lab::shell(&format!("ip link set {link} address 02:00:00:00:00:01"));
        let untouched = BTreeSet::from([lab::instance(1).id]);
        let before = lab::output(&format!("tc filter show dev {link} ingress"));
        net.repair(&[], &untouched).await.unwrap();
        let after = lab::output(&format!("tc filter show dev {link} ingress"));
        assert_eq!(after, before);
        let told = net.findings().borrow().clone();
        assert_eq!(told[0].alarm, Alarm::NeighboursNotClosed, "{told:?}");
        net.repair(&wanted, &BTreeSet::new()).await.unwrap();
        assert_eq!(net.findings().borrow().len(), 0);
        net.teardown().await.unwrap();
    });
}
