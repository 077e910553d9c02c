//! The network on a real kernel: what comes, what goes, what comes back, and what it costs.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use chas_node_agent::network::NetworkDriver as _;
use state::spec::Protocol::{Tcp, Udp};
use tokio::task::JoinSet;

use super::LOCALHOST;
use super::lab::{self, Server, ask_tcp, binding, bound, instance, on_a_private_host};

#[test]
fn a_connection_outlives_replaced_tables_and_restarted_agents() {
    on_a_private_host("replace", async |host| {
        let net = host.network().await;
        let web = host
            .attach(&net, 1, 2, vec![binding(Tcp, 18080, 80)])
            .await
            .unwrap();
        let _servers = [Server::tcp(&web.netns, 80)];
        let mut talk = lab::Talk::start(LOCALHOST, 18080);
        let wanted = [host.wanted(1, 2, vec![binding(Tcp, 18080, 80)])];
        for round in 0..10 {
            lab::shell(&format!(
                "nft flush map ip {0} ports; nft add rule ip {0} forward counter",
                host.bridge()
            ));
            let lines = net.repair(&wanted, &BTreeSet::new()).await.unwrap();
            assert_eq!(lines.len(), 2, "{lines:?}");
            talk.once(round);
            assert!(ask_tcp(LOCALHOST, 18080).is_ok(), "a new one");
        }
        let next = host.network().await;
        talk.once(100);
        assert!(
            ask_tcp(LOCALHOST, 18080).is_ok(),
            "published by the agent before"
        );
        assert_eq!(
            next.repair(&wanted, &BTreeSet::new()).await.unwrap(),
            Vec::<String>::new()
        );
        talk.once(101);
        next.teardown().await.unwrap();
    });
}

#[test]
fn whatever_is_taken_away_comes_back() {
    on_a_private_host("repair", async |host| {
        let net = host.network().await;
        let ports = vec![binding(Tcp, 18080, 80), bound(LOCALHOST, Tcp, 18081, 80)];
        let web = host.attach(&net, 1, 2, ports.clone()).await.unwrap();
        let wanted = [host.wanted(1, 2, ports)];
        let _servers = [Server::tcp(&web.netns, 80)];
        assert_eq!(
            net.repair(&wanted, &BTreeSet::new()).await.unwrap(),
            Vec::<String>::new(),
            "nothing to do"
        );

        let (bridge, veth) = (host.bridge(), host.veth());
        for harm in [
            format!("nft delete table ip {bridge}"),
            "nft flush ruleset".to_owned(),
            format!("nft delete element ip {bridge} ports '{{ tcp . 18080 }}'"),
            format!("nft delete element ip {bridge} bound '{{ 127.0.0.1 . tcp . 18081 }}'"),
            format!("nft add element ip {bridge} ports '{{ tcp . 1 : 10.0.0.1 . 1 }}'"),
            format!("ip link set {veth} down"),
            format!("ip link set {veth} nomaster"),
            format!("ip link set {veth} type bridge_slave hairpin off"),
            format!("ip link delete {veth}"),
            format!("ip link set {bridge} down"),
            format!("ip link delete {bridge}"),
            format!("ip address flush dev {bridge}"),
            format!("ip link set {bridge} address 02:00:00:00:00:09"),
            format!("sysctl -qw net.ipv4.conf.{bridge}.route_localnet=0"),
            "sysctl -qw net.ipv4.ip_forward=0".to_owned(),
            format!("rm {}", web.hosts.display()),
        ] {
            lab::shell(&harm);
            let lines = net.repair(&wanted, &BTreeSet::new()).await.unwrap();
            assert!(!lines.is_empty(), "{harm} is told");
            host.repairs_nothing(&net, &wanted).await;
            for port in [18080, 18081] {
                assert!(ask_tcp(LOCALHOST, port).is_ok(), "{port} after {harm}");
            }
            let lan = lab::HOST_LAN;
            assert!(
                host.outside().run(move || ask_tcp(lan, 18080)).is_ok(),
                "from outside after {harm}"
            );
        }
        assert!(web.hosts.exists());
        net.teardown().await.unwrap();
    });
}

#[test]
fn an_attach_repairs_what_it_needs_without_waiting_for_the_repair() {
    on_a_private_host("heal", async |host| {
        let net = host.network().await;
        host.attach(&net, 1, 2, vec![binding(Tcp, 18080, 80)])
            .await
            .unwrap();
        for harm in [
            "nft flush ruleset".to_owned(),
            format!("ip link delete {}", host.bridge()),
        ] {
            lab::shell(&harm);
            let web = host
                .attach(&net, 1, 2, vec![binding(Tcp, 18080, 80)])
                .await
                .unwrap();
            let _servers = [Server::tcp(&web.netns, 80)];
            assert!(ask_tcp(LOCALHOST, 18080).is_ok(), "after {harm}");
        }
        net.teardown().await.unwrap();
    });
}

