//! What containers cannot reach although nobody but the agent forbids it, and what no container can be given.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use chas_node_agent::network::{ContainerReach, HostReach, NetworkDriver as _};
use state::alarm::Alarm;
use state::assign::{HostNetwork as _, PortHolder};
use state::spec::Protocol::{Tcp, Udp};

use super::LOCALHOST;
use super::lab::{self, Server, ask_tcp, ask_udp, binding, bound, on_a_private_host};

/// Where clouds hand out a node's credentials.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Ways that lead out of a container, each with whether it is open on a node that closes what it can.
const WAYS: [(&str, Ipv4Addr, u16, bool); 9] = [
    ("a service of the host", lab::HOST_LAN, 7000, false),
    ("the same by the bridge", GATEWAY, 7000, false),
    ("a service that the node opens", lab::HOST_LAN, 7001, true),
    ("the same by the bridge", GATEWAY, 7001, true),
    ("the host's name server", lab::HOST_LAN, 53, true),
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
        link_local: false,
    };
    for reach in [None, Some(closed)] {
        on_a_private_host("belts", async |host| {
            let is_open = reach.is_none();
            let net = match reach.clone() {
                None => host.network().await,
                Some(reach) => host.network_reaching(reach).await,
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
            let _here = [7000, 7001, 53].map(|port| Server::here(&format!("0.0.0.0:{port}")));
            let _there = [
                outside.tcp(80),
                outside.tcp(53),
                outside.udp(53),
                outside.udp(123),
            ];
            let _inside = Server::tcp(&web.netns, 80);

            for (what, address, port, always) in WAYS {
                let asked = lab::in_netns(&one.netns, move || ask_tcp(address, port));
                assert_eq!(
                    asked.is_ok(),
                    always || is_open,
                    "{what}, {port}: {asked:?}"
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
        // One that has it from before is started with it, and told of.
        let had = vec![binding(Tcp, lab::API_PORT, 80)];
        let web = host.attach(&net, 1, 2, had.clone()).await.unwrap();
        let _inside = Server::tcp(&web.netns, 80);
        let outside = host.outside();
        let asked = outside.run(|| ask_tcp(lab::HOST_LAN, lab::API_PORT));
        assert!(asked.is_ok(), "{asked:?}");
        host.repairs_nothing(&net, &[host.wanted(1, 2, had)]).await;
        let told = net.findings().borrow().clone();
        let [contest] = &told[..] else {
            panic!("{told:?}");
        };
        assert_eq!(contest.alarm, Alarm::PortContested);
        assert!(contest.message.contains("api.port"), "{contest:?}");
        net.teardown().await.unwrap();
    });
}
