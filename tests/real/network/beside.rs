//! The network on a real kernel: what other programs of the host own, now or later on.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use chas_node_agent::network::{BridgeNetwork, NetworkDriver as _, NetworkError};
use state::alarm::Alarm;
use state::assign::{HostNetwork as _, PortHolder};
use state::spec::Protocol::{Tcp, Udp};

use serde_json::json;

use super::LOCALHOST;
use super::lab::{self, Server, ask_tcp, binding, instance, on_a_private_host};
use crate::harness::Testbed;
use crate::stand::{SOON, Stand};

/// Messages of the findings of one alarm.
pub(super) fn found(net: &BridgeNetwork, alarm: Alarm) -> Vec<String> {
    let findings = net.findings();
    let findings = findings.borrow();
    let of_alarm = findings.iter().filter(|finding| finding.alarm == alarm);
    of_alarm
        .map(|finding| match &*finding.subject {
            "" => finding.message.clone(),
            subject => format!("{subject}: {}", finding.message),
        })
        .collect()
}

/// Ways in which other programs publish the host ports 18080/tcp and 18053/udp without listening on them.
const PUBLISHED_BY_OTHERS: &[(&str, &str)] = &[
    (
        "a rule of its own",
        "nft add table ip x; nft add chain ip x out '{ type nat hook output priority -100; }'; \
         nft add rule ip x out fib daddr type local tcp dport 18080 dnat to 127.0.0.1:1; \
         nft add rule ip x out fib daddr type local udp dport { 53, 18050-18060 } dnat to 127.0.0.1:1",
    ),
    (
        "ranges and what stands beside them",
        "nft add table ip x; nft add chain ip x out '{ type nat hook output priority -100; }'; \
         nft add rule ip x out tcp dport 18070-18100 dnat to 127.0.0.1:1; \
         nft add rule ip x out udp dport '>= 18053' udp dport '< 18060' dnat to 127.0.0.1:1",
    ),
    (
        "conditions between, in registers used twice",
        "nft add table ip x; nft add chain ip x out '{ type nat hook output priority -100; }'; \
         nft add rule ip x out meta l4proto tcp fib daddr type local th dport 18080 dnat to 127.0.0.1:1; \
         nft add rule ip x out ip daddr 192.0.2.1 fib daddr type local udp dport 18053 dnat to 127.0.0.1:1",
    ),
    (
        "ranges side by side",
        "nft -f - <<X\ntable ip x {\n\
         map m { type inet_service : ipv4_addr; flags interval;\n\
         elements = { 18070-18089 : 10.0.0.8, 18090-18099 : 10.0.0.9 } }\n\
         set s { type inet_service; flags interval; elements = { 18050-18060, 60000-65535 } }\n\
         chain out { type nat hook output priority -100; \
         dnat to tcp dport map @m; udp dport @s dnat to 10.0.0.9; }\n}\nX\n",
    ),
    (
        "maps, as another agent",
        "nft -f - <<X\ntable ip x {\n\
         map m { type inet_proto . inet_service : ipv4_addr . inet_service\n\
         elements = { tcp . 18080 : 10.0.0.9 . 80, udp . 18053 : 10.0.0.9 . 53 } }\n\
         chain p { dnat ip to meta l4proto . th dport map @m; }\n\
         chain pre { type nat hook prerouting priority -110; fib daddr type local jump p; }\n}\nX\n",
    ),
    (
        "a map of verdicts, as kube-proxy",
        "nft -f - <<X\ntable inet x {\n\
         chain pod { meta l4proto { tcp, udp } dnat ip to 10.0.0.9; }\n\
         map m { type inet_proto . inet_service : verdict\n\
         elements = { tcp . 18080 : goto pod, udp . 18053 : goto pod } }\n\
         chain pre { type nat hook prerouting priority -100; meta l4proto . th dport vmap @m; }\n}\nX\n",
    ),
    (
        "docker",
        "iptables-nft -t nat -N DOCKER; \
         iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER; \
         iptables-nft -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 18080 -j DNAT --to 172.17.0.2:80; \
         iptables-nft -t nat -A DOCKER -d 192.0.2.1/32 ! -i docker0 -p udp -m udp --dport 18053 -j DNAT --to 172.17.0.2:53",
    ),
    (
        "the CNI's portmap",
        "iptables-nft -t nat -N CNI-DN-1; iptables-nft -t nat -N CNI-HOSTPORT-DNAT; \
         iptables-nft -t nat -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT; \
         iptables-nft -t nat -A CNI-HOSTPORT-DNAT -p tcp -m multiport --dports 18080,18090 -j CNI-DN-1; \
         iptables-nft -t nat -A CNI-HOSTPORT-DNAT -p udp -m multiport --dports 53,18050:18060 -j CNI-DN-1; \
         iptables-nft -t nat -A CNI-DN-1 -p tcp -j DNAT --to 10.0.0.9:80; \
         iptables-nft -t nat -A CNI-DN-1 -p udp -j DNAT --to 10.0.0.9:53",
    ),
    (
        "iptables-legacy",
        "iptables-legacy -t nat -A PREROUTING -p tcp --dport 18080 -j REDIRECT --to-ports 1; \
         iptables-legacy -t nat -A OUTPUT -p udp -m multiport --dports 53,18053 -j DNAT --to 10.0.0.9",
    ),
];

