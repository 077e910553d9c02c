//! IPv6 beside IPv4: who reaches whom, what a container cannot do to others, and hosts that have none.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use chas_node_agent::network::{
    AssignedInstance, BridgeConfig, BridgeNetwork, NetworkDriver as _, NetworkPaths,
};
use state::alarm::Alarm;
use state::desired::PortBinding;
use state::spec::Protocol::{Tcp, Udp};

use super::lab::{
    Host, Server, ask_tcp, ask_udp, binding, bound, in_netns, on_a_private_host, output, shell,
};

mod closed;
mod kept;

const SUBNET: &str = "fd12:3456:789a::/64";
const HOST_LAN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);

/// The address of that number in the subnet; 1 is the bridge's.
const fn address6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd12, 0x3456, 0x789a, 0, 0, 0, 0, last)
}

fn dual(config: &mut BridgeConfig) {
    config.subnet6 = SUBNET.parse().ok();
}

/// Gives the link to the outside IPv6.
fn with_lan6(host: &Host) {
    let give = |address| format!("ip address add {address}/64 dev lan0 nodad");
    shell(&give(HOST_LAN6));
    host.outside().shell(&give(OUTSIDE6));
}

/// An instance on the network, as the store knows it after that.
async fn attach(
    host: &Host,
    net: &BridgeNetwork,
    n: u64,
    address: u8,
    ports: Vec<PortBinding>,
) -> (NetworkPaths, AssignedInstance) {
    let (instance, names, assignment, network) = host.wanted(n, address, ports);
    let attached = net.attach(instance, &names, &assignment, &network).await;
    let attached = attached.unwrap();
    let addresses = attached.addresses.unwrap();
    assert_eq!(addresses.address6, Some(address6(address.into())));
    let wanted = (instance, names, assignment.at(addresses), network);
    (attached.paths, wanted)
}

fn server(paths: &NetworkPaths, port: u16) -> Server {
    in_netns(&paths.netns, || Server::here(&format!("[::]:{port}")))
}

#[test]
fn a_published_port_answers_over_ipv6_from_everywhere() {
    on_a_private_host("everywhere6", async |host| {
        with_lan6(host);
        let net = host.network_with(dual).await;
        let ports = vec![
            binding(Tcp, 18080, 80),
            binding(Udp, 18053, 53),
            bound(HOST_LAN6, Tcp, 18081, 80),
            bound(Ipv6Addr::UNSPECIFIED, Tcp, 18082, 80),
        ];
        let (web, web_wanted) = attach(host, &net, 1, 2, ports).await;
        let (db, db_wanted) = attach(host, &net, 2, 3, vec![]).await;
        let _servers = [server(&web, 80), server(&db, 5432)];
        let _udp = in_netns(&web.netns, || Server::udp_on("[::]:53"));
        let (gateway, outside) = (IpAddr::V6(address6(1)), host.outside());

        for port in [18080, 18081, 18082] {
            assert_eq!(
                ask_tcp(HOST_LAN6, port).unwrap(),
                HOST_LAN6,
                "the host, {port}"
            );
            let asked = outside.run(move || ask_tcp(HOST_LAN6, port)).unwrap();
            assert_eq!(asked, OUTSIDE6, "another host, {port}");
            for from in [&web, &db] {
                let asked = in_netns(&from.netns, move || ask_tcp(HOST_LAN6, port));
                assert_eq!(
                    asked.unwrap(),
                    gateway,
                    "containers, itself among them, {port}"
                );
            }
        }
        assert_eq!(outside.run(|| ask_udp(HOST_LAN6, 18053)).unwrap(), OUTSIDE6);
        assert_eq!(
            ask_tcp(address6(1), 18080).unwrap(),
            gateway,
            "the bridge's address"
        );
        assert!(
            ask_tcp(address6(1), 18081).is_err(),
            "bound to another address"
        );
        assert_eq!(
            ask_tcp(address6(2), 80).unwrap(),
            gateway,
            "straight to the container"
        );
        assert_eq!(
            ask_tcp(super::lab::HOST_LAN, 18080).unwrap().to_canonical(),
            super::lab::HOST_LAN,
            "IPv4 as before"
        );
        assert!(ask_tcp(super::lab::HOST_LAN, 18082).is_err(), "IPv6 only");
        let began = Instant::now();
        let refused = ask_tcp(Ipv6Addr::LOCALHOST, 18080).unwrap_err();
        assert_eq!(
            refused.kind(),
            ErrorKind::ConnectionRefused,
            "the kernel leads nothing from ::1"
        );
        assert!(began.elapsed().as_millis() < 500);

        let asked = in_netns(&web.netns, || ask_tcp(address6(3), 5432)).unwrap();
        assert_eq!(
            asked,
            address6(2),
            "a neighbour sees the container's own address"
        );
        let there = outside.run(|| Server::here("[::]:8080"));
        let asked = in_netns(&web.netns, || ask_tcp(OUTSIDE6, 8080)).unwrap();
        assert_eq!(asked, HOST_LAN6, "the outside sees the host's address");
        drop(there);
        outside.shell(&format!("ip -6 route add {SUBNET} via {HOST_LAN6}"));
        assert!(
            outside.run(|| ask_tcp(address6(2), 80)).is_err(),
            "only what is published"
        );
        let hosts = std::fs::read_to_string(&web.hosts).unwrap();
        assert!(hosts.contains("fd12:3456:789a::3\tc2\n"), "{hosts}");
        assert!(hosts.contains("fd12:3456:789a::2\tc1\n"), "{hosts}");
        host.repairs_nothing(&net, &[web_wanted, db_wanted]).await;
        // The kernel forwards by link, so that a route that came by an announcement stays.
        let switches = ["all.forwarding", "lan0.forwarding", "lan0.accept_ra"];
        let switches = switches.map(|key| output(&format!("sysctl -n net.ipv6.conf.{key}")));
        if std::path::Path::new("/proc/sys/net/ipv6/conf/all/force_forwarding").exists() {
            assert_eq!(
                switches.map(|value| value.trim().to_owned()),
                ["0", "0", "1"]
            );
        }
        net.teardown().await.unwrap();
        assert_eq!(
            output(&format!("nft list tables | grep {}", host.bridge())),
            ""
        );
    });
}

