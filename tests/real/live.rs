//! Changes that a container takes on as it is: limits, labels, restart, stop, logs and priority, with the same process.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::run;
use crate::stand::{SOON, Stand, eventually};

/// Deploys, and waits until it runs so; the status and the answer.
async fn put(stand: &Stand, body: &Value) -> (u16, Value) {
    let path = "/containers/deploy?wait=running&timeout=30s";
    stand.agent.ask("POST", path, Some(body)).await
}

fn instance(shown: &Value, made_at: u64) -> String {
    format!("{}-{made_at}", shown["id"].as_str().unwrap())
}

fn of_group(stand: &Stand, place: &str, instance: &str, file: &str) -> Option<String> {
    let group = Path::new("/sys/fs/cgroup").join(place);
    let group = group.join(&stand.bed.namespace).join(instance);
    let text = fs::read_to_string(group.join(file)).ok()?;
    Some(text.trim().to_owned())
}

/// CPU, memory and number of processes that the kernel leaves to an instance, each in the kernel's words of version 2.
fn limits(stand: &Stand, instance: &str) -> [String; 3] {
    let of = |place, file| of_group(stand, place, instance, file);
    let named = |text: Option<String>, unlimited: &str| {
        let text = text.unwrap_or_default();
        if text == unlimited {
            "max".to_owned()
        } else {
            text
        }
    };
    if of("pids", "pids.max").is_none() {
        return ["cpu.max", "memory.max", "pids.max"].map(|file| of("", file).unwrap_or_default());
    }
    let quota = named(of("cpu", "cpu.cfs_quota_us"), "-1");
    let memory = of("memory", "memory.limit_in_bytes");
    [
        format!("{quota} 100000"),
        named(memory, "9223372036854771712"),
        of("pids", "pids.max").unwrap_or_default(),
    ]
}

/// CPUs, reserved memory and weight of an instance, where the kernel has version 1 of control groups.
fn shares(stand: &Stand, instance: &str) -> Option<[String; 3]> {
    Some([
        of_group(stand, "cpuset", instance, "cpuset.cpus")?,
        of_group(stand, "memory", instance, "memory.soft_limit_in_bytes")?,
        of_group(stand, "cpu", instance, "cpu.shares")?,
    ])
}

fn words(limits: [&str; 3]) -> [String; 3] {
    limits.map(str::to_owned)
}

