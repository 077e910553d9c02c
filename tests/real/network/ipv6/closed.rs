//! What a container cannot do over IPv6: stand in for others, reach whom it may not, and use the host as a way.

use std::collections::BTreeSet;

use super::*;

/// Sends a router's announcement to all neighbours, from a link-local address, and one that somebody
/// else's address is behind the sender.
fn announce() {
    use rustix::net::{
        AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, sockopt,
    };
    shell(
        "ip address add fe80::2/64 dev eth0 nodad; ip -6 route replace multicast ff00::/8 dev eth0 table local",
    );
    let index = output("ip -o link show eth0 | cut -d: -f1");
    let all = std::net::SocketAddrV6::new(
        "ff02::1".parse().unwrap(),
        0,
        0,
        index.trim().parse().unwrap(),
    );
    let (family, kind) = (AddressFamily::INET6, SocketType::RAW);
    let socket =
        rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(ipproto::ICMPV6))
            .unwrap();
    sockopt::set_ipv6_multicast_hops(&socket, 255).unwrap();
    // Type, code, checksum (the kernel's), hop limit, flags, lifetime in seconds, and two timers.
    let router = [&[134, 0, 0, 0, 64, 0, 7, 8][..], &[0; 8]].concat();
    let neighbour = [
        &[136, 0, 0, 0, 0x20, 0, 0, 0][..],
        &address6(3).octets(),
        // The sender's hardware address.
        &[2, 1, 0x0a, 0x58, 10, 99, 0, 2],
    ]
    .concat();
    for message in [router, neighbour] {
        for _ in 0..3 {
            sendto(&socket, &message, SendFlags::empty(), &all).unwrap();
        }
    }
}

fn heard() -> String {
    output(
        "grep -E 'Icmp6InRouterAdvertisements|Icmp6InNeighborAdvertisements' /proc/thread-self/net/snmp6 | tr -s '\\t ' ' '",
    )
}

#[test]
fn a_container_cannot_stand_in_for_another_nor_for_a_router() {
    for guard in [true, false] {
        on_a_private_host("spoof6", async |host| {
            // Else the table sees what goes from one container to another.
            shell("sysctl -qw net.bridge.bridge-nf-call-ip6tables=0");
            with_lan6(host);
            let net = host
                .network_with(|config| {
                    dual(config);
                    config.source_guard = guard;
                })
                .await;
            let (evil, _) = attach(host, &net, 1, 2, vec![]).await;
            let (db, _) = attach(host, &net, 2, 3, vec![]).await;
            let here = Server::here("[::]:7777");
            assert_eq!(
                in_netns(&evil.netns, || ask_tcp(address6(1), 7777)).unwrap(),
                address6(2)
            );
            let before = [in_netns(&db.netns, heard), heard()];
            in_netns(&evil.netns, announce);
            std::thread::sleep(std::time::Duration::from_millis(300));
            let after = [in_netns(&db.netns, heard), heard()];
            // Without the guard they are heard, which shows that they were sent, and believed by nobody.
            assert_eq!(before == after, guard, "{before:?} {after:?}");
            let routes =
                |from: &NetworkPaths| in_netns(&from.netns, || output("ip -6 route show default"));
            assert!(
                !routes(&db).contains("ra") && routes(&db).contains("fd12:3456:789a::1"),
                "{}",
                routes(&db)
            );
            assert!(!output("ip -6 route show default").contains(&host.bridge()));
            let neighbour = output(&format!(
                "ip -6 neigh show dev {} fd12:3456:789a::3",
                host.bridge()
            ));
            assert!(
                neighbour.contains("0a:58:0a:63:00:03") && neighbour.contains("PERMANENT"),
                "{neighbour}"
            );
            // As its neighbour, and as the bridge.
            for stolen in [address6(3), address6(77)] {
                in_netns(&evil.netns, move || {
                    shell(&format!("ip address replace {stolen}/128 dev eth0 nodad"));
                    shell(&format!(
                        "ip -6 route replace default via fd12:3456:789a::1 dev eth0 src {stolen}"
                    ));
                });
                let asked = in_netns(&evil.netns, || ask_tcp(address6(1), 7777));
                assert!(asked.is_err() || !guard, "{stolen}: {asked:?}");
            }
            drop(here);
            net.teardown().await.unwrap();
        });
    }
}