#[test]
fn a_host_port_that_a_rule_of_another_program_publishes_is_refused() {
    for (who, rules) in PUBLISHED_BY_OTHERS {
        on_a_private_host("dnat", async |host| {
            let net = host.network().await;
            lab::shell(rules);
            for (protocol, port) in [(Tcp, 18080), (Udp, 18053)] {
                let wanted = binding(protocol, port, 80);
                let refused = host.attach(&net, 1, 2, vec![wanted.clone()]).await;
                let Err(NetworkError::PortTaken { by, .. }) = &refused else {
                    panic!("{who} has {port}: {refused:?}");
                };
                assert!(by.contains("chain"), "{who} is named: {by}");
                assert!(
                    matches!(net.holder(&wanted), Some(PortHolder::Rule(_))),
                    "{who}"
                );
            }
            for free in [
                binding(Tcp, 18053, 80),
                binding(Udp, 18080, 80),
                binding(Tcp, 80, 80),
            ] {
                assert_eq!(net.holder(&free), None, "{who}: {free:?}");
            }
            assert_eq!(host.table(), "", "nothing of a refused set is published");
            lab::shell("nft flush ruleset; iptables-legacy -t nat -F 2>/dev/null || true");
            // Of iptables-legacy the kernel tells no change.
            std::thread::sleep(Duration::from_millis(1100));
            host.attach(&net, 1, 2, vec![binding(Tcp, 18080, 80)])
                .await
                .unwrap_or_else(|error| panic!("{who} has gone: {error}"));
            net.teardown().await.unwrap();
        });
    }
}

/// A rule that publishes port 18080/tcp for somebody else.
const THEIRS: &str = "nft add table ip x; \
    nft add chain ip x out '{ type nat hook output priority -100; }'; \
    nft add rule ip x out fib daddr type local tcp dport 18080 dnat to 127.0.0.1:18099";

#[test]
fn a_port_that_somebody_had_first_is_not_taken_by_a_repair_either() {
    on_a_private_host("first", async |host| {
        let net = host.network().await;
        let _theirs = Server::here("127.0.0.1:18099");
        lab::shell(THEIRS);
        assert!(ask_tcp(LOCALHOST, 18080).is_ok(), "theirs answers");
        let ports = vec![binding(Tcp, 18080, 80), binding(Tcp, 18081, 80)];
        assert!(host.attach(&net, 1, 2, ports.clone()).await.is_err());
        let wanted = [host.wanted(1, 2, ports)];
        net.repair(&wanted, &BTreeSet::new()).await.unwrap();
        assert!(host.table().contains("18081") && !host.table().contains("18080"));
        assert!(ask_tcp(LOCALHOST, 18080).is_ok(), "theirs answers still");
        let told = found(&net, Alarm::PortContested);
        assert!(
            matches!(&told[..], [one] if one.contains("18080/tcp of container c1")
                && one.contains("table ip x, chain out") && one.contains("had it first")),
            "{told:?}"
        );

        lab::shell("nft delete table ip x");
        net.repair(&wanted, &BTreeSet::new()).await.unwrap();
        assert!(host.table().contains("18080"), "it is free now");
        assert_eq!(found(&net, Alarm::PortContested), Vec::<String>::new());
        net.detach(instance(1)).await.unwrap();
        net.teardown().await.unwrap();
    });
}

