//! The agent's table while other programs delete it, or change it.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use chas_node_agent::network::{BridgeNetwork, NetworkDriver as _};
use state::spec::Protocol::{Tcp, Udp};

use super::lab::{self, Server, UdpClient, binding, on_a_private_host};

/// Longest time that the table may be away, in the middle of several times. The kernel's word brings it back
/// within 100 ms on a machine at rest; nobody else does before the comparison after 30 s.
const BACK_WITHIN: Duration = Duration::from_secs(1);

/// Longest time that it may be away while it is lost again and again.
const BACK_AT_LAST: Duration = Duration::from_secs(3);

/// Runs `test` while the table is guarded.
async fn guarded(net: &BridgeNetwork, test: impl Future<Output = ()>) {
    tokio::select! {
        () = net.guard_table() => {}
        () = test => {}
    }
}

/// Runs `spoil`, and answers how long the table is not `full` then; at most [`BACK_AT_LAST`].
/// Not on this thread, which has to restore the table.
async fn away(table: &str, full: &str, spoil: impl FnOnce() + Send + 'static) -> Duration {
    let (table, full) = (table.to_owned(), full.to_owned());
    let looking = tokio::task::spawn_blocking(move || {
        spoil();
        let spoilt = Instant::now();
        while lab::rules(&table) != full && spoilt.elapsed() < BACK_AT_LAST {
            std::thread::sleep(Duration::from_millis(2));
        }
        spoilt.elapsed()
    });
    looking.await.unwrap()
}

#[test]
fn the_table_is_back_at_once() {
    on_a_private_host("back", async |host| {
        let net = host.network().await;
        let bridge = host.bridge();
        let ports = vec![binding(Tcp, 18080, 80)];
        host.attach(&net, 1, 2, ports).await.unwrap();
        let published = host.table();
        let full = lab::rules(&bridge);
        let changes = [
            "nft flush ruleset".to_owned(),
            format!("nft delete table ip {bridge}"),
            format!("nft flush chain ip {bridge} guard"),
            format!("nft flush map ip {bridge} ports"),
            format!("nft 'add table ip {bridge} {{ flags dormant; }}'"),
            format!("nft insert rule ip {bridge} guard accept"),
            format!("nft 'add element ip {bridge} ports {{ tcp . 9999 : 10.99.0.2 . 80 }}'"),
        ];
        for change in &changes {
            lab::shell(change);
            assert_ne!(lab::rules(&bridge), full, "{change}");
            net.repair(
                &[host.wanted(1, 2, vec![binding(Tcp, 18080, 80)])],
                &std::collections::BTreeSet::new(),
            )
            .await
            .unwrap();
        }
        guarded(&net, async {
            for change in changes {
                let mut times = Vec::new();
                for _ in 0..6 {
                    tokio::time::sleep(Duration::from_millis(400)).await;
                    let change = change.clone();
                    times.push(away(&bridge, &full, move || lab::shell(&change)).await);
                }
                times.sort();
                println!("{change}: {times:?}");
                assert!(times[3] < BACK_WITHIN, "{change}: {times:?}");
                assert_eq!(host.table(), published, "{change}");
            }
        })
        .await;
        net.teardown().await.unwrap();
    });
}

#[test]
fn a_flush_soon_after_another_loses_the_table_for_a_moment_only() {
    on_a_private_host("twice", async |host| {
        let net = host.network().await;
        let bridge = host.bridge();
        host.attach(&net, 1, 2, vec![binding(Tcp, 18080, 80)])
            .await
            .unwrap();
        let full = lab::rules(&bridge);
        guarded(&net, async {
            let mut lost = Vec::new();
            // The first flush of a restarted nftables.service is some ten milliseconds before the
            // second, and the table is written in between.
            for pause in (0..=60).step_by(4).chain((0..=60).step_by(3)) {
                let pause = Duration::from_millis(pause);
                let flush_twice = move || {
                    lab::shell("nft flush ruleset");
                    std::thread::sleep(pause);
                    lab::shell("nft flush ruleset");
                };
                if away(&bridge, &full, flush_twice).await >= BACK_AT_LAST {
                    lost.push(pause);
                }
            }
            assert_eq!(lost, Vec::<Duration>::new());
        })
        .await;
        net.teardown().await.unwrap();
    });
}

