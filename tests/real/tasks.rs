//! Signals to real processes, and the processes of a container as the kernel has them.

use serde_json::{Value, json};

use crate::audit::lines;
use crate::client::{order, shows};
use crate::stand::{SOON, Stand, eventually};

const LOOP: &str = "while :; do sleep 1; done";

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_reaches_the_first_process_and_what_ends_of_it_starts_again() {
    let stand = Stand::new().await;
    let script = format!("trap 'echo got-usr1' USR1; echo ready; {LOOP}");
    let body = stand.script("web", &script, &json!({}));
    stand.agent.deploy_and_wait(&body).await;
    stand.printed("web", "ready").await;
    let kill = async |query: &str| {
        let path = format!("/containers/web/kill{query}");
        stand.agent.ask("POST", &path, None).await
    };
    let (status, told) = kill("?signal=USR1").await;
    assert_eq!(
        (status, &told["status"]),
        (202, &json!("running")),
        "{told}"
    );
    stand.printed("web", "got-usr1").await;
    let (_, before) = stand.agent.get("/containers/web").await;
    let (status, told) = kill("?wait=ended&timeout=30s").await;
    assert_eq!(status, 200, "{told}");
    eventually("it runs again", async || {
        let (_, shown) = stand.agent.get("/containers/web").await;
        shown["status"] == "running" && shown["restart_count"] == 1
    })
    .await;
    let (_, after) = stand.agent.get("/containers/web").await;
    assert_ne!(after["started"], before["started"]);
    assert_eq!(after["exit_code"], 137, "{after}");
    assert_eq!(
        after["spec"]["state"], before["spec"]["state"],
        "as desired"
    );

    // Whoever never starts again is left as it ended.
    let more = json!({"restart": {"policy": "never"}});
    let once = stand.script("once", LOOP, &more);
    stand.agent.deploy_and_wait(&once).await;
    let path = "/containers/once/kill?signal=TERM&wait=ended";
    let (status, told) = stand.agent.ask("POST", path, None).await;
    assert_eq!(status, 200, "{told}");
    let ended = stand.agent.wait_status("once", "failed", SOON).await;
    assert_eq!(ended["exit_code"], 143, "{ended}");
    let (status, told) = stand.agent.ask("POST", path, None).await;
    assert_eq!((status, &told["code"]), (409, &json!("Conflict")), "{told}");

    let audited: Vec<Value> = lines(&stand)
        .into_iter()
        .filter(|line| line["kind"] == "kill")
        .collect();
    let signals: Vec<_> = audited.iter().map(|line| &line["signal"]).collect();
    assert_eq!(signals, ["SIGUSR1", "SIGKILL", "SIGTERM"], "{audited:#?}");
    let (_, events) = stand
        .agent
        .get("/events?follow=false&kind=change_asked")
        .await;
    assert!(events.to_string().contains("SIGUSR1"), "{events}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_processes_of_a_container_are_its_own_and_all_of_them() {
    let stand = Stand::new().await;
    let script = "sleep 1001 & sleep 1002 & echo ready; wait";
    for (name, more) in [
        ("web", json!({})),
        ("own", json!({"user": "1234:1234"})),
        ("shared", json!({"security": {"user_namespace": "host"}})),
    ] {
        let body = stand.script(name, script, &more);
        let (status, told) = stand.agent.deploy(&body).await;
        assert_eq!(status, 202, "{told}");
    }
    for (name, user) in [("web", 0), ("own", 1234), ("shared", 0)] {
        stand.printed(name, "ready").await;
        stand.agent.wait_status(name, "running", SOON).await;
        let (status, told) = stand.agent.get(&format!("/containers/{name}/top")).await;
        assert_eq!(status, 200, "{told}");
        let all = told["processes"].as_array().unwrap();
        assert_eq!(all.len(), 3, "{told:#}");
        assert_eq!(
            (&all[0]["pid"], &all[0]["parent_pid"]),
            (&json!(1), &json!(0))
        );
        for (one, seconds) in all[1..].iter().zip(["1001", "1002"]) {
            assert_eq!(one["parent_pid"], 1, "{one}");
            assert_eq!(one["command"], json!(["sleep", seconds]), "{one}");
            assert_eq!(one["user"], user, "{name}: {one}");
        }
        let (_, shown) = stand.agent.get(&format!("/containers/{name}")).await;
        let first = stand.pid(&shown).unwrap();
        assert_eq!(all[0]["host_pid"].to_string(), first, "{name}");
    }
    let shown = shows(&stand, "top web");
    assert!(shown.starts_with("USER "), "{shown}");
    assert!(shown.contains("sleep 1002"), "{shown}");
    assert_eq!(shows(&stand, "kill -s KILL web"), "web\n");
    let refused = order(&stand, "kill -s NONE web own");
    assert!(
        refused.code == 1 && refused.told.contains("is not a signal"),
        "{refused:?}"
    );
    let path = "/containers/shared/stop?wait=stopped";
    stand.agent.ask("POST", path, None).await;
    let (status, told) = stand.agent.get("/containers/shared/top").await;
    assert_eq!(status, 409, "{told}");
    let stopped = order(&stand, "top shared");
    assert!(
        stopped.code == 1 && stopped.told.contains("start it first"),
        "{stopped:?}"
    );
    stand.end().await;
}