#[test]
fn a_port_that_somebody_takes_later_stays_the_containers_and_is_told() {
    on_a_private_host("later", async |host| {
        let net = host.network().await;
        let ports = vec![binding(Tcp, 18080, 80), binding(Tcp, 18081, 80)];
        let web = host.attach(&net, 1, 2, ports.clone()).await.unwrap();
        let _servers = [Server::tcp(&web.netns, 80)];
        lab::shell(THEIRS);
        let listener = std::net::TcpListener::bind("127.0.0.1:18081").unwrap();
        let wanted = [host.wanted(1, 2, ports)];
        host.repairs_nothing(&net, &wanted).await;
        for port in [18080, 18081] {
            assert_eq!(ask_tcp(LOCALHOST, port).unwrap(), host.address(1), "{port}");
        }
        let told = found(&net, Alarm::PortContested);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("18080/tcp of container c1") && told[0].contains("chain out"));
        assert!(told[1].contains("18081/tcp of container c1") && told[1].contains("process"));

        drop(listener);
        lab::shell("nft delete table ip x");
        host.repairs_nothing(&net, &wanted).await;
        assert_eq!(found(&net, Alarm::PortContested), Vec::<String>::new());
        net.teardown().await.unwrap();
    });
}

#[test]
fn a_subnet_that_another_interface_or_route_has_is_refused_with_its_name() {
    for (take, give_back, holder) in [
        (
            "ip link add other type bridge; ip address add 10.99.7.1/24 dev other; ip link set other up",
            "ip link delete other",
            "10.99.7.0/24 of the interface other",
        ),
        (
            "ip route add 10.99.0.0/16 via 192.0.2.2",
            "ip route delete 10.99.0.0/16",
            "10.99.0.0/16 of the route by way of 192.0.2.2",
        ),
        (
            "ip route add 10.99.128.0/17 via 192.0.2.2 table 55; ip rule add to 10.99.128.0/17 table 55",
            "ip rule delete table 55; ip route flush table 55",
            "10.99.128.0/17 of the route by way of 192.0.2.2",
        ),
        (
            "ip route add blackhole 10.99.3.0/26",
            "ip route delete blackhole 10.99.3.0/26",
            "10.99.3.0/26 of a blackhole route",
        ),
    ] {
        on_a_private_host("subnet", async |host| {
            lab::shell(take);
            let net = host.unprepared_network();
            let refused = net.prepare().await.unwrap_err();
            let NetworkError::Failed { what, source, .. } = &refused else {
                panic!("{refused:?}");
            };
            assert!(what.contains("10.99.0.0/16 (network.subnet)"), "{what}");
            assert!(source.to_string().starts_with(holder), "{source}");
            lab::shell(&format!("! ip link show {} 2>/dev/null", host.bridge()));

            lab::shell(give_back);
            net.prepare().await.unwrap();
            net.teardown().await.unwrap();
        });
    }
}

#[test]
fn a_larger_network_behind_a_gateway_and_a_route_that_nobody_uses_are_no_obstacle() {
    on_a_private_host("wide", async |host| {
        lab::shell(
            "ip route add 10.0.0.0/8 via 192.0.2.2; ip route add 10.99.1.0/24 via 192.0.2.2 table 55",
        );
        let net = host.network().await;
        host.attach(&net, 1, 2, vec![]).await.unwrap();
        let wanted = [host.wanted(1, 2, vec![])];
        host.repairs_nothing(&net, &wanted).await;
        assert_eq!(found(&net, Alarm::SubnetShared), Vec::<String>::new());
        net.teardown().await.unwrap();
    });
}

