//! Cordon and drain of a real node: in order, over a restart of the agent, and back.

use serde_json::{Value, json};

use crate::audit::lines;
use crate::client::{order, shows};
use crate::stand::{SOON, Stand, eventually};

const LOOP: &str = "while :; do sleep 1; done";

async fn post(stand: &Stand, path: &str) -> Value {
    let (status, told) = stand.agent.ask("POST", path, None).await;
    assert_eq!(status, 200, "{path}: {told}");
    told
}

async fn reason(stand: &Stand, name: &str) -> Value {
    let (_, shown) = stand.agent.get(&format!("/containers/{name}")).await;
    shown["reason"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_cordon_keeps_what_is_new_over_a_restart_and_is_told() {
    let mut stand = Stand::new().await;
    let here = stand.script("here", LOOP, &json!({}));
    stand.agent.deploy_and_wait(&here).await;
    let told = post(&stand, "/node/cordon").await;
    assert_eq!(told["operator"]["by"], "token", "{told}");
    assert_eq!(
        post(&stand, "/node/cordon").await["operator"],
        told["operator"]
    );
    let body = stand.script("new", LOOP, &json!({}));
    let path = "/containers/deploy?wait=running";
    let (status, refused) = stand.agent.ask("POST", path, Some(&body)).await;
    assert_eq!(
        (status, &refused["code"]),
        (422, &json!("NodeCordoned")),
        "{refused}"
    );
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("by an operator"), "{detail}");
    stand.agent.terminate();
    stand.agent.start_again().await;
    stand.agent.wait_status("here", "running", SOON).await;
    assert_eq!(reason(&stand, "new").await, "NodeCordoned");
    let (_, health) = stand.agent.get("/health").await;
    assert_eq!(health["cordon"]["operator"], told["operator"], "{health}");
    assert!(shows(&stand, "status").contains("cordoned by token"));
    assert!(shows(&stand, "uncordon").contains("not cordoned"));
    stand.agent.wait_status("new", "running", SOON).await;
    let audited = lines(&stand);
    let kinds: Vec<_> = audited
        .iter()
        .map(|line| line["kind"].as_str().unwrap())
        .collect();
    assert!(
        kinds.ends_with(&["operator-cordon", "deploy", "operator-uncordon"]),
        "{kinds:?}"
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_stops_all_in_order_keeps_it_down_and_ends_as_it_began() {
    let mut stand = Stand::new().await;
    // Each takes a moment to stop, so that an order shows.
    let slow = "trap 'sleep 1; exit 0' TERM; while :; do sleep 0.1; done";
    let after = |name: &str| json!({"after": [{"name": name}], "stop": {"timeout": "10s"}});
    let low = json!({"priority": 10, "stop": {"timeout": "10s"}});
    for (name, more) in [
        ("db", json!({"stop": {"timeout": "10s"}})),
        ("api", after("db")),
        ("web", after("api")),
        ("low", low),
    ] {
        let body = stand.script(name, slow, &more);
        stand.agent.deploy_and_wait(&body).await;
    }
    let stopped = stand.script("rests", slow, &json!({"state": "stopped"}));
    stand.agent.deploy(&stopped).await;
    let told = post(&stand, "/node/drain?wait=drained&timeout=60s").await;
    assert_eq!(
        (&told["drained"], &told["left"]),
        (&json!(true), &json!([]))
    );
    let mut ends = Vec::new();
    for name in ["low", "web", "api", "db"] {
        let shown = stand.agent.wait_status(name, "stopped", SOON).await;
        assert_eq!(shown["reason"], "NodeDrained", "{shown}");
        assert_ne!(shown["spec"]["state"], "stopped", "as it was asked");
        ends.push(shown["finished"].as_str().unwrap().to_owned());
    }
    assert!(ends.is_sorted(), "low, web, api, db: {ends:?}");
    assert!(!stand.bed.ctr(&["tasks", "ls"]).contains("RUNNING"));

    // Nothing brings it back but the end of the drain.
    let (_, told) = stand.agent.ask("POST", "/containers/db/start", None).await;
    assert_eq!(told["status"], "stopped", "{told}");
    stand.agent.kill_9();
    stand.agent.start_again().await;
    eventually("the agent knows them", async || {
        reason(&stand, "web").await == "NodeDrained"
    })
    .await;
    eventually("it knows again that nothing runs", async || {
        let (_, health) = stand.agent.get("/health").await;
        health["cordon"]["drained"] == true
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert!(!stand.bed.ctr(&["tasks", "ls"]).contains("RUNNING"));

    let refused = order(&stand, "drain");
    assert!(
        refused.code == 1 && refused.told.contains("--yes"),
        "{refused:?}"
    );
    assert!(shows(&stand, "drain --yes").starts_with("drained, by token"));
    let cordon = order(&stand, "cordon");
    assert!(
        cordon.code == 0 && cordon.told.contains("uncordon it first"),
        "{cordon:?}"
    );
    post(&stand, "/node/uncordon").await;
    let mut starts = Vec::new();
    for name in ["db", "api", "web", "low"] {
        let shown = stand.agent.wait_status(name, "running", SOON).await;
        assert_eq!(shown["restart_count"], 0, "{shown}");
        starts.push(shown["started"].as_str().unwrap().to_owned());
    }
    assert!(starts[..3].is_sorted(), "db, api, web: {starts:?}");
    stand.agent.wait_status("rests", "stopped", SOON).await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_is_not_over_in_time_says_what_is_left_and_goes_on() {
    let stand = Stand::new().await;
    let deaf = "trap '' TERM; while :; do sleep 1; done";
    let body = json!({"name": "deaf", "image": stand.image("box:1"),
        "command": ["sh", "-c", deaf], "stop": {"timeout": "6s"}});
    stand.agent.deploy_and_wait(&body).await;
    let path = "/node/drain?wait=drained&timeout=1s";
    let (status, told) = stand.agent.ask("POST", path, None).await;
    assert_eq!(status, 504, "{told}");
    let detail = told["detail"].as_str().unwrap();
    assert!(detail.contains("deaf (is being stopped)"), "{detail}");
    let told = shows(&stand, "drain --yes");
    assert!(told.starts_with("drained"), "{told}");
    // Whoever drained may end it while it is under way, too.
    post(&stand, "/node/uncordon").await;
    stand.agent.wait_status("deaf", "running", SOON).await;
    stand.end().await;
}
