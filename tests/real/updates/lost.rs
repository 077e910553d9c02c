//! Losses in the middle of an update: of the store, and of the image of what serves.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::{instances, updated, web};
use crate::harness::image::{Image, Packing};
use crate::harness::run;
use crate::stand::{Stand, eventually, serves};

/// An update of a web server whose next generation does not count for minutes. Answers the container as it was before.
async fn trying(stand: &Stand, more: &Value) -> Value {
    let shown = stand
        .agent
        .deploy_and_wait(&web(stand, 1, &json!({})))
        .await;
    let mut update = json!({"update": {"strategy": "start-first", "min_ready": "4m"}});
    let all = update.as_object_mut().unwrap();
    all.extend(more.as_object().unwrap().clone());
    let (status, told) = stand.agent.deploy(&web(stand, 2, &update)).await;
    assert_eq!(status, 202, "{told}");
    shown
}

async fn shown(stand: &Stand) -> Value {
    stand.agent.get("/containers/web").await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_lost_while_the_next_generation_is_tried_ends_none_that_serves() {
    let mut stand = Stand::new().await;
    let before = trying(&stand, &json!({})).await;
    let tasks = |stand: &Stand| {
        let listed = stand.bed.ctr(&["tasks", "ls"]);
        let running = listed.lines().filter(|line| line.contains("RUNNING"));
        running.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    eventually("both run", async || tasks(&stand).len() == 2).await;
    let both = tasks(&stand);
    stand.agent.kill_9();
    let state = stand.bed.dir.join("state");
    for gone in ["state", "desired.json.a", "desired.json.b", "last-change"] {
        run("rm", ["-rf", state.join(gone).to_str().unwrap()]).unwrap();
    }
    stand.agent.start_again().await;
    eventually("it is known", async || {
        shown(&stand).await["update"]["stage"] == json!("trying")
    })
    .await;
    for _ in 0..20 {
        assert!(serves(&before).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let now = shown(&stand).await;
    assert_eq!((&now["generation"], &now["ip"]), (&json!(2), &before["ip"]));
    assert_eq!(now["applied_generation"], 1, "{now}");
    assert_eq!(tasks(&stand), both);
    let (_, told) = stand.agent.deploy(&web(&stand, 3, &json!({}))).await;
    updated(&stand, told["generation"].as_u64().unwrap()).await;
    assert!(serves(&before).await && instances(&stand) == 1);
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_serves_comes_back_with_its_own_image_although_that_was_lost_and_its_tag_has_moved() {
    let mut stand = Stand::new().await;
    let missing = json!({"image": stand.image("none:1")});
    let before = trying(&stand, &missing).await;
    let instance = format!("{}-1", before["id"].as_str().unwrap());
    Image::web()
        .layer(Packing::Gzip, &[("/www/index.html", b"newer\n")])
        .push(&stand.registry, "web:1")
        .await;
    stand.agent.kill_9();
    for lost in [
        ["tasks", "kill", "--signal", "9", &instance].as_slice(),
        &["tasks", "rm", "--force", &instance],
        &["containers", "rm", &instance],
        &["snapshots", "rm", &instance],
    ] {
        let _gone_with_another = stand.bed.try_ctr(lost);
    }
    let listed = stand.bed.ctr(&["images", "ls", "-q"]);
    let images = listed.lines().filter(|image| image.contains("/web"));
    let removal = ["images", "rm", "--sync"].into_iter().chain(images);
    stand.bed.ctr(&removal.collect::<Vec<_>>());
    assert!(!serves(&before).await && instances(&stand) == 0);
    stand.agent.start_again().await;
    eventually("it serves again", async || serves(&before).await).await;
    let now = shown(&stand).await;
    assert_eq!(now["status"], "running", "{now}");
    assert_eq!(
        (&now["ip"], &now["applied_generation"]),
        (&before["ip"], &json!(1))
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_serves_and_ends_while_the_next_one_is_tried_is_told_and_started_again() {
    let stand = Stand::new().await;
    let before = trying(&stand, &json!({})).await;
    let instance = |generation| format!("{}-{generation}", before["id"].as_str().unwrap());
    eventually("both run", async || {
        let tasks = stand.bed.ctr(&["tasks", "ls"]);
        tasks.matches("RUNNING").count() == 2
    })
    .await;
    stand
        .bed
        .ctr(&["tasks", "kill", "--signal", "9", &instance(1)]);
    let line = |part: &str| {
        let log = stand.agent.log();
        log.lines()
            .find(|line| line.contains(part))
            .map(str::to_owned)
    };
    let told = "generation 1 ended, which serves";
    eventually("it is told", async || line(told).is_some()).await;
    assert!(line(told).unwrap().contains("exit_code=137"));
    eventually("it serves again", async || serves(&before).await).await;
    // It answers before the agent has looked at it.
    eventually("it is seen", async || {
        shown(&stand).await["applied_generation"] == 1
    })
    .await;
    let next = json!({"environment": {"VERSION": "2"}});
    let (_, told) = stand.agent.deploy(&web(&stand, 2, &next)).await;
    let generation = told["generation"].as_u64().unwrap();
    updated(&stand, generation).await;
    let digest = before["image_digest"].as_str().unwrap();
    let change =
        format!("generation {generation} ({digest}) in the place of generation 1 ({digest})");
    assert!(line(&change).is_some(), "{change}");
    stand.end().await;
}