#[test]
fn it_is_off_by_default_and_what_runs_without_it_gets_it_when_it_is_made_anew() {
    on_a_private_host("off6", async |host| {
        with_lan6(host);
        let before = output("sysctl net.ipv6.conf.all.forwarding net.ipv6.conf.lan0");
        let net = host.network().await;
        let paths = host
            .attach(&net, 1, 2, vec![binding(Tcp, 18080, 80)])
            .await
            .unwrap();
        let _server = server(&paths, 80);
        let seen = || in_netns(&paths.netns, || output("ip -6 address show dev eth0"));
        assert_eq!(seen(), "");
        assert_eq!(
            output(&format!("ip -6 address show dev {}", host.bridge())),
            ""
        );
        assert_eq!(output("nft list tables ip6"), "");
        assert!(ask_tcp(HOST_LAN6, 18080).is_err());
        let after = output("sysctl net.ipv6.conf.all.forwarding net.ipv6.conf.lan0");
        assert_eq!(before, after);
        drop(net);

        // The key is set, and the agent started again.
        let net = host.network_with(dual).await;
        let ports = vec![binding(Tcp, 18080, 80)];
        let wanted = host.wanted(1, 2, ports.clone());
        net.repair(std::slice::from_ref(&wanted), &BTreeSet::new())
            .await
            .unwrap();
        assert_eq!(seen(), "", "it runs on as it was");
        assert!(ask_tcp(super::lab::HOST_LAN, 18080).is_ok());
        assert!(ask_tcp(HOST_LAN6, 18080).is_err());
        let (_, started) = attach(host, &net, 1, 2, ports).await;
        assert!(seen().contains("fd12:3456:789a::2/128"), "{}", seen());
        assert_eq!(ask_tcp(HOST_LAN6, 18080).unwrap(), HOST_LAN6);
        host.repairs_nothing(&net, std::slice::from_ref(&started))
            .await;

        // And taken away again.
        drop(net);
        let net = host.network().await;
        net.repair(&[started], &BTreeSet::new()).await.unwrap();
        assert_eq!(output("nft list tables ip6"), "");
        assert_eq!(
            output(&format!("ip -6 address show dev {}", host.bridge())),
            ""
        );
        assert!(ask_tcp(super::lab::HOST_LAN, 18080).is_ok());
        net.teardown().await.unwrap();
    });
}

#[test]
fn a_host_that_cannot_have_it_says_why_and_ipv4_goes_on() {
    on_a_private_host("refused6", async |host| {
        // Somebody else has the subnet.
        shell(&format!("ip -6 route add blackhole {SUBNET}"));
        let net = host.network_with(dual).await;
        let (instance, names, assignment, network) =
            host.wanted(1, 2, vec![binding(Tcp, 18080, 80)]);
        let attached = net
            .attach(instance, &names, &assignment, &network)
            .await
            .unwrap();
        assert_eq!(attached.addresses.unwrap().address6, None);
        let _server = Server::tcp(&attached.paths.netns, 80);
        assert!(ask_tcp(super::lab::HOST_LAN, 18080).is_ok());
        let wanted = [(instance, names, assignment, network)];
        net.repair(&wanted, &BTreeSet::new()).await.unwrap();
        let told = net.findings().borrow().clone();
        let told = told.iter().find(|one| one.alarm == Alarm::Ipv6Unavailable);
        let told = told.expect("it is told").message.clone();
        assert!(
            told.contains("network.subnet6") && told.contains("on this host already"),
            "{told}"
        );
        shell(&format!("ip -6 route del blackhole {SUBNET}"));
        net.repair(&wanted, &BTreeSet::new()).await.unwrap();
        let told = net.findings().borrow().clone();
        assert!(
            told.iter().all(|one| one.alarm != Alarm::Ipv6Unavailable),
            "{told:?}"
        );
        attach(host, &net, 1, 2, vec![binding(Tcp, 18080, 80)]).await;
        // One that comes later is told of, and nothing is taken away.
        shell("ip address add fd12:3456:789a::77/128 dev lan0 nodad");
        net.repair(&wanted, &BTreeSet::new()).await.unwrap();
        let told = net.findings().borrow().clone();
        let shared = told.iter().find(|one| one.alarm == Alarm::SubnetShared);
        assert!(
            shared.unwrap().message.contains("fd12:3456:789a::77"),
            "{told:?}"
        );
        net.teardown().await.unwrap();
    });
}
