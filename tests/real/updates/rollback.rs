//! Rollback: the generation before is back by itself, also without a registry.

use serde_json::{Value, json};

use super::{instances, web};
use crate::harness::image::Image;
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
async fn a_generation_that_fails_gives_way_to_the_one_before() {
    let stand = Stand::new().await;
    Image::web()
        .architecture("s390x")
        .push(&stand.registry, "other:1")
        .await;
    let good = web(&stand, 1, &json!({}));
    let first = stand.agent.deploy_and_wait(&good).await;
    for strategy in ["start-first", "stop-first"] {
        for (more, reason) in [
            (json!({"command": ["/missing"]}), "CommandNotFound"),
            (json!({"command": ["sh", "-c", "exit 3"]}), "Exited"),
            (
                json!({"command": ["sh", "-c", "sleep 2; exit 4"]}),
                "Exited",
            ),
            (
                json!({"image": stand.image("other:1")}),
                "ImagePlatformMismatch",
            ),
        ] {
            let pid = stand.pid(&first);
            let mut more = more;
            more["update"] = rules(strategy);
            let bad = web(&stand, 2, &more);
            let (status, told) = stand.agent.deploy(&bad).await;
            assert_eq!(status, 202, "{told}");
            let shown = is_back(&stand).await;
            let given_up = &shown["rolled_back"];
            assert_eq!(given_up["reason"], reason, "{strategy} {shown}");
            assert_eq!(given_up["generation"], told["generation"]);
            assert_eq!(shown["image_digest"], first["image_digest"]);
            assert_eq!(shown["spec"]["environment"], json!({"VERSION": null}));
            assert_eq!(shown["spec"]["command"], Value::Null);
            assert!(serves(&shown).await, "{strategy} {reason}");
            if strategy == "start-first" && !bad.to_string().contains("sleep") {
                assert_eq!(stand.pid(&first), pid, "it was never stopped");
            }
            let (status, told) = stand.agent.deploy(&bad).await;
            assert_eq!(status, 409, "{told}");
            assert!(told.to_string().contains("was given up"), "{told}");
        }
    }
    stand.end().await;
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
