//! Containers that wait for others at their first start: for whom they say they wait, when they go, and what no longer
//! concerns them.

use std::time::Duration;

use serde_json::{Value, json};
use state::reason::Reason;
use tokio::time::Instant;

use crate::harness::Testbed;
use crate::harness::run;
use crate::reasons::shows;
use crate::stand::{SOON, Stand, eventually};

const LOOP: &str = "while :; do sleep 1; done";

/// A body that waits for these.
fn body(stand: &Stand, name: &str, after: &Value) -> Value {
    stand.script(name, LOOP, &json!({"after": after}))
}

async fn accepted(stand: &Stand, body: &Value) {
    let (status, answer) = stand.agent.deploy(body).await;
    assert!(matches!(status, 200 | 202), "{status} {answer:#}");
}

async fn status(stand: &Stand, name: &str) -> String {
    let (_, shown) = stand.agent.get(&format!("/containers/{name}")).await;
    shown["status"].as_str().unwrap_or_default().to_owned()
}

/// Waits until a container says that it waits, and for this.
async fn waits(stand: &Stand, name: &str, part: &str) {
    eventually(part, async || {
        let (_, shown) = stand.agent.get(&format!("/containers/{name}")).await;
        let message = shown["message"].as_str().unwrap_or_default();
        shown["reason"] == "WaitsFor" && message.contains(part)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_waits_for_another_through_all_its_states_and_afterwards_for_nobody() {
    let mut stand = Stand::on(Testbed::with_private_containerd()).await;
    let db = json!([{"name": "db", "condition": "ready"}]);
    for name in ["web", "second"] {
        accepted(&stand, &body(&stand, name, &db)).await;
    }
    accepted(&stand, &body(&stand, "last", &json!([{"name": "web"}]))).await;
    let shown = shows(
        &stand.agent,
        "web",
        Reason::WaitsFor,
        "is no container of this node",
    )
    .await;
    assert_eq!(shown["status"], "pending", "{shown:#}");
    waits(
        &stand,
        "last",
        "web to be started, which waits itself, for db",
    )
    .await;
    let (_, explained) = stand.agent.get("/containers/web/explain").await;
    assert_eq!(
        explained["decision"]["step"]["action"], "wait",
        "{explained:#}"
    );
    let (_, plan) = stand.agent.get("/plan").await;
    assert!(
        plan.to_string().contains("waits for db to be ready"),
        "{plan:#}"
    );
    // The other one, in a state that is none to wait for: by its image, by order, by its end.
    let absent = json!({"name": "db", "image": stand.image("absent:1")});
    accepted(&stand, &absent).await;
    waits(&stand, "web", "is failed (ImageNotFound").await;
    accepted(
        &stand,
        &stand.script("db", LOOP, &json!({"state": "stopped"})),
    )
    .await;
    waits(&stand, "web", "is stopped (StopRequested").await;
    stand.agent.delete_and_wait("db").await;
    waits(&stand, "web", "is no container").await;
    // An agent that dies meanwhile forgets nothing of it.
    stand.agent.kill_9();
    stand.agent.start_again().await;
    shows(&stand.agent, "web", Reason::WaitsFor, "is no container").await;
    let began = Instant::now();
    let shown = stand
        .agent
        .deploy_and_wait(&stand.script("db", LOOP, &json!({})))
        .await;
    for name in ["web", "second", "last"] {
        stand.agent.wait_status(name, "running", SOON).await;
    }
    println!(
        "three that waited run {:?} after the deploy of the one they waited for",
        began.elapsed()
    );
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "nobody looked for it at the next resync"
    );
    // From now on it is nothing to them: neither its end, nor their own.
    stand.agent.delete_and_wait("db").await;
    let (_, web) = stand.agent.get("/containers/web").await;
    let pid = stand.pid(&web).unwrap();
    run("kill", ["-KILL", &pid]).unwrap();
    eventually("it is started again without db", async || {
        let (_, web) = stand.agent.get("/containers/web").await;
        web["status"] == "running" && web["restart_count"] == 1
    })
    .await;
    for call in ["stop", "start"] {
        stand
            .agent
            .ask("POST", &format!("/containers/web/{call}"), None)
            .await;
    }
    stand.agent.wait_status("web", "running", SOON).await;
    // A live change of what is waited for concerns nobody who runs; another generation waits, and the one before it
    // runs on.
    let (_, before) = stand.agent.get("/containers/web").await;
    accepted(&stand, &body(&stand, "web", &json!([{"name": "cache"}]))).await;
    let (_, after) = stand.agent.get("/containers/web").await;
    assert_eq!(stand.pid(&after), stand.pid(&before), "{after:#}");
    let mut next = body(&stand, "web", &json!([{"name": "cache"}]));
    next["environment"] = json!({"A": "1"});
    accepted(&stand, &next).await;
    shows(&stand.agent, "web", Reason::WaitsFor, "cache to be started").await;
    assert_eq!(
        stand.pid(&after),
        stand.pid(&before),
        "the one before runs on"
    );
    accepted(&stand, &stand.script("cache", LOOP, &json!({}))).await;
    eventually("it is replaced", async || {
        let (_, web) = stand.agent.get("/containers/web").await;
        web["status"] == "running" && web["applied_generation"] == web["generation"]
    })
    .await;
    assert!(shown["id"].is_string());
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_waited_for_until_they_complete_and_nobody_for_longer_than_asked() {
    let stand = Stand::new().await;
    let after = json!([{"name": "migrate", "condition": "completed"}]);
    accepted(&stand, &body(&stand, "web", &after)).await;
    let hasty = json!([{"name": "migrate", "condition": "completed", "timeout": "3s"}]);
    let began = Instant::now();
    accepted(&stand, &body(&stand, "hasty", &hasty)).await;
    let job = |script: &str| {
        let more = json!({"command": ["sh", "-c", script], "restart": {"policy": "never"}});
        stand.script("migrate", "", &more)
    };
    accepted(&stand, &job("exit 3")).await;
    waits(
        &stand,
        "web",
        "migrate to be completed, which is failed (Exited: ended with exit code 3",
    )
    .await;
    assert_eq!(status(&stand, "hasty").await, "pending");
    let (_, shown) = stand.agent.get("/containers/hasty").await;
    assert!(shown["next_attempt"].is_string(), "{shown:#}");
    stand.agent.wait_status("hasty", "running", SOON).await;
    assert!(began.elapsed() > Duration::from_secs(3));
    assert!(
        stand
            .agent
            .log()
            .contains("started without others after its wait")
    );
    assert_eq!(status(&stand, "web").await, "pending");
    accepted(&stand, &job("sleep 1; exit 0")).await;
    stand.agent.wait_status("web", "running", SOON).await;
    let (_, migrate) = stand.agent.get("/containers/migrate").await;
    assert_eq!(
        (&migrate["status"], &migrate["reason"]),
        (&json!("stopped"), &json!("Completed"))
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circles_are_refused_with_their_names() {
    let stand = Stand::new().await;
    let (refused, answer) = stand
        .agent
        .deploy(&body(&stand, "a", &json!([{"name": "a"}])))
        .await;
    assert_eq!(refused, 422, "{answer:#}");
    let faults = json!([
        {"name": "B", "condition": "healthy"}, {"name": "c"}, {"name": "c"}, {"name": "d", "timeout": "30d"}, {},
    ]);
    let (refused, answer) = stand.agent.deploy(&body(&stand, "a", &faults)).await;
    let fields: Vec<_> = answer["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["field"].clone())
        .collect();
    assert_eq!(refused, 422);
    assert_eq!(
        fields,
        [
            "after[0].name",
            "after[0].condition",
            "after[2].name",
            "after[3].timeout",
            "after[4].name"
        ],
        "{answer:#}"
    );
    accepted(&stand, &body(&stand, "a", &json!([{"name": "b"}]))).await;
    accepted(&stand, &body(&stand, "b", &json!([{"name": "c"}]))).await;
    let (refused, answer) = stand
        .agent
        .deploy(&body(&stand, "c", &json!([{"name": "x"}, {"name": "a"}])))
        .await;
    assert_eq!(refused, 409, "{answer:#}");
    assert!(
        answer["detail"]
            .as_str()
            .unwrap()
            .contains("(c -> a -> b -> c)"),
        "{answer:#}"
    );
    // All of a set at once: with it, the ways are others.
    let set = |edges: &[(&str, &str)]| {
        let bodies: Vec<_> = edges
            .iter()
            .map(|(name, other)| body(&stand, name, &json!([{"name": other}])))
            .collect();
        json!({"containers": bodies})
    };
    let put = async |set: Value| stand.agent.ask("PUT", "/desired-state", Some(&set)).await;
    let (refused, answer) = put(set(&[
        ("c", "a"),
        ("a", "b"),
        ("b", "c"),
        ("e", "d"),
        ("d", "e"),
    ]))
    .await;
    assert_eq!(refused, 409, "{answer:#}");
    let told = answer["detail"].as_str().unwrap();
    assert!(
        told.contains("c -> a -> b -> c") && told.contains("d -> e -> d"),
        "{told}"
    );
    let (status, answer) = put(set(&[("b", "a"), ("a", "x")])).await;
    assert!(matches!(status, 200 | 202), "{answer:#}");
    accepted(&stand, &stand.script("x", LOOP, &json!({}))).await;
    for name in ["x", "a", "b"] {
        stand.agent.wait_status(name, "running", SOON).await;
    }
    stand.end().await;
}
