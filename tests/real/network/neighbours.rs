//! What containers on one bridge can do to each other.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use chas_node_agent::network::NetworkDriver as _;

use super::lab::{self, Server, ask_tcp, on_a_private_host};

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
