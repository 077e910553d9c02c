//! The network on a real kernel. Each test has a host of its own: a netns of its own, and in it bridge, rules and
//! switches that nobody else sees. Needs root, `nft`, `ip` and `iptables`. Here: who reaches whom.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that finds nothing to unwrap has failed, and real time passes here"
)]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use chas_node_agent::network::{NetworkDriver as _, NetworkError};
use state::spec::Protocol::{Tcp, Udp};

use lab::{Server, ask_tcp, ask_udp, binding, bound, instance, on_a_private_host};

mod belts;
mod beside;
mod flushes;
mod groups;
mod hosts;
mod ipv6;
pub(crate) mod lab;
mod lifecycle;
mod neighbours;
mod rules;
mod subnet;

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn a_published_port_answers_from_everywhere() {
    on_a_private_host("everywhere", async |host| {
        // The strictest: a packet must come from where its answer would go.
        lab::shell("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1");
        let net = host.network().await;
        let ports = vec![
            binding(Tcp, 18080, 80),
            binding(Udp, 18053, 53),
            bound(LOCALHOST, Tcp, 18081, 80),
        ];
        let web = host.attach(&net, 1, 2, ports).await.unwrap();
        let db = host
            .attach(&net, 2, 3, vec![binding(Tcp, 15432, 5432)])
            .await
            .unwrap();
        let _servers = [
            Server::tcp(&web.netns, 80),
            Server::tcp(&db.netns, 5432),
            Server::udp(&web.netns, 53),
        ];
        let (web_ip, gateway, lan, outside) = (
            host.address(2),
            host.address(1),
            lab::HOST_LAN,
            host.outside(),
        );

        assert_eq!(
            ask_tcp(LOCALHOST, 18080).unwrap(),
            gateway,
            "the host, over loopback"
        );
        assert_eq!(
            ask_udp(LOCALHOST, 18053).unwrap(),
            gateway,
            "the host, over loopback, UDP"
        );
        assert_eq!(
            ask_tcp(LOCALHOST, 18081).unwrap(),
            gateway,
            "bound to loopback"
        );
        assert_eq!(
            ask_tcp(lan, 18080).unwrap(),
            lan,
            "the host, to its own address"
        );
        assert_eq!(
            ask_tcp(gateway, 18080).unwrap(),
            gateway,
            "the host, to the bridge's address"
        );
        assert_eq!(
            ask_tcp(web_ip, 80).unwrap(),
            gateway,
            "the host, straight to the container"
        );

        assert_eq!(
            outside.run(move || ask_tcp(lan, 18080)).unwrap(),
            lab::OUTSIDE,
            "another host sees its own address"
        );
        assert_eq!(
            outside.run(move || ask_udp(lan, 18053)).unwrap(),
            lab::OUTSIDE,
            "another host, UDP"
        );
        assert!(
            outside.run(move || ask_tcp(lan, 18081)).is_err(),
            "what is bound to loopback stays on the host"
        );

        for to in [lan, gateway] {
            assert_eq!(
                lab::in_netns(&db.netns, move || ask_tcp(to, 18080)).unwrap(),
                gateway,
                "another container, by {to}"
            );
            assert_eq!(
                lab::in_netns(&db.netns, move || ask_udp(to, 18053)).unwrap(),
                gateway,
                "another container, UDP, by {to}"
            );
            assert_eq!(
                lab::in_netns(&web.netns, move || ask_tcp(to, 18080)).unwrap(),
                gateway,
                "itself (hairpin), by {to}"
            );
        }
        assert_eq!(
            lab::in_netns(&db.netns, move || ask_tcp(web_ip, 80)).unwrap(),
            host.address(3),
            "container to container"
        );
        assert!(
            lab::in_netns(&web.netns, || ask_tcp(LOCALHOST, 80)).is_ok(),
            "a container's own loopback"
        );
        net.teardown().await.unwrap();
    });
}

#[test]
fn a_container_reaches_the_outside_in_the_hosts_name() {
    on_a_private_host("outwards", async |host| {
        lab::shell(&format!(
            "ip link set lan0 mtu 1400 && ip route add default via {}",
            lab::OUTSIDE
        ));
        let net = host.network().await;
        let one = host.attach(&net, 1, 2, vec![]).await.unwrap();
        let _servers = [host.outside().tcp(8000), host.outside().udp(8000)];
        assert_eq!(
            lab::in_netns(&one.netns, || ask_tcp(lab::OUTSIDE, 8000)).unwrap(),
            lab::HOST_LAN
        );
        assert_eq!(
            lab::in_netns(&one.netns, || ask_udp(lab::OUTSIDE, 8000)).unwrap(),
            lab::HOST_LAN
        );
        lab::in_netns(&one.netns, || {
            lab::shell("ip -o link show dev eth0 | grep -q 'mtu 1400'");
        });
        lab::in_netns(&one.netns, || {
            lab::shell(
                "! ip -6 address show dev eth0 | grep inet6 && ip address show dev lo | grep -q inet6",
            );
        });
        net.teardown().await.unwrap();
    });
}

