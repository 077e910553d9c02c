//! When the rules of groups are in force, and what happens while they cannot be.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chas_node_agent::network::{AssignedInstance, NetworkDriver as _};
use futures_util::future::join_all;
use serde_json::json;
use state::alarm::Alarm;
use state::failure::Failure;
use state::reason::Reason;
use state::spec::Protocol::{Tcp, Udp};

use super::ask_udp;
use super::groups::{ask, attach, attach_as, ruled};
use super::lab::{self, Host, Server, binding, on_a_private_host};

#[test]
fn a_link_that_is_made_while_the_first_group_comes_is_closed_like_all_others() {
    on_a_private_host("moment", async |host| {
        for _ in 0..3 {
            let net = host.network().await;
            let mut all: Vec<_> = (1..=16)
                .map(|n| host.wanted(n, u8::try_from(n).unwrap() + 1, vec![]))
                .collect();
            all.insert(8, ruled(host, 17, 18, vec![], &json!({"groups": ["web"]})));
            let attached = join_all(all.iter().map(|one| attach_as(&net, one))).await;
            assert!(attached.iter().all(Result::is_ok), "{attached:?}");
            host.repairs_nothing(&net, &all).await;
            net.teardown().await.unwrap();
        }
    });
}

/// Process that has taken the agent's table for its own: nobody else can change it.
struct TableThief(Child);

