//! The containers' subnet beside the host's addresses, routes and name servers.

use std::collections::BTreeSet;
use std::fs;

use chas_node_agent::network::{NetworkDriver as _, free_subnet};
use serde_json::json;
use state::alarm::Alarm;
use state::subnet::Ipv4Subnet;

use super::beside::found;
use super::lab::{self, on_a_private_host};
use crate::harness::Testbed;
use crate::stand::Stand;

#[test]
fn a_name_server_that_the_subnet_hides_is_told_and_one_in_a_container_is_none() {
    on_a_private_host("hidden", async |host| {
        let lists = tempfile::tempdir().unwrap();
        let list = lists.path().join("resolv.conf");
        let asked = |server: &str| fs::write(&list, format!("nameserver {server}\n")).unwrap();
        asked("192.0.2.53");
        let lists = vec![list.clone()];
        let net = host.network_with(|config| config.resolv_conf = lists).await;
        host.attach(&net, 1, 2, vec![]).await.unwrap();
        let wanted = [host.wanted(1, 2, vec![])];
        for (server, is_told) in [
            ("192.0.2.53", false),
            ("10.99.0.2", false),
            ("10.99.7.53", true),
        ] {
            asked(server);
            net.repair(&wanted, &BTreeSet::new()).await.unwrap();
            let told = found(&net, Alarm::SubnetShared);
            let names_it = told.iter().any(|line| line.contains(server));
            assert_eq!(names_it, is_told, "{server}: {told:?}");
        }
        net.teardown().await.unwrap();
    });
}

#[test]
fn a_free_subnet_is_one_that_nothing_of_the_host_overlaps_and_a_bridge_keeps_its_own() {
    on_a_private_host("free", async |_| {
        let lists = tempfile::tempdir().unwrap();
        let list = lists.path().join("resolv.conf");
        fs::write(&list, "nameserver 10.233.0.1\n").unwrap();
        lab::shell(
            "ip link add other type bridge; ip address add 10.231.7.1/24 dev other; ip link set other up; \
             ip route add 10.232.0.0/14 via 192.0.2.2",
        );
        let lists = [list];
        let free = async || free_subnet("chas9", &lists).await.unwrap().to_string();
        assert_eq!(free().await, "10.236.0.0/16");
        lab::shell("ip link add chas9 type bridge; ip address add 10.77.0.1/24 dev chas9");
        assert_eq!(free().await, "10.77.0.0/24");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_may_choose_keeps_its_choice() {
    let mut stand = Stand::with(Testbed::new(), &[("CHAS_SUBNET", "auto")]).await;
    let shown = stand
        .agent
        .deploy_and_wait(&stand.web("a", &json!({})))
        .await;
    let file = stand.bed.dir.join("state/subnet");
    let chosen = fs::read_to_string(&file).unwrap();
    let subnet: Ipv4Subnet = chosen.trim().parse().unwrap();
    let address = shown["ip"].as_str().unwrap().parse().unwrap();
    assert!(subnet.contains(address), "{address} {chosen}");
    stand.agent.kill_9();
    stand.agent.start_again().await;
    let shown = stand
        .agent
        .deploy_and_wait(&stand.web("b", &json!({})))
        .await;
    let address = shown["ip"].as_str().unwrap().parse().unwrap();
    assert!(subnet.contains(address), "{address} {chosen}");
    assert_eq!(fs::read_to_string(&file).unwrap(), chosen);
    stand.end().await;
}
