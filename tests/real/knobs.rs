//! Limits, shares and other settings of a container, as the kernel has them and as a program inside finds them.

use serde_json::{Value, json};
use state::reason::Reason;

use crate::harness::Testbed;
use crate::inside::control;
use crate::reasons::shows;
use crate::stand::{Stand, eventually};

mod disks;
mod init;

#[tokio::test(flavor = "multi_thread")]
async fn shares_reservations_and_swap_are_in_the_cgroup() {
    let stand = Stand::new().await;
    let body = stand.script(
        "a",
        "sleep 1000 & wait",
        &json!({"resources": {
            "cpu": "1", "cpu_reservation": "0.25", "memory": "64m", "memory_reservation": "32m", "swap": "16m",
            "cpuset": "0", "io": {"weight": 200},
        }}),
    );
    let shown = stand.agent.deploy_and_wait(&body).await;
    for (v1, v2, expected) in [
        ("cpu/cpu.shares", "cpu.weight", ["256", "10"]),
        ("cpuset/cpuset.cpus", "cpuset.cpus", ["0", "0"]),
        (
            "memory/memory.memsw.limit_in_bytes",
            "memory.swap.max",
            ["83886080", "16777216"],
        ),
        (
            "memory/memory.soft_limit_in_bytes",
            "memory.low",
            ["33554432", "33554432"],
        ),
        (
            "blkio/blkio.bfq.weight",
            "io.bfq.weight",
            ["200", "default 200"],
        ),
    ] {
        let found = control(&stand, &shown, v1, v2);
        assert!(expected.contains(&found.as_str()), "{v1}: {found}");
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn process_limits_shared_memory_and_the_score_are_found_inside() {
    let stand = Stand::new().await;
    let script = "cat /proc/self/limits /proc/self/oom_score_adj; grep /dev/shm /proc/mounts; echo the-end; sleep 1000 & wait";
    let more = json!({
        "ulimits": {"nofile": "100:200", "core": 4096, "stack": "1048576:unlimited"},
        "shm_size": "1.5m", "oom_score": 321,
    });
    stand.agent.deploy(&stand.script("a", script, &more)).await;
    let log = stand.printed("a", "the-end").await;
    let words: Vec<_> = log
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    for line in [
        "Max open files 100 200 files",
        "Max core file size 4096 4096 bytes",
        "Max stack size 1048576 unlimited bytes",
        "321",
    ] {
        assert!(words.iter().any(|found| found == line), "{line}: {log}");
    }
    assert!(log.contains("size=1536k"), "{log}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_lacks_is_told_whole_and_starts_once_it_is_not_asked_for() {
    let stand = Stand::new().await;
    let body = |more: &Value| stand.script("a", "sleep 1000 & wait", more);
    let lacking =
        json!({"resources": {"cpuset": "0,8000-8001"}, "ulimits": {"nofile": 2_000_000_000}});
    stand.agent.deploy(&body(&lacking)).await;
    let shown = shows(&stand.agent, "a", Reason::LimitRefused, "CPU 8000-8001").await;
    let message = shown["message"].as_str().unwrap();
    assert!(message.contains("ulimits.nofile"), "{message}");
    assert!(shown["next_attempt"].is_string(), "{shown}");
    let privileged = body(&json!({"ulimits": {"rtprio": 1}}));
    let (status, denied) = stand.agent.deploy(&privileged).await;
    assert_eq!(
        (status, &denied["rule"]),
        (403, &json!("node-capabilities")),
        "{denied}"
    );
    stand.agent.deploy_and_wait(&body(&json!({}))).await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_groups_are_found_inside_and_stay_while_neighbours_come() {
    let stand = Stand::new().await;
    let script = "hostname; cat /etc/hostname /etc/resolv.conf; echo H=$HOSTNAME; echo G=$(id -G); echo ready; \
                  until grep -q other /etc/hosts; do sleep 0.1; done; cat /etc/hosts; echo the-end; sleep 1000 & wait";
    let more = json!({
        "hostname": "w.example", "hosts": {"db.internal": "10.0.0.5", "node": "host-gateway"},
        "dns": {"servers": ["192.0.2.53"], "search": ["a.example", "b.example"], "options": ["ndots:2"]},
        "user": "web", "groups": ["44"],
    });
    stand
        .agent
        .deploy_and_wait(&stand.script("web-1", script, &more))
        .await;
    stand.printed("web-1", "ready").await;
    stand
        .agent
        .deploy_and_wait(&stand.web("other", &json!({})))
        .await;
    let log = stand.printed("web-1", "the-end").await;
    assert!(log.starts_with("w.example\nw.example\n"), "{log}");
    let node = format!("{}1\tnode\n", stand.bed.subnet.trim_end_matches("0/24"));
    for part in [
        "nameserver 192.0.2.53\n",
        "search a.example b.example\n",
        "options ndots:2\n",
        "H=w.example\n",
        "G=1000 44 2000\n",
        "\tw.example web-1\n",
        "10.0.0.5\tdb.internal\n",
        "\tother\n",
        &node,
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert_eq!(log.matches("nameserver").count(), 1, "{log}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sysctls_are_the_containers_alone_and_come_back_with_each_start() {
    let stand = Stand::new().await;
    let of_host = || std::fs::read_to_string("/proc/sys/kernel/shmmni").unwrap();
    let before = of_host();
    let script = "cd /proc/sys; cat net/core/somaxconn net/ipv4/ip_unprivileged_port_start kernel/shmmni fs/mqueue/msg_max | tr '\\n' ' '; \
                  echo the-end; sleep 1000 & wait";
    let sysctls = json!({
        "net.core.somaxconn": "77", "net.ipv4.ip_unprivileged_port_start": "81",
        "kernel.shmmni": "99", "fs.mqueue.msg_max": "8",
    });
    let body = stand.script("a", script, &json!({"sysctls": sysctls}));
    stand.agent.deploy_and_wait(&body).await;
    stand.printed("a", "the-end").await;
    stand.agent.ask("POST", "/containers/a/restart", None).await;
    let expected = "77 81 99 8 the-end\n";
    eventually("it has started twice", async || {
        stand
            .agent
            .logs("a", "tail=all")
            .await
            .matches(expected)
            .count()
            == 2
    })
    .await;
    assert_eq!(of_host(), before);
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sysctl_that_cannot_be_set_is_named_and_leaves_no_task() {
    let stand = Stand::new().await;
    for (name, sysctl, value) in [
        ("queue", "kernel.shmmni", "many"),
        ("net", "net.ipv4.nothing", "1"),
    ] {
        let more = json!({"sysctls": {sysctl: value}});
        stand
            .agent
            .deploy(&stand.script(name, "sleep 1000 & wait", &more))
            .await;
        let part = format!("sysctls.{sysctl} cannot be set to \"{value}\": ");
        let shown = shows(&stand.agent, name, Reason::SysctlRefused, &part).await;
        assert!(shown["next_attempt"].is_string(), "{shown}");
        assert_eq!(stand.pid(&shown), None);
        let right = stand.script(name, "sleep 1000 & wait", &json!({}));
        stand.agent.deploy_and_wait(&right).await;
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capability_beyond_the_default_is_had_where_the_node_gives_it_by_who_asks() {
    let given = [("CHAS_CAPABILITIES", "CHOWN,KILL,NET_ADMIN")];
    let stand = Stand::with(Testbed::new(), &given).await;
    let script = "ip link add dummy9 type dummy && echo made || echo refused; ip link set lo mtu 1400 && echo set || echo fixed; \
                  grep CapEff /proc/self/status; echo the-end; sleep 1000 & wait";
    let add = |name: &str| json!({"security": {"capabilities": {"add": [name], "drop": ["ALL"]}}});
    stand
        .agent
        .deploy(&stand.script("vpn", script, &add("NET_ADMIN")))
        .await;
    stand
        .agent
        .deploy(&stand.script("plain", script, &json!({})))
        .await;
    let log = stand.printed("vpn", "the-end").await;
    assert!(log.contains("\nset\n") || log.starts_with("set\n"), "{log}");
    assert!(log.contains("CapEff:\t0000000000001000"), "{log}");
    let log = stand.printed("plain", "the-end").await;
    assert!(
        log.contains("fixed") && log.contains("CapEff:\t0000000000000021"),
        "{log}"
    );
    let (status, denied) = stand
        .agent
        .deploy(&stand.script("root", script, &add("SYS_ADMIN")))
        .await;
    assert_eq!(
        (status, &denied["rule"]),
        (403, &json!("node-capabilities")),
        "{denied}"
    );
    stand.end().await;
}