#[test]
fn what_belongs_to_nobody_is_taken_away_and_what_is_not_ours_stays() {
    on_a_private_host("leftover", async |host| {
        let net = host.network().await;
        for n in 1..=3 {
            host.attach(
                &net,
                n,
                u8::try_from(n).unwrap() + 1,
                vec![binding(Tcp, 18080 + u16::try_from(n).unwrap(), 80)],
            )
            .await
            .unwrap();
        }
        lab::shell("ip link add foreign0 type veth peer name foreign1 && nft add table ip foreign");
        lab::shell(&format!("ip link set foreign0 master {}", host.bridge()));
        std::fs::write(host.netns_dir().join("somebody"), "").unwrap();

        let young = net.repair(&[], &BTreeSet::new()).await.unwrap();
        assert_eq!(
            young,
            Vec::<String>::new(),
            "what this process attached a moment ago may be newer than the list"
        );

        let next = host.network().await;
        let lines = next
            .repair(
                &[host.wanted(2, 3, vec![binding(Tcp, 18082, 80)])],
                &BTreeSet::new(),
            )
            .await
            .unwrap();
        for leftover in [
            "netns 000000000001-1",
            "hosts files of 000000000003-1",
            "host port 18083/tcp withdrawn from 000000000003-1",
        ] {
            assert!(
                lines.iter().any(|line| line == leftover),
                "{leftover} in {lines:?}"
            );
        }
        assert!(!host.table().contains("18081") && host.table().contains("18082"));
        host.wait_for_veths(1);
        assert!(host.netns_dir().join("somebody").exists());
        lab::shell("ip -d link show foreign0 | grep -q 'master t-' && nft list table ip foreign");
        std::fs::remove_file(host.netns_dir().join("somebody")).unwrap();
        next.teardown().await.unwrap();
        lab::shell("nft list table ip foreign");
    });
}

#[test]
fn a_bridge_that_somebody_else_made_is_not_removed() {
    on_a_private_host("theirs", async |host| {
        let net = host.network().await;
        let bridge = host.bridge();
        lab::shell(&format!(
            "ip link del {bridge} && ip link add {bridge} type bridge"
        ));
        lab::shell(&format!(
            "ip link add foreign0 type veth peer name foreign1 && ip link set foreign0 master {bridge}"
        ));
        let refused = net.teardown().await.unwrap_err();
        assert!(refused.to_string().contains("is not removed"), "{refused}");
        // What the agent made beside it is gone; what somebody else makes of that name stays.
        lab::shell(&format!(
            "ip link show {bridge} && ! nft list table ip {bridge}"
        ));
        lab::shell(&format!(
            "nft add table ip {bridge} && nft add chain ip {bridge} theirs && \
             nft add map ip {bridge} ports '{{ type inet_service : ipv4_addr; }}'"
        ));
        net.teardown().await.unwrap_err();
        lab::shell(&format!("nft list chain ip {bridge} theirs"));
    });
}

#[test]
fn a_detached_container_leaves_nothing() {
    on_a_private_host("detach", async |host| {
        let net = host.network().await;
        let web = host
            .attach(&net, 1, 2, vec![binding(Tcp, 18080, 80)])
            .await
            .unwrap();
        let db = host.attach(&net, 2, 3, vec![]).await.unwrap();
        assert!(std::fs::read_to_string(&db.hosts).unwrap().contains("c1\n"));
        let started = Instant::now();
        net.detach(instance(1)).await.unwrap();
        println!("detach took {:?}", started.elapsed());
        net.detach(instance(1)).await.expect("it is already done");
        assert!(!web.netns.exists() && !web.hosts.exists());
        assert_eq!(host.table(), "");
        assert!(!std::fs::read_to_string(&db.hosts).unwrap().contains("c1\n"));
        host.wait_for_veths(1);

        let again = host
            .attach(&net, 1, 2, vec![binding(Tcp, 18080, 80)])
            .await
            .unwrap();
        net.detach(instance(1)).await.unwrap();
        let again = (
            again,
            host.attach(&net, 1, 2, vec![binding(Tcp, 18080, 80)])
                .await
                .expect("at once, under the same name"),
        );
        let _servers = [Server::tcp(&again.1.netns, 80)];
        assert!(ask_tcp(LOCALHOST, 18080).is_ok());
        net.teardown().await.unwrap();
        assert!(!host.netns_dir().exists());
        lab::shell(&format!(
            "! ip link show {0} && ! nft list table ip {0}",
            host.bridge()
        ));
    });
}

