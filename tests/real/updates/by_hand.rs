//! The way back by hand, and the history by which a person finds it.

use std::time::Duration;

use serde_json::{Value, json};

use super::offline::counted;
use super::{Load, instances, updated, web};
use crate::harness::Testbed;
use crate::harness::chas::Chas;
use crate::harness::image::{Image, Packing};
use crate::harness::registry::Registry;
use crate::stand::{Stand, eventually, serves};

const ROLLBACK: &str = "/containers/web/rollback";

async fn back(stand: &Stand, query: &str) -> (u16, Value) {
    let path = format!("{ROLLBACK}?{query}");
    stand.agent.ask("POST", &path, None).await
}

async fn generations(stand: &Stand) -> Vec<Value> {
    let (status, told) = stand.agent.get("/containers/web/history").await;
    assert_eq!(status, 200, "{told}");
    told["generations"].as_array().unwrap().clone()
}

fn numbers(generations: &[Value]) -> Vec<u64> {
    let numbers = generations.iter().map(|of| of["generation"].as_u64());
    numbers.map(Option::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sees_what_changed_and_goes_back_without_a_registry() {
    let mut stand = Stand::new().await;
    let agent = &stand.agent;
    let first = agent.deploy_and_wait(&web(&stand, 1, &json!({}))).await;
    let stop_first = json!({"update": {"strategy": "stop-first"}, "resources": {"memory": "64m"}});
    let (second, fourth) = (web(&stand, 2, &stop_first), web(&stand, 4, &json!({})));
    let (_, told) = agent.deploy(&second).await;
    assert_eq!(told["generation"], 2);
    updated(&stand, 2).await;
    let told = generations(&stand).await;
    assert_eq!(numbers(&told), [2, 1]);
    assert_eq!(told[0]["by"], "token", "{told:?}");
    let changes = told[0]["changes"].as_array().unwrap();
    assert!(changes.contains(&json!({"field": "environment.VERSION", "hidden": "changed"})));
    assert!(
        changes.contains(&json!({"field": "resources.memory", "before": null, "after": "64m"}))
    );
    assert_eq!(told[1]["outcome"]["result"], "ran", "{told:?}");
    assert_eq!(told[1]["image_digest"], first["image_digest"]);
    // Another registry, at another address: the one of the images is gone.
    stand.registry = Registry::open(&stand.bed);
    let (status, shown) = back(&stand, "wait=running&timeout=40s").await;
    assert_eq!(status, 200, "{shown}");
    assert_eq!(
        (&shown["generation"], &shown["status"]),
        (&json!(3), &json!("running"))
    );
    assert_eq!(shown["spec"]["resources"]["memory"], Value::Null);
    assert_eq!(shown["image_digest"], first["image_digest"]);
    assert_eq!(shown["rolled_back"]["generation"], 2);
    assert_eq!(shown["rolled_back"]["back_to"], 1);
    let message = shown["rolled_back"]["message"].as_str().unwrap();
    assert_eq!(message, "by hand, by token");
    updated(&stand, 3).await;
    assert!(serves(&shown).await);
    let (status, told) = back(&stand, "").await;
    assert_eq!(status, 409, "there is no better one: {told}");
    let (status, told) = back(&stand, "generation=1").await;
    assert_eq!(
        (status, &told["generation"]),
        (200, &json!(3)),
        "it is so: {told}"
    );
    let (status, told) = back(&stand, "generation=9").await;
    assert_eq!(status, 404, "{told}");
    let (status, told) = stand.agent.deploy(&second).await;
    assert_eq!(status, 409, "{told}");
    let (before, pid) = (generations(&stand).await, stand.pid(&shown));
    stand.agent.kill_9();
    stand.agent.start_again().await;
    eventually("it is known again", async || {
        stand.agent.get("/containers/web").await.1["status"] == "running"
    })
    .await;
    assert_eq!(generations(&stand).await, before);
    assert_eq!(stand.pid(&shown), pid, "it goes on");
    assert_eq!(before[0]["back_to"], 1);
    assert_eq!(before[1]["outcome"]["result"], "rolled-back");
    let audit = std::fs::read_dir(stand.bed.dir.join("state/audit")).unwrap();
    let lines: String = audit
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap_or_default())
        .collect();
    assert_eq!(lines.matches(r#""kind":"rollback""#).count(), 1, "{lines}");
    let (status, told) = stand.agent.deploy(&fourth).await;
    assert_eq!(status, 202, "{told}");
    updated(&stand, 4).await;
    let (_, shown) = stand.agent.get("/containers/web").await;
    assert_eq!(shown["rolled_back"], Value::Null, "{shown}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_is_given_up_by_hand_and_what_serves_is_never_stopped() {
    let stand = Stand::new().await;
    let first = stand
        .agent
        .deploy_and_wait(&web(&stand, 1, &json!({})))
        .await;
    let pid = stand.pid(&first);
    let load = Load::start(first["ports"][0]["host"].as_u64().unwrap()).await;
    let never = json!({"health": {"http": {"path": "/none", "port": 80}, "interval": "1s"}});
    let (status, told) = stand.agent.deploy(&web(&stand, 2, &never)).await;
    assert_eq!(status, 202, "{told}");
    eventually("both run", async || instances(&stand) == 2).await;
    let (status, shown) = back(&stand, "wait=running&timeout=40s").await;
    assert_eq!(status, 200, "{shown}");
    assert_eq!(shown["generation"], 3, "{shown}");
    eventually("the trial is gone", async || instances(&stand) == 1).await;
    assert_eq!(stand.pid(&first), pid, "it was never stopped");
    assert_eq!(counted(&stand, "hand").await, 1);
    load.end();
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_on_the_way_back_goes_on_with_it() {
    let mut stand = Stand::new().await;
    let stop_first = json!({"update": {"strategy": "stop-first"}});
    let body = |stand: &Stand, version| web(stand, version, &stop_first);
    stand.agent.deploy_and_wait(&body(&stand, 1)).await;
    for (round, after) in [0, 40, 120, 400].into_iter().enumerate() {
        let (_, told) = stand.agent.deploy(&body(&stand, 10 + round as u64)).await;
        let bad = told["generation"].as_u64().unwrap();
        updated(&stand, bad).await;
        let (status, told) = back(&stand, "generation=1").await;
        assert_eq!(status, 202, "{told}");
        tokio::time::sleep(Duration::from_millis(after)).await;
        stand.agent.kill_9();
        stand.agent.start_again().await;
        let shown = updated(&stand, bad + 1).await;
        assert_eq!(instances(&stand), 1, "after {after} ms");
        assert_eq!(shown["rolled_back"]["back_to"], 1, "{shown}");
        assert!(serves(&shown).await, "after {after} ms");
    }
    let told = generations(&stand).await;
    assert_eq!(numbers(&told), (1..=9).rev().collect::<Vec<_>>());
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_whose_image_is_gone_is_refused_and_what_runs_goes_on() {
    let mut stand = Stand::new().await;
    for version in [2, 3] {
        let content = format!("hello {version}");
        Image::web()
            .layer(Packing::Gzip, &[("/version", content.as_bytes())])
            .push(&stand.registry, &format!("web:{version}"))
            .await;
    }
    for version in 1..=3 {
        let more = json!({"image": stand.image(&format!("web:{version}")), "update": {"strategy": "stop-first"}});
        stand.agent.deploy(&web(&stand, version, &more)).await;
        updated(&stand, version).await;
    }
    stand.registry = Registry::open(&stand.bed);
    let gone = async || !stand.bed.ctr(&["images", "ls", "-q"]).contains("web:2");
    // A start of the agent sweeps.
    stand.agent.kill_9();
    stand.agent.start_again().await;
    eventually("its image is swept", gone).await;
    let (status, told) = back(&stand, "generation=2").await;
    assert_eq!(status, 409, "{told}");
    let detail = told["detail"].as_str().unwrap();
    assert!(detail.contains("not on the node any more"), "{detail}");
    let (_, shown) = stand.agent.get("/containers/web").await;
    assert_eq!(
        (&shown["generation"], &shown["status"]),
        (&json!(3), &json!("running"))
    );
    let (status, shown) = back(&stand, "generation=1&wait=running&timeout=40s").await;
    assert_eq!(status, 200, "the first one's is kept: {shown}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_chas_goes_back_and_the_same_set_does_not_bring_the_bad_one_back() {
    let bed = Testbed::new();
    let chas = Chas::start(&bed.namespace);
    let url = chas.url();
    let stand = Stand::with(bed, &[("CHAS_API_URL", &url)]).await;
    let body = |version: u64, revision: u64| {
        let more = json!({"revision": revision, "update": {"strategy": "stop-first"}});
        web(&stand, version, &more)
    };
    let list = async |bodies: &[Value]| {
        let generation = chas.list(bodies);
        let is = |report: &Value| report["applied_generation"] == generation;
        chas.report("it is applied", is).await
    };
    list(&[body(1, 1)]).await;
    updated(&stand, 1).await;
    list(&[body(2, 2)]).await;
    updated(&stand, 2).await;
    let (status, shown) = back(&stand, "wait=running&timeout=40s").await;
    assert_eq!(status, 200, "{shown}");
    assert_eq!(
        (&shown["owner"], &shown["revision"]),
        (&json!("chas"), &json!(1))
    );
    let is_told = |report: &Value| report["containers"][0]["rolled_back"]["revision"] == 2;
    chas.report("it is told", is_told).await;
    let report = list(&[body(2, 2)]).await;
    let rejected = report["rejected"].to_string();
    assert!(rejected.contains("was given up"), "{rejected}");
    let (_, shown) = stand.agent.get("/containers/web").await;
    assert_eq!(
        (&shown["generation"], &shown["status"]),
        (&json!(3), &json!("running"))
    );
    list(&[body(2, 3)]).await;
    let shown = updated(&stand, 4).await;
    assert_eq!(
        (&shown["revision"], &shown["rolled_back"]),
        (&json!(3), &Value::Null)
    );
    let told = generations(&stand).await;
    let by: Vec<_> = told.iter().map(|of| of["by"].as_str().unwrap()).collect();
    assert_eq!(by, ["chas", "token", "chas", "chas"]);
    list(&[]).await;
    stand.end().await;
}
