//! What stays of IPv6 while agents are killed, rules flushed, and others have a port.

use std::collections::BTreeSet;

use super::*;

#[test]
fn the_table_is_restored_and_a_new_agent_keeps_every_connection() {
    on_a_private_host("kept6", async |host| {
        with_lan6(host);
        let net = host.network_with(dual).await;
        let ports = vec![binding(Tcp, 18080, 80)];
        let (web, wanted) = attach(host, &net, 1, 2, ports).await;
        let _server = server(&web, 80);
        let mut talk = host
            .outside()
            .run(|| super::super::lab::Talk::start(HOST_LAN6, 18080));
        talk.once(1);
        // Killed, and started again.
        drop(net);
        let net = host.network_with(dual).await;
        talk.once(2);
        assert_eq!(
            host.outside().run(|| ask_tcp(HOST_LAN6, 18080)).unwrap(),
            OUTSIDE6
        );
        host.repairs_nothing(&net, std::slice::from_ref(&wanted))
            .await;
        let table = || output(&format!("nft list table ip6 {}", host.bridge()));
        let full = table();
        let (bridge, veth) = (host.bridge(), host.veth());
        for spoil in [
            "nft flush ruleset".to_owned(),
            format!("nft delete table ip6 {bridge}"),
            format!("nft flush map ip6 {bridge} ports"),
            format!("ip -6 neigh del fd12:3456:789a::2 dev {bridge}"),
            format!("ip address del fd12:3456:789a::1/64 dev {bridge}"),
            format!("sysctl -qw net.ipv6.conf.{bridge}.disable_ipv6=1"),
            format!("ip link del {bridge}"),
            format!("ip link del {veth}"),
        ] {
            shell(&spoil);
            let lines = net
                .repair(std::slice::from_ref(&wanted), &BTreeSet::new())
                .await
                .unwrap();
            assert!(!lines.is_empty(), "{spoil}");
            assert_eq!(table(), full, "{spoil}");
            let asked = host.outside().run(|| ask_tcp(HOST_LAN6, 18080));
            assert_eq!(asked.unwrap(), OUTSIDE6, "{spoil}");
            host.repairs_nothing(&net, std::slice::from_ref(&wanted))
                .await;
        }
        // A next generation takes over port and address, and nothing is left of both.
        net.detach(wanted.0).await.unwrap();
        net.repair(&[], &BTreeSet::new()).await.unwrap();
        assert_eq!(
            output(&format!("ip -6 neigh show dev {bridge} nud permanent")),
            ""
        );
        assert!(!table().contains("comment"), "{}", table());
        net.teardown().await.unwrap();
        assert_eq!(output("nft list tables ip6"), "");
        assert_eq!(output(&format!("ip -6 route | grep {bridge}")), "");
    });
}

#[test]
fn an_address_that_was_not_stored_is_found_and_a_port_that_another_has_over_ipv6_keeps_nobody_down()
{
    on_a_private_host("found6", async |host| {
        with_lan6(host);
        let net = host.network_with(dual).await;
        let ports = || vec![binding(Tcp, 18080, 80)];
        let (web, wanted) = attach(host, &net, 1, 2, ports()).await;
        let _server = server(&web, 80);
        // An agent that is killed before it stores what the network answered.
        drop(net);
        let net = host.network_with(dual).await;
        let unstored = host.wanted(1, 2, ports());
        net.repair(std::slice::from_ref(&unstored), &BTreeSet::new())
            .await
            .unwrap();
        assert_eq!(ask_tcp(HOST_LAN6, 18080).unwrap(), HOST_LAN6);
        host.repairs_nothing(&net, &[unstored]).await;
        let neighbour = output(&format!(
            "ip -6 neigh show dev {} nud permanent",
            host.bridge()
        ));
        assert!(neighbour.contains("fd12:3456:789a::2"), "{neighbour}");

        // A service of the host that listens over IPv6 alone: IPv4 is published all the same.
        net.detach(wanted.0).await.unwrap();
        let only = in_ipv6_only(18080);
        let (again, wanted) = attach(host, &net, 1, 2, ports()).await;
        let _server = server(&again, 80);
        assert!(ask_tcp(super::super::lab::HOST_LAN, 18080).is_ok());
        let table = output(&format!("nft list map ip6 {} ports", host.bridge()));
        assert!(!table.contains("18080"), "{table}");
        let all = std::slice::from_ref(&wanted);
        net.repair(all, &BTreeSet::new()).await.unwrap();
        let told = net.findings().borrow().clone();
        assert!(
            told.iter().any(|one| one.alarm == Alarm::PortContested),
            "{told:?}"
        );
        drop(only);
        net.repair(all, &BTreeSet::new()).await.unwrap();
        assert_eq!(
            ask_tcp(HOST_LAN6, 18080).unwrap(),
            HOST_LAN6,
            "once it is free"
        );
        net.teardown().await.unwrap();
    });
}

/// A socket that listens over IPv6 alone.
fn in_ipv6_only(port: u16) -> std::os::fd::OwnedFd {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let (family, kind) = (AddressFamily::INET6, SocketType::STREAM);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    sockopt::set_ipv6_v6only(&socket, true).unwrap();
    let address = std::net::SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0);
    bind(&socket, &address).unwrap();
    listen(&socket, 1).unwrap();
    socket
}
