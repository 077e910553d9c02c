//! Shims and an OCI runtime that hang: only their own containers notice.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::containerd::Containerd;
use crate::harness::scratch::Scratch;
use crate::harness::{Testbed, run};
use crate::stand::{SOON, Stand, eventually};

/// Time after which the agent has given a shim up that does not answer.
const LATE: Duration = Duration::from_secs(200);

/// More than containerd can wait for, two seconds each, before a listing of everything times out.
const MANY: usize = 8;

const RESTS: &str = "sleep 1000 & wait";

/// A shim that is stopped, until the value goes.
struct Stopped(String);

impl Stopped {
    fn shim_of(shown: &Value) -> Self {
        let instance = format!("{}-{}", shown["id"].as_str().unwrap(), shown["generation"]);
        let pattern = format!("containerd-shim-runc-v2 .*{instance}");
        let pid = run("pgrep", ["--full", &pattern]).unwrap();
        run("kill", ["-STOP", pid.trim()]).unwrap();
        Self(pid.trim().to_owned())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _it_may_have_ended = run("kill", ["-CONT", &self.0]);
    }
}

async fn is_unresponsive(stand: &Stand, name: &str) -> bool {
    let (_, shown) = stand.agent.get(&format!("/containers/{name}")).await;
    shown["reason"] == "ShimUnresponsive" && shown["status"] == "running"
}