#[test]
fn a_subnet_that_somebody_takes_later_is_told() {
    for (take, holder) in [
        (
            "ip link add other type bridge; ip address add 10.99.7.1/24 dev other; ip link set other up",
            "10.99.7.0/24 of the interface other",
        ),
        (
            "ip route add 10.99.0.0/24 via 192.0.2.2",
            "10.99.0.0/24 of the route by way of 192.0.2.2, so that packets for container c1",
        ),
        (
            "ip route add default via 192.0.2.2 table 55; ip rule add to 10.99.0.2 table 55",
            "a rule for routes (ip rule), so that packets for container c1 (10.99.0.2)",
        ),
    ] {
        on_a_private_host("astray", async |host| {
            let net = host.network().await;
            host.attach(&net, 1, 2, vec![]).await.unwrap();
            let wanted = [host.wanted(1, 2, vec![])];
            host.repairs_nothing(&net, &wanted).await;
            assert_eq!(found(&net, Alarm::SubnetShared), Vec::<String>::new());
            lab::shell(take);
            host.repairs_nothing(&net, &wanted).await;
            let told = found(&net, Alarm::SubnetShared);
            assert!(
                told.iter().any(|line| line.contains(holder)),
                "{holder}: {told:?}"
            );
            net.prepare().await.expect("it was the bridge's first");
            net.teardown().await.unwrap();
        });
    }
}

#[test]
fn a_firewall_that_drops_is_told_with_a_remedy_that_helps() {
    for (name, rules) in [
        (
            "policy",
            "nft add chain inet f forward '{ type filter hook forward priority 0; policy drop; }'",
        ),
        (
            "outbound",
            "nft add chain inet f forward '{ type filter hook forward priority 0; }'; \
             nft add rule inet f forward ct status dnat ct mark 7 accept; \
             nft add rule inet f forward reject",
        ),
        (
            "last",
            "nft add chain inet f forward '{ type filter hook forward priority 0; }'; \
             nft add rule inet f forward ct state established,related accept; \
             nft add rule inet f forward iifname docker0 accept; \
             nft add rule inet f forward counter reject with icmpx admin-prohibited",
        ),
    ] {
        on_a_private_host(name, async |host| {
            let net = host.network().await;
            let ports = vec![binding(Tcp, 18080, 80)];
            let web = host.attach(&net, 1, 2, ports.clone()).await.unwrap();
            let _servers = [Server::tcp(&web.netns, 80)];
            let wanted = [host.wanted(1, 2, ports)];
            host.repairs_nothing(&net, &wanted).await;
            assert_eq!(found(&net, Alarm::ForwardingBlocked), Vec::<String>::new());

            lab::shell(&format!("nft add table inet f; {rules}"));
            let ask = || host.outside().run(|| ask_tcp(lab::HOST_LAN, 18080));
            assert!(ask().is_err(), "the firewall is in the way");
            host.repairs_nothing(&net, &wanted).await;
            let told = found(&net, Alarm::ForwardingBlocked);
            let [one] = &told[..] else { panic!("{told:?}") };
            assert!(
                one.starts_with("table inet f, chain forward: drops"),
                "{one}"
            );
            lab::shell(one.split_once("pass: ").unwrap().1);
            assert!(ask().is_ok(), "the remedy helps");
            host.repairs_nothing(&net, &wanted).await;
            assert_eq!(found(&net, Alarm::ForwardingBlocked), Vec::<String>::new());
            net.teardown().await.unwrap();
        });
    }
}

#[test]
fn an_address_whose_packets_all_go_elsewhere_has_no_free_port() {
    on_a_private_host("dmz", async |host| {
        let net = host.network().await;
        lab::shell(
            "nft add table ip x; nft add chain ip x p '{ type nat hook prerouting priority -100; }'; \
             nft add rule ip x p ip daddr 192.0.2.1 tcp dport '!=' 22 dnat to 10.0.0.9; \
             nft add table ip y; nft add chain ip y p '{ type nat hook prerouting priority -99; }'; \
             nft add set ip y s '{ type inet_service; flags interval; }'; \
             nft add element ip y s '{ 1024-65535 }'; nft add rule ip y p udp dport @s dnat to 10.0.0.9",
        );
        let held = |protocol, port| net.holder(&binding(protocol, port, 80));
        for (protocol, port) in [(Tcp, 18080), (Tcp, 80), (Udp, 1024), (Udp, 65535)] {
            assert!(
                matches!(held(protocol, port), Some(PortHolder::Rule(_))),
                "{port}"
            );
        }
        for (protocol, port) in [(Tcp, 22), (Udp, 1023)] {
            assert_eq!(held(protocol, port), None, "{port}");
        }
        lab::shell(
            "nft flush ruleset; nft add table ip z; \
            nft add chain ip z p '{ type nat hook prerouting priority -100; }'; \
            nft add rule ip z p ip daddr 192.0.2.1 dnat to 10.0.0.9",
        );
        assert!(matches!(held(Udp, 22), Some(PortHolder::Rule(_))));
        net.teardown().await.unwrap();
    });
}