#[test]
fn groups_and_isolation_hold_over_ipv6_as_well() {
    use super::super::groups::ruled;
    use serde_json::json;
    for (bridged, open) in [("0", true), ("1", true), ("0", false), ("1", false)] {
        on_a_private_host("groups6", async |host| {
            shell(&format!(
                "sysctl -qw net.bridge.bridge-nf-call-ip6tables={bridged}"
            ));
            with_lan6(host);
            let net = host
                .network_with(|config| {
                    dual(config);
                    config.reach.neighbours = open;
                })
                .await;
            let db = json!({"groups": ["db"], "allow": {"ingress": [{"group": "shop", "ports": ["tcp/80"]}]}});
            let shut = json!({"groups": [], "allow": {"egress": [{"cidr": "0.0.0.0/0"}]}});
            let all = [
                ruled(host, 1, 2, vec![], &json!({"groups": ["shop"]})),
                ruled(host, 2, 3, vec![], &db),
                ruled(host, 3, 4, vec![], &shut),
                ruled(host, 4, 5, vec![binding(Tcp, 18085, 80)], &json!("bridge")),
            ];
            let mut paths = Vec::new();
            for (instance, names, assignment, network) in &all {
                let attached = net
                    .attach(*instance, names, assignment, network)
                    .await
                    .unwrap();
                assert!(attached.addresses.unwrap().address6.is_some());
                paths.push(attached.paths);
            }
            let ports = |one| [(one, 80), (one, 81)];
            let servers = paths.iter().flat_map(ports);
            let _servers: Vec<_> = servers.map(|(one, port)| server(one, port)).collect();
            let _there = host.outside().run(|| Server::here("[::]:8080"));
            let may = |from: usize, to: Ipv6Addr, port: u16| {
                in_netns(&paths[from].netns, move || ask_tcp(to, port)).is_ok()
            };
            let way = format!("{bridged} {open}");
            assert!(may(0, address6(3), 80), "shop to db, {way}");
            assert!(
                !may(0, address6(3), 81),
                "shop to another port of db, {way}"
            );
            assert!(!may(3, address6(3), 80), "one of no group to db, {way}");
            assert!(
                !may(2, address6(5), 80),
                "one whose egress is of IPv4 alone, {way}"
            );
            assert!(
                !may(2, OUTSIDE6, 8080) && may(3, OUTSIDE6, 8080),
                "to the outside, {way}"
            );
            assert_eq!(may(1, address6(5), 80), open, "to one without rules, {way}");
            assert!(may(1, HOST_LAN6, 18085), "its published port, {way}");
            net.teardown().await.unwrap();
        });
    }
}

/// Switches of the host by which it forwards, and takes routes.
fn switches() -> String {
    output(
        "sysctl -a 2>/dev/null | grep -E 'net.ipv6.conf.(all|default|lan0|lan1)[.](forwarding|force_forwarding|accept_ra) '",
    )
}