async fn is_removed(stand: &Stand, name: &str) {
    let deadline = Instant::now() + LATE;
    while stand.agent.get(&format!("/containers/{name}")).await.0 != 404 {
        assert!(Instant::now() < deadline, "{name} is not removed");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Everything that others may want is done.
async fn others_are_served(stand: &Stand, name: &str) {
    let began = Instant::now();
    let agent = &stand.agent;
    agent
        .deploy_and_wait(&stand.script(name, RESTS, &json!({})))
        .await;
    agent
        .ask("POST", &format!("/containers/{name}/restart"), None)
        .await;
    eventually("it is restarted", async || {
        let (_, shown) = agent.get(&format!("/containers/{name}/explain")).await;
        shown["status"] == "running" && shown["desired"]["restart_pending"] == false
    })
    .await;
    agent
        .ask("POST", &format!("/containers/{name}/stop"), None)
        .await;
    agent.wait_status(name, "stopped", SOON).await;
    agent.delete_and_wait(name).await;
    let (_, health) = agent.get("/health").await;
    assert_eq!(health["containerd"]["reachable"], true, "{health}");
    eprintln!("{name} came and went in {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn shims_that_do_not_answer_hold_up_nobody_else_also_not_a_new_agent() {
    let mut stand = Stand::new().await;
    let mut shown = Vec::new();
    for n in 0..MANY {
        let body = stand.script(&format!("deaf{n}"), RESTS, &json!({}));
        shown.push(stand.agent.deploy_and_wait(&body).await);
    }
    let ends = stand.script("ends", "sleep 4; exit 3", &json!({}));
    stand.agent.deploy_and_wait(&ends).await;
    let stopped: Vec<_> = shown.iter().map(Stopped::shim_of).collect();
    others_are_served(&stand, "first").await;
    // What ends while no agent is there is only found by a look at everything.
    stand.agent.kill_9();
    tokio::time::sleep(Duration::from_secs(5)).await;
    stand.agent.start_again().await;
    eventually("what ended is started again", async || {
        stand.agent.get("/containers/ends").await.1["restart_count"] != json!(0)
    })
    .await;
    others_are_served(&stand, "second").await;
    for n in 0..MANY {
        eventually("it is said", async || {
            is_unresponsive(&stand, &format!("deaf{n}")).await
        })
        .await;
    }
    let (_, health) = stand.agent.get("/health").await;
    assert_eq!(
        (&health["status"], &health["unsettled"]),
        (&json!("degraded"), &json!(MANY)),
        "{health}"
    );
    let named = &health["unsettled_containers"][0];
    assert_eq!(named["reason"], "ShimUnresponsive", "{health}");

    drop(stopped);
    for n in 0..MANY {
        eventually("it answers again", async || {
            !is_unresponsive(&stand, &format!("deaf{n}")).await
        })
        .await;
        let (_, again) = stand.agent.get(&format!("/containers/deaf{n}")).await;
        let found = (&again["status"], &again["reason"], &again["restart_count"]);
        assert_eq!(
            found,
            (&json!("running"), &Value::Null, &json!(0)),
            "{again}"
        );
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_end_and_has_a_shim_that_does_not_answer_ends_with_its_shim() {
    let stand = Stand::new().await;
    let mut shown = Vec::new();
    for name in ["stops", "goes"] {
        let body = stand.script(name, RESTS, &json!({}));
        shown.push(stand.agent.deploy_and_wait(&body).await);
    }
    let _stopped: Vec<_> = shown.iter().map(Stopped::shim_of).collect();
    stand
        .agent
        .ask("POST", "/containers/stops/stop", None)
        .await;
    stand.agent.ask("DELETE", "/containers/goes", None).await;
    stand.agent.wait_status("stops", "stopped", LATE).await;
    is_removed(&stand, "goes").await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_hangs_for_some_keeps_the_others_from_nothing() {
    let scratch = Scratch::shared();
    let (bin, on) = (scratch.dir().join("slow"), scratch.dir().join("slow-on"));
    fs::create_dir(&bin).unwrap();
    fs::write(&on, "").unwrap();
    let program = |name: &str| run("which", [name]).unwrap().trim().to_owned();
    // It is started in the bundle's directory.
    let script = format!(
        "#!/bin/sh\n[ -e {} ] && case \"$*\" in *' create '*) grep -qs hangs-here config.json && exec sleep 4242; esac\n\
         exec {} \"$@\"\n",
        on.display(),
        program("runc"),
    );
    fs::write(bin.join("runc"), script).unwrap();
    fs::set_permissions(bin.join("runc"), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["containerd", "containerd-shim-runc-v2", "sleep", "grep"] {
        std::os::unix::fs::symlink(program(name), bin.join(name)).unwrap();
    }
    let bed = Testbed::on(Arc::new(Containerd::private_with_path(&bin)));
    let stand = Stand::on(bed).await;
    let hangs = json!({"hostname": "hangs-here"});
    for n in 0..MANY {
        let body = stand.script(&format!("slow{n}"), RESTS, &hangs);
        assert_eq!(stand.agent.deploy(&body).await.0, 202);
    }
    eventually("all of them hang", async || {
        let listed = run("pgrep", ["--full", "--count", "^sleep 4242$"]);
        listed.is_ok_and(|count| count.trim().parse::<usize>().unwrap() >= MANY)
    })
    .await;
    others_are_served(&stand, "other").await;
    fs::remove_file(&on).unwrap();
    let hanging = run("pgrep", ["--full", "^sleep 4242$"]).unwrap();
    // All but one; the agent has to give that one up by itself.
    for pid in hanging.lines().skip(1) {
        run("kill", ["-KILL", pid]).unwrap();
    }
    for n in 0..MANY {
        stand
            .agent
            .ask("DELETE", &format!("/containers/slow{n}"), None)
            .await;
    }
    for n in 0..MANY {
        is_removed(&stand, &format!("slow{n}")).await;
    }
    let left = run("pgrep", ["--full", "^sleep 4242$"]);
    assert!(left.is_err(), "runtimes that hang: {left:?}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_somebody_paused_is_stopped_like_any_other() {
    let stand = Stand::new().await;
    for name in ["stops", "goes"] {
        let shown = stand
            .agent
            .deploy_and_wait(&stand.script(name, RESTS, &json!({})))
            .await;
        let instance = format!("{}-{}", shown["id"].as_str().unwrap(), shown["generation"]);
        stand.bed.ctr(&["tasks", "pause", &instance]);
    }
    stand
        .agent
        .ask("POST", "/containers/stops/stop", None)
        .await;
    stand.agent.wait_status("stops", "stopped", SOON).await;
    stand.agent.delete_and_wait("goes").await;
    stand.end().await;
}