#[test]
fn the_older_iptables_is_opened_as_well() {
    on_a_private_host("older", async |host| {
        let net = host.network().await;
        let ports = vec![binding(Tcp, 18080, 80)];
        let web = host.attach(&net, 1, 2, ports.clone()).await.unwrap();
        let _servers = [Server::tcp(&web.netns, 80)];
        lab::shell("iptables-legacy -P FORWARD DROP");
        let ask = || host.outside().run(|| ask_tcp(lab::HOST_LAN, 18080));
        assert!(ask().is_err(), "it is in the way");
        let wanted = [host.wanted(1, 2, ports)];
        let lines = net.repair(&wanted, &BTreeSet::new()).await.unwrap();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(ask().is_ok(), "opened");
        host.repairs_nothing(&net, &wanted).await;
        net.teardown().await.unwrap();
        lab::shell("! iptables-legacy -S | grep chas-node-agent");
    });
}

#[test]
fn an_interface_of_the_bridges_name_that_somebody_else_has_is_refused_and_left_alone() {
    for (make, fault) in [
        ("ip link add NAME type veth peer name other", "is no bridge"),
        (
            "ip link add NAME type bridge; ip link add port0 type veth peer name other; \
             ip link set port0 master NAME",
            "connects port0",
        ),
        (
            "ip link add NAME type bridge; ip address add 10.5.0.1/24 dev NAME",
            "has another program's address",
        ),
    ] {
        on_a_private_host("name", async |host| {
            lab::shell(&make.replace("NAME", &host.bridge()));
            let show = format!("ip address show dev {}", host.bridge());
            let output = || {
                Command::new("sh")
                    .args(["-c", &show])
                    .output()
                    .unwrap()
                    .stdout
            };
            let before = output();
            let refused = host.unprepared_network().prepare().await.unwrap_err();
            let NetworkError::Failed { source, .. } = &refused else {
                panic!("{refused:?}");
            };
            assert!(source.to_string().contains(fault), "{source}");
            assert_eq!(output(), before, "nothing of it was changed");
        });
    }
}

/// Rules of another program on the machine itself, where a whole agent runs.
struct Theirs(String);

impl Theirs {
    fn publish(ports: [u64; 2]) -> Self {
        let table = format!("theirs{}", std::process::id());
        lab::shell(&format!(
            "nft add table ip {table}; \
             nft add chain ip {table} out '{{ type nat hook output priority -100; }}'; \
             nft add rule ip {table} out tcp dport '{{ {}, {} }}' dnat to 127.0.0.1:9",
            ports[0], ports[1]
        ));
        Self(table)
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let line = format!("nft delete table ip {}", self.0);
        let _ = Command::new("sh").args(["-c", &line]).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_names_who_has_its_port_and_health_names_who_took_it_later() {
    let often = [("CHAS_RESYNC_INTERVAL", "1s")];
    let stand = Stand::with(Testbed::new(), &often).await;
    let shown = stand
        .agent
        .deploy_and_wait(&stand.web("web", &json!({})))
        .await;
    let port = shown["ports"][0]["host"].as_u64().unwrap();
    let theirs = Theirs::publish([port, port + 1]);
    let named = json!([{"container": 80, "host": port + 1}]);
    let second = stand.web("second", &json!({"exposed_ports": named}));
    let (status, refused) = stand.agent.deploy(&second).await;
    assert_eq!(status, 409, "{refused}");
    let text = refused.to_string();
    assert!(
        text.contains(&format!("table ip {}, chain out", theirs.0)),
        "{text}"
    );

    let alarm = async || {
        let (_, health) = stand.agent.get("/health").await;
        health["alarms"].to_string().contains("PortContested")
    };
    for (expected, theirs) in [(true, None), (false, Some(theirs))] {
        drop(theirs);
        let deadline = Instant::now() + SOON;
        while alarm().await != expected {
            assert!(Instant::now() < deadline, "the alarm stands: {}", !expected);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    stand.end().await;
}
