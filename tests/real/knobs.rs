//! Limits, shares and other settings of a container, as the kernel has them and as a program inside finds them.

use serde_json::{Value, json};
use state::reason::Reason;

use crate::inside::control;
use crate::reasons::shows;
use crate::stand::Stand;

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
