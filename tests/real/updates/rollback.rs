//! Rollback: a body that was given up is tried again with a higher revision.

use serde_json::{Value, json};

use super::{instances, web};
use crate::harness::registry::Registry;
use crate::stand::{Stand, eventually, serves};

fn rules(strategy: &str) -> Value {
    json!({"strategy": strategy, "min_ready": "1s", "deadline": "30s", "rollback": true, "retries": 2})
}

/// Waits until the generation before is back and nothing of the other is left; the container.
async fn is_back(stand: &Stand) -> Value {
    let is_back = async || {
        let (_, shown) = stand.agent.get("/containers/web").await;
        shown["reason"] == "RolledBack" && shown["update"].is_null() && shown["status"] == "running"
    };
    eventually("it is back", is_back).await;
    assert_eq!(instances(stand), 1);
    stand.agent.get("/containers/web").await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_needs_no_registry_and_a_higher_revision_is_tried_again() {
    let mut stand = Stand::new().await;
    stand
        .agent
        .deploy_and_wait(&web(&stand, 1, &json!({})))
        .await;
    let next = web(&stand, 3, &json!({}));
    let bad = |revision: u64| {
        let more =
            json!({"command": ["/missing"], "revision": revision, "update": rules("stop-first")});
        web(&stand, 2, &more)
    };
    let bad = [bad(1), bad(2)];
    // Another registry, at another address: the one of the images is gone.
    stand.registry = Registry::open(&stand.bed);
    stand.agent.deploy(&bad[0]).await;
    let shown = is_back(&stand).await;
    assert!(serves(&shown).await);
    let (status, told) = stand.agent.deploy(&bad[0]).await;
    assert_eq!(status, 409, "{told}");
    let (status, told) = stand.agent.deploy(&bad[1]).await;
    assert_eq!(status, 202, "{told}");
    assert!(told["rolled_back"].is_null(), "{told}");
    let shown = is_back(&stand).await;
    assert_eq!(shown["rolled_back"]["revision"], 2);
    let (_, told) = stand.agent.deploy(&next).await;
    super::updated(&stand, told["generation"].as_u64().unwrap()).await;
    let (_, shown) = stand.agent.get("/containers/web").await;
    let is_plain = shown["rolled_back"].is_null() && shown["reason"].is_null();
    assert!(is_plain, "{shown}");
    stand.end().await;
}
