//! Images before a container needs them: pulled, kept, listed with their users, and removed.

use serde_json::{Value, json};

use crate::client::{order, shows};
use crate::harness::image::Image;
use crate::stand::{SOON, Stand, eventually};

async fn images(stand: &Stand) -> Vec<Value> {
    let (status, told) = stand.agent.get("/images").await;
    assert_eq!(status, 200, "{told}");
    told["images"].as_array().unwrap().clone()
}

fn of<'a>(images: &'a [Value], name: &str) -> Option<&'a Value> {
    let mut images = images.iter();
    images.find(|one| one["names"].to_string().contains(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_ahead_kept_used_without_a_registry_and_removed() {
    let mut stand = Stand::new().await;
    let name = stand.image("box:1");
    let digest = shows(&stand, &format!("pull --keep 1h {name}"));
    assert!(digest.starts_with("sha256:"), "{digest}");
    let all = images(&stand).await;
    let one = of(&all, "box:1").unwrap();
    assert_eq!(
        (&one["digest"], &one["used"]),
        (&json!(digest.trim()), &json!(false))
    );
    assert!(one["packed_bytes"].as_u64().unwrap() > 1000, "{one}");
    assert!(
        one["kept_until"].is_string() && one["created"].is_string(),
        "{one}"
    );

    // An agent that knows of no pull sweeps what is not to be kept, and leaves the other.
    let web = stand.image("web:1");
    shows(&stand, &format!("pull --keep 1s {web}"));
    assert!(of(&images(&stand).await, "web:1").is_some());
    stand.agent.kill_9();
    stand.agent.start_again().await;
    eventually("the other is swept", async || {
        of(&images(&stand).await, "web:1").is_none()
    })
    .await;
    assert!(of(&images(&stand).await, "box:1").is_some());
    let body = stand.script(
        "uses",
        "while :; do sleep 1; done",
        &json!({"image_pull": "never"}),
    );
    stand.agent.deploy_and_wait(&body).await;
    let all = images(&stand).await;
    assert_eq!(of(&all, "box:1").unwrap()["used_by"], json!(["uses"]));
    let refused = order(&stand, &format!("rmi {name}"));
    assert!(
        refused.code == 1 && refused.told.contains("is used by uses"),
        "{refused:?}"
    );
    let listed = shows(&stand, "images");
    assert!(
        listed.starts_with("IMAGE ") && listed.contains("uses"),
        "{listed}"
    );

    // What is kept is pruned by --all alone, and what is used never.
    let keep = shows(&stand, &format!("pull --keep 1h {web}"));
    let kept = shows(&stand, "prune --yes");
    assert!(kept.contains("none to remove"), "{kept}");
    let asked = order(&stand, "prune --all");
    assert!(asked.code == 1 && asked.told.contains("--yes"), "{asked:?}");
    let dry = shows(&stand, "prune --all --dry-run");
    assert!(dry.contains("web:1") && !dry.contains("box:1"), "{dry}");
    assert!(of(&images(&stand).await, "web:1").is_some(), "{keep}");
    let removed = shows(&stand, "prune --all --yes");
    assert!(removed.contains("Removed 1:"), "{removed}");
    assert!(of(&images(&stand).await, "web:1").is_none());
    stand.agent.delete_and_wait("uses").await;
    let gone = shows(&stand, &format!("rmi {name}"));
    assert_eq!(gone, digest);
    assert!(images(&stand).await.is_empty());
    assert!(!stand.bed.ctr(&["images", "ls", "-q"]).contains("box"));
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_fails_says_why_and_others_images_are_left_alone() {
    let stand = Stand::new().await;
    let absent = order(&stand, &format!("pull {}", stand.image("absent:1")));
    assert!(
        absent.code == 1 && absent.told.contains("ImageNotFound"),
        "{absent:?}"
    );
    // A line each, for programs.
    Image::busybox().push(&stand.registry, "more:1").await;
    let told = shows(&stand, &format!("pull --json {}", stand.image("more:1")));
    let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert_eq!(last["status"], "pulled", "{told}");
    let digest = last["digest"].as_str().unwrap();
    let fixed = format!("{}@{digest}", stand.image("more"));
    stand
        .bed
        .ctr(&["images", "tag", &fixed, "others.example/mine:1"]);
    // The tag has the labels of the other name, and nobody else would give it one of the agent's.
    let label = [
        "images",
        "label",
        "others.example/mine:1",
        "chas.io/managed=",
    ];
    stand.bed.ctr(&label);
    let refused = order(&stand, &format!("rmi {digest}"));
    assert!(
        refused.code == 1 && refused.told.contains("did not make"),
        "{refused:?}"
    );
    let pruned = shows(&stand, "prune --all --yes");
    assert!(pruned.contains("none to remove"), "{pruned}");
    let body = stand.script("waits", "exit 0", &json!({"restart": {"policy": "never"}}));
    stand.agent.deploy(&body).await;
    stand.agent.wait_status("waits", "stopped", SOON).await;
    stand.bed.ctr(&["images", "rm", "others.example/mine:1"]);
    stand.end().await;
}
