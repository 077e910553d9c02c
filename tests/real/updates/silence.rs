//! CHaS goes silent in the middle of an update: both generations rest, and with its next answer the update goes on to
//! its one end.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{instances, request};
use crate::harness::Testbed;
use crate::harness::chas::Chas;
use crate::reasons::shows;
use crate::stand::{Stand, eventually, serves};
use state::reason::Reason;

const NAMES: [&str; 3] = ["tried", "failed", "switched"];
/// Longer than the shortest silence that stops anything.
const MIN_READY: Duration = Duration::from_secs(13);

fn body(stand: &Stand, name: &str, version: u64, more: &Value) -> Value {
    let mut all = json!({"environment": {"VERSION": version.to_string()}, "on_disconnect": {"stop_after": "10s"},
        "stop": {"signal": "SIGKILL", "timeout": "3m"},
        "update": {"strategy": "start-first", "min_ready": "0s", "retries": 1}});
    all.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    stand.web(name, &all)
}

async fn shown(stand: &Stand, name: &str) -> Value {
    stand.agent.get(&format!("/containers/{name}")).await.1
}

/// Waits until the update has this stage, or none, while this generation serves.
async fn stage(stand: &Stand, name: &str, stage: Value, serving: u64) {
    eventually(&format!("{name} is {stage}"), async || {
        let shown = shown(stand, name).await;
        shown["update"]["stage"] == stage && shown["applied_generation"] == serving
    })
    .await;
}

/// The generations of a container that run.
fn running(stand: &Stand, shown: &Value) -> Vec<String> {
    let tasks = stand.bed.ctr(&["tasks", "ls"]);
    let prefix = format!("{}-", shown["id"].as_str().unwrap());
    let mut running: Vec<_> = tasks
        .lines()
        .filter(|line| line.contains("RUNNING"))
        .filter_map(|line| line.split_whitespace().next()?.strip_prefix(&prefix))
        .map(str::to_owned)
        .collect();
    running.sort_unstable();
    running
}

/// The times that the new generation of `failed` has ended: its task runs for a moment before.
fn failures(stand: &Stand) -> usize {
    stand
        .agent
        .log()
        .matches("container exited container=failed exit_code=3")
        .count()
}

/// An update of each kind: one that is tried, one whose trial has failed for good, and one that counts while a
/// connection holds the generation before. Answers the first ones as they were, and the connection.
async fn begin(stand: &Stand, chas: &Chas) -> ([Value; 3], TcpStream) {
    for name in NAMES {
        let (status, told) = stand.agent.deploy(&body(stand, name, 1, &json!({}))).await;
        assert_eq!(status, 202, "{told}");
    }
    let mut first = [Value::Null, Value::Null, Value::Null];
    for (name, first) in NAMES.iter().zip(&mut first) {
        *first = stand
            .agent
            .deploy_and_wait(&body(stand, name, 1, &json!({})))
            .await;
        eventually(name, async || serves(first).await).await;
    }
    let port = first[2]["ports"][0]["host"].as_u64().unwrap();
    let held = TcpStream::connect(format!("127.0.0.1:{port}"))
        .await
        .unwrap();
    chas.report("it is reached", |report| report["status"] == "healthy")
        .await;
    chas.set_away(true);
    let min_ready = format!("{}s", MIN_READY.as_secs());
    let slow = json!({"update": {"strategy": "start-first", "min_ready": min_ready}});
    let ends = json!({"command": ["sh", "-c", "exit 3"], "restart": {"policy": "never"}});
    for (name, more) in NAMES.iter().zip([slow, ends, json!({})]) {
        let (status, told) = stand.agent.deploy(&body(stand, name, 2, &more)).await;
        assert_eq!(status, 202, "{told}");
    }
    stage(stand, "tried", json!("trying"), 1).await;
    stage(stand, "switched", json!("switched"), 2).await;
    eventually("one has failed", async || {
        let shown = shown(stand, "failed").await;
        shown["status"] == "running" && shown["reason"].is_string() && failures(stand) == 1
    })
    .await;
    // The stage is there with the deploy: the next generation starts after it.
    eventually("both generations run", async || {
        let running = first
            .each_ref()
            .map(|first| running(stand, first).join(" "));
        running == ["1 2", "1", "1 2"]
    })
    .await;
    (first, held)
}

/// Waits until all of it rests: nothing runs, nothing is removed, and each update is where it was.
async fn rest(stand: &Stand, first: &[Value; 3]) {
    for (name, first) in NAMES.iter().zip(first) {
        shows(&stand.agent, name, Reason::Disconnected, "stop_after (10s)").await;
        eventually(&format!("{name} is stopped"), async || {
            shown(stand, name).await["status"] == "stopped" && running(stand, first).is_empty()
        })
        .await;
        let port = first["ports"][0]["host"].as_u64().unwrap();
        assert!(request(port).await.is_err(), "{name} still serves");
    }
    assert_eq!(instances(stand), 6);
    for (name, stage) in NAMES.iter().zip(["trying", "trying", "switched"]) {
        assert_eq!(shown(stand, name).await["update"]["stage"], stage, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_rests_while_chas_is_silent_and_goes_on_to_its_one_end_once_it_answers() {
    let bed = Testbed::new();
    let chas = Chas::start(&bed.namespace);
    let mut stand = Stand::with(bed, &[("CHAS_API_URL", &chas.url())]).await;
    let (first, held) = begin(&stand, &chas).await;
    rest(&stand, &first).await;
    drop(held);
    // The death of the agent changes nothing of that.
    stand.agent.kill_9();
    stand.agent.start_again().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    rest(&stand, &first).await;

    assert_eq!(failures(&stand), 1);
    chas.set_away(false);
    for (name, first) in NAMES.iter().zip(&first) {
        eventually(&format!("{name} serves again"), async || {
            serves(first).await
        })
        .await;
    }
    let began = Instant::now();
    // It served last, serves again, and its trial begins anew, also one that failed.
    stage(&stand, "tried", json!("trying"), 1).await;
    stage(&stand, "failed", json!("trying"), 1).await;
    eventually("one fails again", async || {
        let shown = shown(&stand, "failed").await;
        shown["status"] == "running" && shown["reason"] == "Exited" && failures(&stand) == 2
    })
    .await;
    assert_eq!(running(&stand, &first[1]), ["1"]);
    // What counted serves, and the one before is not started any more.
    stage(&stand, "switched", Value::Null, 2).await;
    stage(&stand, "tried", Value::Null, 2).await;
    let took = began.elapsed();
    println!("the trial took {took:?} after the answer");
    assert!(took > MIN_READY - Duration::from_secs(4), "{took:?}");
    for index in [0, 2] {
        assert_eq!(running(&stand, &first[index]), ["2"]);
        assert!(serves(&first[index]).await);
    }
    let (status, told) = stand
        .agent
        .deploy(&body(&stand, "failed", 3, &json!({})))
        .await;
    assert_eq!(status, 202, "{told}");
    stage(&stand, "failed", Value::Null, 3).await;
    assert_eq!(instances(&stand), 3);
    assert!(!stand.agent.log().contains("give_back"));
    stand.end().await;
}