#[test]
fn what_is_not_published_is_not_reachable() {
    on_a_private_host("guard", async |host| {
        let net = host.network().await;
        let one = host.attach(&net, 1, 2, vec![]).await.unwrap();
        let _servers = [Server::tcp(&one.netns, 80)];
        let (address, gateway) = (host.address(2), host.address(1));

        host.outside().shell(&format!(
            "ip route add {} via {}",
            host.subnet(),
            lab::HOST_LAN
        ));
        assert!(
            host.outside().run(move || ask_tcp(address, 80)).is_err(),
            "a neighbour that routes through the host"
        );

        // A container may make up packets (CAP_NET_RAW); none may reach what listens on the host's loopback only.
        let _private = Server::here("127.0.0.1:7000");
        lab::in_netns(&one.netns, move || {
            lab::shell(
                "ip address flush dev lo && ip link set lo down && sysctl -qw net.ipv4.conf.eth0.route_localnet=1",
            );
            lab::shell(&format!(
                "ip route add 127.0.0.0/8 via {gateway} src {address}"
            ));
            assert!(
                ask_tcp(LOCALHOST, 7000).is_err(),
                "the host's loopback, from a container"
            );
        });
        net.teardown().await.unwrap();
    });
}

#[test]
fn a_port_on_the_loopback_is_the_hosts_own_even_for_a_neighbour_who_routes_it_here() {
    on_a_private_host("loopback", async |host| {
        let net = host.network().await;
        let ports = vec![
            binding(Tcp, 18080, 80),
            bound(LOCALHOST, Tcp, 18081, 80),
            bound(LOCALHOST, Udp, 18053, 53),
        ];
        let web = host.attach(&net, 1, 2, ports).await.unwrap();
        let _servers = [Server::tcp(&web.netns, 80), Server::udp(&web.netns, 53)];
        assert!(ask_tcp(LOCALHOST, 18081).is_ok() && ask_udp(LOCALHOST, 18053).is_ok());
        // A neighbour may send what it likes over the wire, packets for 127.0.0.1 among it.
        host.outside().shell(&format!(
            "ip address flush dev lo && ip link set lo down \
             && sysctl -qw net.ipv4.conf.all.route_localnet=1 \
             && ip route add 127.0.0.0/8 via {} src {}",
            lab::HOST_LAN,
            lab::OUTSIDE
        ));
        for port in [18080, 18081] {
            let asked = host.outside().run(move || ask_tcp(LOCALHOST, port));
            assert!(asked.is_err(), "{port}: {asked:?}");
        }
        let asked = host.outside().run(|| ask_udp(LOCALHOST, 18053));
        assert!(asked.is_err(), "{asked:?}");
        assert!(
            host.outside().run(|| ask_tcp(lab::HOST_LAN, 18080)).is_ok(),
            "what is published to everybody answers them"
        );
        net.teardown().await.unwrap();
    });
}

#[test]
fn a_host_port_that_somebody_listens_on_is_refused() {
    on_a_private_host("taken", async |host| {
        let net = host.network().await;
        let listener = std::net::TcpListener::bind("[::]:18080").unwrap();
        let refused = host
            .attach(
                &net,
                1,
                2,
                vec![binding(Udp, 18080, 80), binding(Tcp, 18080, 80)],
            )
            .await;
        assert!(
            matches!(&refused, Err(NetworkError::PortTaken { binding, .. }) if binding.protocol == Tcp),
            "{refused:?}"
        );
        assert_eq!(host.table(), "", "nothing of a refused set is published");
        drop(listener);
        host.attach(&net, 1, 2, vec![binding(Tcp, 18080, 80)])
            .await
            .unwrap();

        let other = host.attach(&net, 2, 3, vec![binding(Tcp, 18080, 80)]).await;
        assert!(
            matches!(other, Err(NetworkError::PortTaken { .. })),
            "another container has it: {other:?}"
        );

        let _late = std::net::TcpListener::bind("0.0.0.0:18080").unwrap();
        host.attach(&net, 1, 2, vec![binding(Tcp, 18080, 80)])
            .await
            .expect("it was this container's first");
        net.teardown().await.unwrap();
    });
}