#[test]
fn the_host_connects_no_networks_and_forwards_no_more_once_the_key_is_gone() {
    on_a_private_host("router6", async |host| {
        with_lan6(host);
        let other = super::super::lab::Outside::on(
            "lan1",
            [198, 51, 100, 1].into(),
            [198, 51, 100, 2].into(),
        );
        shell("ip address add 2001:db8:2::1/64 dev lan1 nodad");
        other.shell("ip address add 2001:db8:2::2/64 dev lan1 nodad; ip -6 route add default via 2001:db8:2::1");
        host.outside()
            .shell(&format!("ip -6 route add default via {HOST_LAN6}"));
        let beyond: Ipv6Addr = "2001:db8:2::2".parse().unwrap();
        let _there = other.run(|| Server::here("[::]:8080"));
        let before = switches();
        let through = || host.outside().run(move || ask_tcp(beyond, 8080));
        assert!(through().is_err());
        // Refused at first: nothing is switched on for nothing.
        shell(&format!("ip -6 route add blackhole {SUBNET}"));
        let net = host.network_with(dual).await;
        assert_eq!(switches(), before);
        let addresses = || {
            output(&format!(
                "ip -6 -o address show dev {} | wc -l",
                host.bridge()
            ))
        };
        assert_eq!(addresses().trim(), "0");
        assert_eq!(output("nft list tables ip6"), "");
        shell(&format!("ip -6 route del blackhole {SUBNET}"));
        net.repair(&[], &BTreeSet::new()).await.unwrap();
        assert_eq!(addresses().trim(), "1", "no link-local one");
        assert_ne!(switches(), before);
        let ports = vec![binding(Tcp, 18080, 80)];
        let (web, wanted) = attach(host, &net, 1, 2, ports).await;
        let _server = server(&web, 80);
        assert!(host.outside().run(|| ask_tcp(HOST_LAN6, 18080)).is_ok());
        assert!(through().is_err(), "it is no way between its networks");
        // A link that comes later is none either.
        shell("ip link add late0 type veth peer name late1; ip link set late0 up");
        let all = std::slice::from_ref(&wanted);
        net.repair(all, &BTreeSet::new()).await.unwrap();
        let rules = output(&format!("nft list chain ip6 {} forward", host.bridge()));
        assert!(
            rules.contains("\"late0\"") && rules.contains("jump between"),
            "{rules}"
        );
        shell("ip link del late0");
        // Another subnet takes the place of the one before.
        drop(net);
        let net = host
            .network_with(|config| config.subnet6 = "fd99::/64".parse().ok())
            .await;
        let now = output(&format!("ip -6 -o address show dev {}", host.bridge()));
        assert!(now.contains("fd99::1/64") && !now.contains("fd12"), "{now}");
        // The key is gone.
        drop(net);
        let net = host.network().await;
        assert_eq!(switches(), before);
        assert!(through().is_err());
        assert_eq!(addresses().trim(), "0");
        assert_eq!(output("nft list tables ip6"), "");
        net.teardown().await.unwrap();
    });
}

#[test]
fn services_of_the_host_are_closed_over_ipv6_as_well() {
    on_a_private_host("access6", async |host| {
        with_lan6(host);
        let net = host
            .network_with(|config| {
                dual(config);
                config.reach.host = Some(BTreeSet::from([(Tcp, 7778)])).into();
                config.reach.link_local = false;
            })
            .await;
        let ports = vec![binding(Tcp, 18080, 80)];
        let (web, _) = attach(host, &net, 1, 2, ports).await;
        let _server = server(&web, 80);
        let _host = [7777, 7778].map(|port| Server::here(&format!("[::]:{port}")));
        let ask = |to: Ipv6Addr, port| in_netns(&web.netns, move || ask_tcp(to, port));
        for to in [HOST_LAN6, address6(1)] {
            let closed = ask(to, 7777).unwrap_err();
            assert_eq!(closed.kind(), ErrorKind::ConnectionRefused, "{to}");
            assert_eq!(ask(to, 7778).unwrap(), address6(2), "{to}");
            assert!(ask(to, 18080).is_ok(), "published ports are containers'");
        }
        // Where a cloud has its metadata.
        let metadata: Ipv6Addr = "fd00:ec2::254".parse().unwrap();
        let (give, way) = (
            format!("ip address add {metadata}/128 dev lan0 nodad"),
            format!("ip -6 route add {metadata} via {OUTSIDE6}"),
        );
        host.outside().shell(&give);
        shell(&way);
        let _there = host.outside().run(|| Server::here("[::]:80"));
        assert!(ask_tcp(metadata, 80).is_ok(), "the host itself reaches it");
        let closed = ask(metadata, 80).unwrap_err();
        assert_eq!(closed.kind(), ErrorKind::ConnectionRefused);
        net.teardown().await.unwrap();
    });
}