#[test]
fn no_flow_of_a_detached_container_is_left_for_the_next_one_at_its_address() {
    on_a_private_host("flows", async |host| {
        let net = host.network().await;
        let ports = vec![binding(Udp, 18081, 53), binding(Tcp, 18080, 80)];
        let web = host.attach(&net, 1, 2, ports).await.unwrap();
        let other = host.outside().udp(5300);
        let servers = [Server::udp(&web.netns, 53), Server::tcp(&web.netns, 80)];
        assert!(lab::in_netns(&web.netns, || lab::ask_udp(lab::OUTSIDE, 5300)).is_ok());
        let asked = host.outside().run(|| {
            let udp = lab::ask_udp(lab::HOST_LAN, 18081);
            udp.is_ok() && ask_tcp(lab::HOST_LAN, 18080).is_ok()
        });
        assert!(asked);
        let address = format!("={} ", host.address(2));
        // The table of the calling thread's netns.
        let flows = || {
            let all = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
            let of_it = all.lines().filter(|line| line.contains(&address));
            of_it.map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(flows().len() >= 3, "{:#?}", flows());
        drop(servers);
        net.detach(instance(1)).await.unwrap();
        assert_eq!(flows(), Vec::<String>::new());
        drop(other);
    });
}

#[test]
fn the_next_generation_takes_over_address_and_ports() {
    on_a_private_host("generation", async |host| {
        let net = host.network().await;
        host.attach(&net, 1, 2, vec![binding(Tcp, 18080, 80)])
            .await
            .unwrap();
        let (old, name, to, network) = host.wanted(1, 2, vec![binding(Tcp, 18080, 8080)]);
        let new = state::id::InstanceName {
            generation: 2,
            ..old
        };
        net.attach(new, &name, &to, &network).await.unwrap();
        net.detach(old).await.unwrap();
        assert!(
            host.table()
                .contains("tcp . 18080 comment \"000000000001-2\""),
            "{}",
            host.table()
        );
        host.wait_for_veths(1);
        let web = net.attach(new, &name, &to, &network).await.unwrap().paths;
        let _servers = [Server::tcp(&web.netns, 8080)];
        assert!(ask_tcp(LOCALHOST, 18080).is_ok());
        net.teardown().await.unwrap();
    });
}

#[test]
fn a_dead_netns_does_not_answer_for_an_address_that_is_used_again() {
    on_a_private_host("again", async |host| {
        let net = host.network().await;
        let address = host.address(2);
        for n in 1..=10 {
            let old = host.attach(&net, n, 2, vec![]).await.unwrap();
            // Whatever holds a netns open makes the kernel keep all of it, its answers to ARP included.
            let _held = std::fs::File::open(&old.netns).unwrap();
            net.detach(instance(n)).await.unwrap();
            let new = host.attach(&net, n + 100, 2, vec![]).await.unwrap();
            let _servers = [Server::tcp(&new.netns, 80)];
            assert!(ask_tcp(address, 80).is_ok(), "round {n}");
            net.detach(instance(n + 100)).await.unwrap();
        }
        net.teardown().await.unwrap();
    });
}

#[test]
fn fifty_at_once_come_and_go() {
    on_a_private_host("fifty", async |host| {
        let net = std::sync::Arc::new(host.network().await);
        let started = Instant::now();
        let mut tasks = JoinSet::new();
        for n in 1..=50_u8 {
            let (net, (instance, name, to, network)) = (
                net.clone(),
                host.wanted(
                    n.into(),
                    n + 1,
                    vec![binding(Tcp, 20000 + u16::from(n), 80)],
                ),
            );
            tasks.spawn(async move { net.attach(instance, &name, &to, &network).await });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap().unwrap();
        }
        println!("50 attached in {:?}", started.elapsed());
        assert_eq!(host.table().matches("tcp . 20").count(), 50);
        let wanted: Vec<_> = (1..=50_u8)
            .map(|n| {
                host.wanted(
                    n.into(),
                    n + 1,
                    vec![binding(Tcp, 20000 + u16::from(n), 80)],
                )
            })
            .collect();
        let started = Instant::now();
        assert_eq!(
            net.repair(&wanted, &BTreeSet::new()).await.unwrap(),
            Vec::<String>::new()
        );
        println!("50 compared in {:?}", started.elapsed());

        let started = Instant::now();
        let mut detaching = JoinSet::new();
        for n in 1..=50 {
            let net = net.clone();
            detaching.spawn(async move { net.detach(instance(n)).await });
        }
        while let Some(done) = detaching.join_next().await {
            done.unwrap().unwrap();
        }
        println!("50 detached in {:?}", started.elapsed());
        assert_eq!(host.table(), "");
        host.wait_for_veths(0);
        net.teardown().await.unwrap();
    });
}

#[test]
fn an_attach_costs_milliseconds() {
    on_a_private_host("timing", async |host| {
        let net = host.network().await;
        let mut took = Vec::new();
        for n in 1..=20_u8 {
            let started = Instant::now();
            host.attach(
                &net,
                n.into(),
                n + 1,
                vec![binding(Tcp, 20000 + u16::from(n), 80)],
            )
            .await
            .unwrap();
            took.push(started.elapsed());
        }
        took.sort();
        println!("attach: median {:?}, all {took:?}", took[10]);
        assert!(took[10] < Duration::from_millis(100), "{took:?}");
        net.teardown().await.unwrap();
    });
}