#[test]
fn two_agents_share_a_host() {
    on_a_private_host("two", async |host| {
        let one = host.network().await;
        let two = host.another_network().await;
        let (mut ones, mut twos) = (Vec::new(), Vec::new());
        for n in 1..=8_u8 {
            let (instance, name, here, network) = host.wanted(
                n.into(),
                n + 1,
                vec![binding(Tcp, 20000 + u16::from(n), 80)],
            );
            let mut there = here.clone();
            there.address = Some(Ipv4Addr::new(10, 98, 0, n + 1));
            there.ports[0].host += 100;
            let both = tokio::join!(
                one.attach(instance, &name, &here, &network),
                two.attach(instance, &name, &there, &network)
            );
            ones.push(both.0.unwrap());
            twos.push(both.1.unwrap());
        }
        let _servers = [
            Server::tcp(&ones[0].paths.netns, 80),
            Server::tcp(&twos[0].paths.netns, 80),
        ];
        for port in [20001, 20101] {
            assert!(ask_tcp(LOCALHOST, port).is_ok(), "{port}");
            for inside in [&ones[3], &twos[3]] {
                assert!(
                    lab::in_netns(&inside.paths.netns, move || ask_tcp(lab::HOST_LAN, port))
                        .is_ok(),
                    "{port} from {inside:?}"
                );
            }
        }
        let other = Ipv4Addr::new(10, 98, 0, 2);
        assert!(
            lab::in_netns(&ones[1].paths.netns, move || ask_tcp(other, 80)).is_err(),
            "only what is published is reached"
        );
        one.teardown().await.unwrap();
        assert!(
            ask_tcp(LOCALHOST, 20101).is_ok(),
            "the other one is not touched"
        );
        two.teardown().await.unwrap();
    });
}

#[test]
fn a_host_that_drops_forwarded_packets_lets_the_bridges_through() {
    for (name, docker) in [
        ("drop", ""),
        (
            "docker",
            "iptables -N DOCKER-USER && iptables -I FORWARD -j DOCKER-USER",
        ),
    ] {
        on_a_private_host(name, async |host| {
            lab::shell("iptables -P FORWARD DROP");
            if !docker.is_empty() {
                lab::shell(docker);
            }
            let net = host.network().await;
            let web = host
                .attach(&net, 1, 2, vec![binding(Tcp, 18080, 80)])
                .await
                .unwrap();
            let _servers = [Server::tcp(&web.netns, 80), host.outside().tcp(8000)];
            assert!(
                host.outside().run(|| ask_tcp(lab::HOST_LAN, 18080)).is_ok(),
                "inwards"
            );
            assert!(
                lab::in_netns(&web.netns, || ask_tcp(lab::OUTSIDE, 8000)).is_ok(),
                "outwards"
            );

            let wanted = [host.wanted(1, 2, vec![binding(Tcp, 18080, 80)])];
            lab::shell("iptables -F FORWARD && iptables -P FORWARD DROP");
            let _ = net.repair(&wanted, &BTreeSet::new()).await.unwrap();
            if docker.is_empty() {
                assert!(
                    host.outside().run(|| ask_tcp(lab::HOST_LAN, 18080)).is_ok(),
                    "put back"
                );
            }
            net.detach(instance(1)).await.unwrap();
            net.repair(&[], &BTreeSet::new()).await.unwrap();
            lab::shell("! iptables -S | grep chas-node-agent");
            net.teardown().await.unwrap();
        });
    }
}

#[test]
fn a_udp_client_that_asked_too_early_is_answered_once_the_port_is_published() {
    on_a_private_host("early", async |host| {
        let net = host.network().await;
        let lan = lab::HOST_LAN;
        let mut early = host.outside().run(move || lab::UdpClient::to(lan, 18053));
        let mut local = lab::UdpClient::to(LOCALHOST, 18053);
        assert!(early.ask().is_err() && local.ask().is_err());
        let dns = host
            .attach(&net, 1, 2, vec![binding(Udp, 18053, 53)])
            .await
            .unwrap();
        let server = Server::udp(&dns.netns, 53);
        assert!(
            early.ask().is_ok() && local.ask().is_ok(),
            "published after the first question"
        );

        drop(server);
        net.detach(instance(1)).await.unwrap();
        let dns = host
            .attach(&net, 2, 3, vec![binding(Udp, 18053, 53)])
            .await
            .unwrap();
        let _servers = [Server::udp(&dns.netns, 53)];
        assert!(
            early.ask().is_ok() && local.ask().is_ok(),
            "moved to another container"
        );
        net.teardown().await.unwrap();
    });
}