/// Runs on, and has something in its files that no new one has.
fn body(stand: &Stand, more: &Value) -> Value {
    stand.script("a", "echo mine > /mine; while :; do sleep 0.1; done", more)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_live_part_alone_and_all_of_them_keep_the_process_and_anything_else_does_not() {
    let stand = Stand::new().await;
    let shown = stand.agent.deploy_and_wait(&body(&stand, &json!({}))).await;
    let (first, pid) = (instance(&shown, 1), stand.pid(&shown).unwrap());
    let unlimited = ["max 100000", "max", "4096"];
    assert_eq!(limits(&stand, &first), words(unlimited));
    let before = shares(&stand, &first).unwrap_or_default();
    let all = json!({"resources": {"cpu": "0.25", "memory": "48m", "pids": 20}, "labels": {"b": "c"}, "priority": 7,
        "restart": {"policy": "on-failure"}, "stop": {"timeout": "1s"}, "logs": {"max_files": 3}});
    let parts = [
        (
            json!({"resources": {"cpu": "0.5"}}),
            ["50000 100000", "max", "4096"],
        ),
        (
            json!({"resources": {"memory": "64m"}}),
            ["max 100000", "67108864", "4096"],
        ),
        (
            json!({"resources": {"memory": "32m"}}),
            ["max 100000", "33554432", "4096"],
        ),
        (
            json!({"resources": {"pids": 30}}),
            ["max 100000", "max", "30"],
        ),
        (
            json!({"resources": {"cpuset": "0", "memory_reservation": "9m", "cpu_shares": 7}}),
            unlimited,
        ),
        (json!({"labels": {"a": "b"}}), unlimited),
        (json!({"restart": {"policy": "never"}}), unlimited),
        (json!({"stop": {"signal": "SIGINT"}}), unlimited),
        (json!({"logs": {"max_size": "64k"}}), unlimited),
        (all.clone(), ["25000 100000", "50331648", "20"]),
    ];
    for (n, (part, expected)) in parts.into_iter().enumerate() {
        let changed = body(&stand, &part);
        let plan = "/containers/deploy?dry_run=true";
        let (_, planned) = stand.agent.ask("POST", plan, Some(&changed)).await;
        assert_eq!(planned["plan"][0]["action"], "adjust", "{planned:#}");
        let (status, now) = put(&stand, &changed).await;
        let generation = json!(n + 2);
        assert_eq!(
            (status, &now["generation"], &now["applied_generation"]),
            (200, &generation, &generation),
            "{part}: {now}"
        );
        assert_eq!(limits(&stand, &first), words(expected), "{part}");
        assert_eq!(stand.pid(&shown).as_ref(), Some(&pid), "{part}");
        let info = stand.bed.ctr(&["containers", "info", &first]);
        let info: Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["Labels"]["chas.io/generation"], generation.to_string());
        // Version 2 has other numbers for them.
        if let Some(found) = shares(&stand, &first) {
            let shared = if part["resources"]["cpuset"].is_string() {
                words(["0", "9437184", "7"])
            } else {
                before.clone()
            };
            let is_of_cpu = part["resources"]["cpu"].is_string();
            assert_eq!(
                found[..2 + usize::from(!is_of_cpu)],
                shared[..2 + usize::from(!is_of_cpu)],
                "{part}"
            );
        }
        let group = of_group(&stand, "devices", &first, "devices.list");
        assert!(!group.unwrap_or_default().contains("10:200"), "tunnels");
    }
    let mut prior = body(&stand, &all);
    prior["priority"] = json!(8);
    let (_, now) = put(&stand, &prior).await;
    assert_eq!(
        (&now["spec"]["priority"], stand.pid(&shown)),
        (&json!(8), Some(pid.clone()))
    );
    let (_, explained) = stand.agent.get("/containers/a/explain").await;
    let restarts = &explained["decision"]["inputs"]["restarts"];
    assert_eq!(*restarts, 0, "{explained}");
    let mine = format!("/proc/{pid}/root/mine");
    assert_eq!(fs::read_to_string(&mine).unwrap(), "mine\n");
    // Together with what is not live, all of it is new.
    prior["environment"] = json!({"A": "1"});
    prior["labels"] = json!({"d": "e"});
    let (_, now) = put(&stand, &prior).await;
    let made_at = now["generation"].as_u64().unwrap();
    assert_ne!(stand.pid(&shown), Some(pid));
    let expected = words(["25000 100000", "50331648", "20"]);
    assert_eq!(limits(&stand, &instance(&shown, made_at)), expected);
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_below_what_is_used_is_refused_and_the_container_runs_on_with_the_old_one() {
    let stand = Stand::new().await;
    let script =
        "x=$(head -c 24000000 /dev/zero | tr '\\0' x); echo filled; while :; do sleep 0.1; done";
    let limited = |memory: &str, cpu: &str| {
        let resources = json!({"resources": {"memory": memory, "cpu": cpu}});
        stand.script("a", script, &resources)
    };
    let shown = stand.agent.deploy_and_wait(&limited("128m", "1")).await;
    let (first, pid) = (instance(&shown, 1), stand.pid(&shown).unwrap());
    stand.printed("a", "filled").await;
    let (status, refused) = put(&stand, &limited("8m", "0.5")).await;
    assert_eq!(
        (status, &refused["code"]),
        (422, &json!("LimitRefused")),
        "{refused}"
    );
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("resources.memory cannot be"), "{detail}");
    let (_, now) = stand.agent.get("/containers/a").await;
    assert_eq!(
        (&now["status"], &now["reason"], &now["applied_generation"]),
        (&json!("running"), &json!("LimitRefused"), &json!(1))
    );
    assert!(now["next_attempt"].is_string(), "{now}");
    // What is not refused is set.
    let half = words(["50000 100000", "134217728", "4096"]);
    assert_eq!(limits(&stand, &first), half);
    let (status, now) = put(&stand, &limited("160m", "0.5")).await;
    assert_eq!((status, &now["reason"]), (200, &Value::Null), "{now}");
    let more = words(["50000 100000", "167772160", "4096"]);
    assert_eq!(limits(&stand, &first), more);
    assert_eq!(stand.pid(&shown), Some(pid));
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_in_the_middle_of_a_change_finishes_it_when_it_is_back() {
    let mut stand = Stand::new().await;
    let shown = stand.agent.deploy_and_wait(&body(&stand, &json!({}))).await;
    let (first, pid) = (instance(&shown, 1), stand.pid(&shown).unwrap());
    for n in 0..12u64 {
        let pids = 100 + n;
        let changed = body(
            &stand,
            &json!({"resources": {"pids": pids, "memory": format!("{}m", 64 + n)}}),
        );
        let (status, _) = stand.agent.deploy(&changed).await;
        assert_eq!(status, 202);
        tokio::time::sleep(Duration::from_millis(4 * n)).await;
        stand.agent.kill_9();
        stand.agent.start_again().await;
        let path = format!(
            "/containers/a?wait=applied&generation={}&timeout=30s",
            n + 2
        );
        let (status, now) = stand.agent.get(&path).await;
        assert_eq!(
            (status, &now["applied_generation"]),
            (200, &json!(n + 2)),
            "{now}"
        );
        let memory = ((64 + n) << 20).to_string();
        let expected = words(["max 100000", &memory, &pids.to_string()]);
        assert_eq!(limits(&stand, &first), expected);
        assert_eq!(stand.pid(&shown).as_ref(), Some(&pid));
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_live_is_started_with_it_after_an_end_and_after_a_reboot() {
    let mut stand = Stand::new().await;
    let shown = stand.agent.deploy_and_wait(&body(&stand, &json!({}))).await;
    let first = instance(&shown, 1);
    put(
        &stand,
        &body(&stand, &json!({"resources": {"memory": "64m"}})),
    )
    .await;
    let pid = stand.pid(&shown).unwrap();
    run("kill", ["-KILL", &pid]).unwrap();
    let is_new = || {
        stand
            .pid(&shown)
            .is_some_and(|now| now != pid && now != "0")
    };
    eventually("it runs again", async || is_new()).await;
    stand.agent.wait_status("a", "running", SOON).await;
    let expected = words(["max 100000", "67108864", "4096"]);
    assert_eq!(limits(&stand, &first), expected);
    // As after a reboot: its task is gone, and its container is there.
    stand.agent.terminate();
    stand
        .bed
        .ctr(&["tasks", "kill", "--signal", "KILL", &first]);
    let gone = || stand.bed.try_ctr(&["tasks", "rm", &first]).is_ok();
    eventually("the task is removed", async || gone()).await;
    stand.agent.start_again().await;
    let now = stand.agent.wait_status("a", "running", SOON).await;
    assert_eq!(
        (&now["generation"], &now["applied_generation"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(limits(&stand, &first), expected);
    // A container that rests takes it on with its next start, with its files.
    stand.agent.ask("POST", "/containers/a/stop", None).await;
    stand.agent.wait_status("a", "stopped", SOON).await;
    let resting = json!({"resources": {"pids": 50}, "state": "stopped"});
    stand.agent.deploy(&body(&stand, &resting)).await;
    stand.agent.ask("POST", "/containers/a/start", None).await;
    stand.agent.wait_status("a", "running", SOON).await;
    let pids = words(["max 100000", "max", "50"]);
    eventually("it has them", async || limits(&stand, &first) == pids).await;
    stand.end().await;
}

/// Sizes of a container's log files.
fn log_bytes(stand: &Stand, shown: &Value) -> Vec<u64> {
    let logs: PathBuf = stand
        .bed
        .dir
        .join("state/logs")
        .join(shown["id"].as_str().unwrap());
    let files = fs::read_dir(logs).unwrap().flatten();
    let files = files.filter(|file| file.path().extension().is_some_and(|end| end == "log"));
    files.map(|file| file.metadata().unwrap().len()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_logger_that_runs_takes_on_other_limits_and_so_does_the_one_after_it() {
    let stand = Stand::new().await;
    let script =
        "i=0; while :; do i=$((i+1)); echo line-$i-$(head -c 900 /dev/zero | tr '\\0' x); done";
    let limited = |logs: Value| stand.script("a", script, &json!({"logs": logs}));
    let wide = limited(json!({"max_size": "64k", "max_files": 20}));
    let shown = stand.agent.deploy_and_wait(&wide).await;
    let pid = stand.pid(&shown);
    let files = || log_bytes(&stand, &shown).len();
    eventually("it fills its files", async || files() > 6).await;
    let (status, now) = put(&stand, &limited(json!({"max_size": "64k", "max_files": 2}))).await;
    assert_eq!(
        (status, &now["applied_generation"]),
        (200, &json!(2)),
        "{now}"
    );
    eventually("the first are removed", async || files() <= 2).await;
    let (status, _) = put(&stand, &limited(json!({"max_size": "1m", "max_files": 4}))).await;
    assert_eq!(status, 200);
    let largest = || log_bytes(&stand, &shown).into_iter().max();
    eventually("a file grows", async || largest() > Some(200_000)).await;
    // The one that takes over is called with them.
    crate::loggers::kill_logger(&shown).await;
    eventually("a second file grows", async || {
        let sizes = log_bytes(&stand, &shown).into_iter();
        sizes.filter(|bytes| *bytes > 200_000).count() > 1
    })
    .await;
    assert_eq!(stand.pid(&shown), pid);
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_its_limit_ended_is_tried_at_once_with_another_one() {
    let stand = Stand::new().await;
    let script =
        "x=$(head -c 24000000 /dev/zero | tr '\\0' x); echo filled; while :; do sleep 0.1; done";
    let limited =
        |memory: &str| stand.script("a", script, &json!({"resources": {"memory": memory}}));
    stand.agent.deploy(&limited("12m")).await;
    eventually("it is in a crash loop", async || {
        let (_, now) = stand.agent.get("/containers/a").await;
        // It waits by now for some seconds.
        now["restart_count"].as_u64() >= Some(4) && now["status"] == "restarting"
    })
    .await;
    let (status, now) = put(&stand, &limited("256m")).await;
    assert_eq!((status, &now["status"]), (200, &json!("running")), "{now}");
    stand.printed("a", "filled").await;
    let (_, now) = stand.agent.get("/containers/a").await;
    assert_eq!(
        (&now["status"], &now["reason"]),
        (&json!("running"), &Value::Null)
    );
    stand.end().await;
}