#[test]
fn what_a_flush_takes_beside_the_table_is_mended_as_well() {
    on_a_private_host("beside", async |host| {
        lab::shell("iptables -P FORWARD DROP");
        let net = host.network().await;
        let ports = vec![binding(Udp, 15353, 53)];
        let names = host.attach(&net, 1, 2, ports).await.unwrap();
        let _inside = Server::udp(&names.netns, 53);
        lab::shell("nft flush ruleset && iptables -P FORWARD DROP");
        let outside = host.outside();
        // Nobody answers, and to the kernel that is a flow: as long as the client goes on asking
        // from its port it leads nowhere.
        let mut client = outside.run(|| UdpClient::to(lab::HOST_LAN, 15353));
        assert!(client.ask().is_err());
        guarded(&net, async move {
            let asking = tokio::task::spawn_blocking(move || {
                let began = Instant::now();
                let mut answer = client.ask();
                while answer.is_err() && began.elapsed() < Duration::from_secs(20) {
                    answer = client.ask();
                }
                answer.map(|_| began.elapsed())
            });
            let answered = asking.await.unwrap();
            assert!(answered.is_ok(), "{answered:?}");
        })
        .await;
        net.teardown().await.unwrap();
    });
}

/// The node's addresses in two other networks, and another host in each.
const SECOND: [Ipv4Addr; 2] = [
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv4Addr::new(198, 51, 100, 2),
];
const THIRD: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2)];

#[test]
fn the_node_connects_no_networks_that_it_did_not_connect_before() {
    for (forwarded, is_open) in [("0", false), ("1", true)] {
        on_a_private_host("router", async |host| {
            lab::shell(&format!("sysctl -qw net.ipv4.ip_forward={forwarded}"));
            let first = host.outside();
            let second = lab::Outside::on("lan1", SECOND[0], SECOND[1]);
            // One that may connect all, and is then configured otherwise.
            host.network_with(|config| config.routes_between_networks = true)
                .await;
            let net = host.network().await;
            let web = host.attach(&net, 1, 2, vec![]).await.unwrap();
            // Of a program that forwards on purpose, and came later.
            let third = lab::Outside::on("later0", THIRD[0], THIRD[1]);
            first.shell(&format!("ip route add default via {}", lab::HOST_LAN));
            second.shell(&format!("ip route add default via {}", SECOND[0]));
            third.shell(&format!("ip route add default via {}", THIRD[0]));
            let _servers = [first.tcp(80), second.tcp(80), third.tcp(80)];
            let reach = |from: &lab::Outside, to| from.run(|| lab::ask_tcp(to, 80)).is_ok();

            assert_eq!(reach(first, SECOND[1]), is_open, "before: {forwarded}");
            assert_eq!(reach(&second, lab::OUTSIDE), is_open, "before: {forwarded}");
            assert!(reach(first, THIRD[1]) && reach(&third, SECOND[1]));
            for to in [lab::OUTSIDE, SECOND[1], THIRD[1]] {
                let asked = lab::in_netns(&web.netns, || lab::ask_tcp(to, 80));
                assert!(asked.is_ok(), "a container asks {to}: {asked:?}");
            }
            // Another agent on the node finds forwarding on, by the one before.
            let again = host.network().await;
            assert_eq!(reach(first, SECOND[1]), is_open);
            host.repairs_nothing(&again, &[host.wanted(1, 2, vec![])])
                .await;
            let open = host
                .network_with(|config| config.routes_between_networks = true)
                .await;
            assert!(reach(first, SECOND[1]), "where it is so configured");
            open.teardown().await.unwrap();
        });
    }
}
