//! Processes that the kernel kills for want of memory: told each time, and blamed for what they ended and nothing else.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::run;
use crate::stand::{SOON, Stand, eventually};

/// Kept whole by `tail`, so that the kernel kills it.
const HOG: &str = "tail /dev/zero";

fn limited(policy: &Value) -> Value {
    json!({"resources": {"memory": "16m"}, "restart": policy})
}

async fn inputs(stand: &Stand, name: &str) -> Value {
    let (_, shown) = stand
        .agent
        .get(&format!("/containers/{name}/explain"))
        .await;
    shown["decision"]["inputs"].clone()
}

/// What the agent has counted of kills for memory.
async fn counted(stand: &Stand) -> u64 {
    let (_, metrics) = stand.agent.get("/metrics").await;
    let text = metrics.as_str().unwrap();
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("chas_memory_kills_total "));
    line.expect("it is counted").parse().unwrap()
}

/// What a scrape tells of a container's kills for memory.
async fn counted_of(stand: &Stand, name: &str) -> String {
    let (_, metrics) = stand.agent.get("/metrics").await;
    let series = format!("chas_container_memory_kills_total{{container=\"{name}\"}} ");
    let mut lines = metrics.as_str().unwrap().lines();
    let line = lines.find_map(|line| line.strip_prefix(&series));
    line.expect("it is told").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn used_up_restarts_do_not_hide_that_memory_ended_the_container() {
    let stand = Stand::new().await;
    let policy = json!({"policy": "on-failure", "max_retries": 1});
    let body = stand.script("hog", &format!("exec {HOG}"), &limited(&policy));
    stand.agent.deploy(&body).await;
    let shown = stand.agent.wait_status("hog", "failed", SOON).await;
    assert_eq!(shown["reason"], "RetriesExhausted", "{shown}");
    let (_, explained) = stand.agent.get("/containers/hog/explain").await;
    for field in ["message", "unblock"] {
        let text = explained[field].as_str().unwrap();
        assert!(text.contains("memory"), "{field}: {text}");
    }
    let inputs = &explained["decision"]["inputs"];
    assert_eq!(inputs["last_exit"]["reason"], "OutOfMemory", "{inputs}");
    assert_eq!(inputs["memory_kills"]["total"], 2, "{inputs}");
    assert_eq!(counted(&stand).await, 2);
    // Its group is gone with its process, and the alert goes by this number.
    assert_eq!(counted_of(&stand, "hog").await, "2.0");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_killed_for_memory_is_told_and_a_later_kill_from_outside_is_not_blamed_on_it() {
    let mut stand = Stand::new().await;
    let script = format!("{HOG}; {HOG}; echo children gone; sleep 1000 & wait");
    let body = stand.script("parent", &script, &limited(&json!({"policy": "never"})));
    let shown = stand.agent.deploy_and_wait(&body).await;
    stand.printed("parent", "children gone").await;
    eventually("both are told", async || {
        inputs(&stand, "parent").await["memory_kills"]["total"] == 2
    })
    .await;
    assert_eq!(counted(&stand).await, 2);
    assert!(stand.agent.log().contains("process killed for memory"));
    let (_, now) = stand.agent.get("/containers/parent").await;
    assert_eq!(
        (&now["status"], &now["restart_count"]),
        (&json!("running"), &json!(0))
    );

    // Another agent knows what was told already.
    stand.agent.terminate();
    stand.agent.start_again().await;
    stand.agent.wait_status("parent", "running", SOON).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(counted(&stand).await, 0);
    assert_eq!(counted_of(&stand, "parent").await, "2.0");
    run("kill", ["-KILL", &stand.pid(&shown).unwrap()]).unwrap();
    let ended = stand.agent.wait_status("parent", "failed", SOON).await;
    assert_eq!(
        (&ended["reason"], &ended["exit_code"]),
        (&json!("Signaled"), &json!(137)),
        "{ended}"
    );
    let inputs = inputs(&stand, "parent").await;
    assert_eq!(inputs["memory_kills"]["total"], 2, "{inputs}");
    stand.end().await;
}