impl TableThief {
    fn of(host: &Host) -> Self {
        let bridge = host.bridge();
        let mut nft = Command::new("nft");
        let nft = nft.arg("-i").stdin(Stdio::piped()).stdout(Stdio::null());
        let mut thief = nft.spawn().unwrap();
        let taking =
            format!("delete table ip {bridge}\nadd table ip {bridge} {{ flags owner; }}\n");
        let stdin = thief.stdin.as_mut().unwrap();
        stdin.write_all(taking.as_bytes()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !lab::rules(&bridge).contains("flags owner") {
            assert!(Instant::now() < deadline, "{}", lab::rules(&bridge));
            std::thread::sleep(Duration::from_millis(10));
        }
        Self(thief)
    }
}

impl Drop for TableThief {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_container_is_not_connected_without_its_rules_and_holds_up_no_other() {
    on_a_private_host("unruled", async |host| {
        let net = host.network().await;
        let web = ruled(host, 1, 2, vec![], &json!({"groups": ["web"]}));
        let all = [web, host.wanted(2, 3, vec![]), host.wanted(3, 4, vec![])];
        let paths = attach(&net, &all[..2]).await;
        let inside = paths.iter().map(|paths| Server::tcp(&paths.netns, 80));
        let _inside: Vec<_> = inside.collect();
        let thief = TableThief::of(host);
        for paths in &paths {
            lab::in_netns(&paths.netns, || lab::shell("ip link del eth0"));
        }
        let failed = net.repair(&all[..2], &BTreeSet::new()).await.unwrap_err();
        let Failure {
            reason, message, ..
        } = failed.into();
        assert_eq!(reason, Reason::FirewallFailed, "{message}");
        attach_as(&net, &all[2]).await.unwrap();
        let more = ruled(host, 4, 5, vec![], &json!({"groups": ["web"]}));
        let failed = attach_as(&net, &more).await.unwrap_err();
        assert_eq!(Failure::from(failed).reason, Reason::FirewallFailed);
        net.detach(more.0).await.unwrap();
        let connected = |index: usize| {
            let shown = lab::in_netns(&paths[index].netns, || lab::output("ip -br link"));
            shown.contains("eth0")
        };
        assert!(!connected(0), "its rules are nowhere");
        assert!(connected(1));
        assert!(ask(&paths[1].netns, host.address(4), 80).is_err());

        drop(thief);
        net.repair(&all, &BTreeSet::new()).await.unwrap();
        assert!(connected(0));
        assert!(ask(&paths[1].netns, host.address(2), 80).is_err());
        net.teardown().await.unwrap();
    });
}

#[test]
fn name_servers_are_reached_behind_published_ports_and_when_the_host_gets_others() {
    on_a_private_host("servers", async |host| {
        let file = tempfile::NamedTempFile::new().unwrap();
        let serve = |address| {
            std::fs::write(file.path(), format!("nameserver {address}\n")).unwrap();
        };
        serve(lab::HOST_LAN);
        let lists = vec![file.path().to_owned()];
        let net = host.network_with(|config| config.resolv_conf = lists).await;
        let published = vec![binding(Udp, 53, 5353), binding(Tcp, 53, 5353)];
        let quiet = json!({"allow": {"egress": []}});
        let all = [
            ruled(host, 1, 2, vec![], &quiet),
            host.wanted(2, 3, published),
            host.wanted(3, 4, vec![]),
        ];
        let paths = attach(&net, &all).await;
        let server = &paths[1].netns;
        let _inside = (Server::udp(server, 5353), Server::tcp(server, 5353));
        let asks = |to, port| lab::in_netns(&paths[0].netns, || ask_udp(to, port)).is_ok();
        assert!(asks(lab::HOST_LAN, 53));
        assert!(ask(&paths[0].netns, lab::HOST_LAN, 53).is_ok());
        assert!(!asks(host.address(3), 5353), "not by its own address");

        let _outside = host.outside().udp(53);
        assert!(!asks(lab::OUTSIDE, 53));
        serve(lab::OUTSIDE);
        net.detach(all[2].0).await.unwrap();
        let told = std::fs::read_to_string(&paths[0].resolv_conf).unwrap();
        assert!(told.contains(&lab::OUTSIDE.to_string()), "{told}");
        assert!(asks(lab::OUTSIDE, 53));
        net.teardown().await.unwrap();
    });
}

#[test]
fn the_rules_of_a_container_stay_until_it_is_off_the_network() {
    on_a_private_host("leaving", async |host| {
        let lists = tempfile::NamedTempFile::new().unwrap();
        let serve = |address| {
            std::fs::write(lists.path(), format!("nameserver {address}\n")).unwrap();
        };
        serve(lab::HOST_LAN);
        let own = vec![lists.path().to_owned()];
        let net = host.network_with(|config| config.resolv_conf = own).await;
        let quiet = json!({"allow": {"egress": []}});
        let all = [1, 2].map(|n| ruled(host, u64::from(n), n + 1, vec![], &quiet));
        let paths = attach(&net, &all).await;
        let (leaving, netns) = (all[0].0, paths[0].netns.display());
        // What is in the netns' place cannot be removed.
        lab::shell(&format!("umount {netns} && rm {netns} && mkdir {netns}"));
        let element = format!("{} comment", host.address(2));
        let has_rules = || lab::rules(&host.bridge()).contains(&element);
        serve(lab::OUTSIDE);
        net.detach(leaving).await.unwrap_err();
        attach(&net, &[ruled(host, 3, 4, vec![], &quiet)]).await;
        assert!(has_rules(), "{}", lab::rules(&host.bridge()));
        lab::shell(&format!("rmdir {netns}"));
        serve(lab::HOST_LAN);
        net.detach(leaving).await.unwrap();
        assert!(!has_rules(), "{}", lab::rules(&host.bridge()));
        net.teardown().await.unwrap();
    });
}

/// The next generation of an instance, at the same address.
fn redeployed(mut one: AssignedInstance) -> AssignedInstance {
    one.0.generation += 1;
    one
}

#[test]
fn a_new_agent_knows_the_rules_of_a_redeployed_container_whose_record_it_cannot_read() {
    on_a_private_host("redeploy", async |host| {
        let first = host.network().await;
        let web = ruled(host, 1, 2, vec![], &json!({"groups": ["web"]}));
        let plain = host.wanted(2, 3, vec![]);
        let paths = attach(&first, &[web.clone(), plain.clone()]).await;
        first.detach(web.0).await.unwrap();
        let again = attach_as(&first, &redeployed(web)).await.unwrap();
        let _inside = Server::tcp(&again.netns, 80);
        drop(first);
        let second = host.network().await;
        let untouched = BTreeSet::from([lab::instance(1).id]);
        second.repair(&[plain], &untouched).await.unwrap();
        assert!(ask(&paths[1].netns, host.address(2), 80).is_err());
        second.teardown().await.unwrap();
    });
}

#[test]
fn lost_rules_close_containers_while_one_runs_whose_record_cannot_be_read() {
    on_a_private_host("lost", async |host| {
        let first = host.network().await;
        let all = [
            ruled(host, 1, 2, vec![], &json!({"groups": ["web"]})),
            host.wanted(2, 3, vec![]),
            host.wanted(3, 4, vec![]),
        ];
        let paths = attach(&first, &all).await;
        let _inside = [0, 1].map(|index: usize| Server::tcp(&paths[index].netns, 80));
        let asks = |last| ask(&paths[2].netns, host.address(last), 80).is_ok();
        drop(first);
        std::fs::write(host.netns_dir().with_file_name("rules"), "[{").unwrap();
        let untouched = BTreeSet::from([lab::instance(1).id]);
        // The next agent knows no more than this one.
        for _ in 0..2 {
            let net = host.network().await;
            net.repair(&all[1..], &untouched).await.unwrap();
            assert!(!asks(2) && !asks(3));
            let told = net.findings().borrow().clone();
            let lost = told
                .iter()
                .find(|told| told.alarm == Alarm::NetworkRulesLost);
            let message = &lost.unwrap().message;
            assert!(message.contains(&lab::instance(1).to_string()), "{told:?}");
        }
        let net = host.network().await;
        net.repair(&all, &BTreeSet::new()).await.unwrap();
        assert!(!asks(2) && asks(3));
        net.teardown().await.unwrap();
    });
}

#[test]
fn one_link_that_cannot_be_closed_keeps_containers_with_rules_back_and_no_others() {
    on_a_private_host("badlink", async |host| {
        let net = host.network().await;
        let plain = [1, 2].map(|n| host.wanted(u64::from(n), n + 1, vec![]));
        attach(&net, &plain[..1]).await;
        let link = host.veth();
        // A filter for IPv4 alone has the place: nobody else's fits in.
        lab::shell(&format!(
            "tc qdisc del dev {link} clsact && tc qdisc add dev {link} clsact && tc filter add dev \
             {link} ingress protocol ip pref 1 bpf da bytecode '1,6 0 0 4294967295,'"
        ));
        let web = ruled(host, 3, 4, vec![], &json!({"groups": ["web"]}));
        for _ in 0..2 {
            let refused = attach_as(&net, &web).await.unwrap_err();
            let Failure {
                reason, message, ..
            } = refused.into();
            assert_eq!(reason, Reason::BridgeFailed);
            assert!(message.contains(&link), "{message}");
        }
        let late = attach(&net, &plain[1..]).await;
        let _inside = Server::tcp(&late[0].netns, 80);
        // Nobody with rules is connected: the links are as before.
        lab::shell(&format!("tc qdisc del dev {link} clsact"));
        net.detach(web.0).await.unwrap();
        let shown = lab::output(&format!("ip -d link show {link}"));
        assert!(shown.contains("bcast_flood on"), "{shown}");
        attach(&net, std::slice::from_ref(&web)).await;
        let all = [&plain[..], std::slice::from_ref(&web)].concat();
        host.repairs_nothing(&net, &all).await;

        // One that is connected stays so; the next waits until the link is closed again.
        lab::shell(&format!(
            "tc qdisc del dev {link} clsact && tc qdisc add dev {link} clsact && tc filter add dev \
             {link} ingress protocol ip pref 1 bpf da bytecode '1,6 0 0 4294967295,'"
        ));
        for _ in 0..2 {
            host.repairs_nothing(&net, &all).await;
            let told = net.findings().borrow().clone();
            assert_eq!(told[0].alarm, Alarm::NeighboursNotClosed, "{told:?}");
        }
        let more = ruled(host, 4, 5, vec![], &json!({"groups": ["web"]}));
        attach_as(&net, &more).await.unwrap_err();
        attach(&net, &[host.wanted(5, 6, vec![])]).await;
        net.teardown().await.unwrap();
    });
}

#[test]
fn a_new_agent_tells_the_way_that_the_one_before_did_not_come_to_tell() {
    on_a_private_host("untold", async |host| {
        let first = host.network().await;
        let all = [
            ruled(host, 1, 2, vec![], &json!({"groups": ["web"]})),
            host.wanted(2, 3, vec![]),
        ];
        let paths = attach(&first, &all).await;
        host.repairs_nothing(&first, &all).await;
        drop(first);
        // As if it had ended between the links and their containers.
        let inside = |line: &str| lab::in_netns(&paths[1].netns, || lab::output(line));
        inside("ip neigh replace 10.99.0.2 lladdr 0a:58:0a:63:00:02 dev eth0 nud reachable");
        let second = host.network().await;
        second.repair(&all, &BTreeSet::new()).await.unwrap();
        let shown = inside("ip neigh show dev eth0");
        assert!(
            shown.contains("10.99.0.2 lladdr 0a:58:0a:63:00:01"),
            "{shown}"
        );
        second.teardown().await.unwrap();
    });
}
