//! What is half there, lost or left over: the agent mends it, and harms nothing that runs on the way.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::harness::image::{Image, Packing};
use crate::harness::{Testbed, run};
use crate::stand::{SOON, Stand, page, serves};

#[tokio::test(flavor = "multi_thread")]
async fn until_a_new_image_is_there_the_generation_before_keeps_its_network() {
    let mut stand = Stand::new().await;
    let shown = stand
        .agent
        .deploy_and_wait(&stand.web("web", &json!({})))
        .await;
    let mut change = stand.web("web", &json!({}));
    change["image"] = json!(stand.image("web:nope"));
    assert_eq!(stand.agent.deploy(&change).await.0, 202);
    let deadline = Instant::now() + SOON;
    while stand.agent.get("/containers/web").await.1["reason"] != "ImageNotFound" {
        assert!(Instant::now() < deadline, "the tag is not missed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A fresh agent has no memory of what it attached, and compares the network at once.
    stand.agent.kill_9();
    stand.agent.start_again().await;
    for _ in 0..20 {
        assert!(
            serves(&shown).await,
            "the generation that runs has lost its network"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_snapshot_and_image_were_lost_is_made_anew_from_what_the_tag_means_now() {
    let stand = Stand::new().await;
    let shown = stand
        .agent
        .deploy_and_wait(&stand.web("web", &json!({})))
        .await;
    stand.agent.ask("POST", "/containers/web/stop", None).await;
    stand.agent.wait_status("web", "stopped", SOON).await;
    let instance = format!("{}-1", shown["id"].as_str().unwrap());
    stand.bed.ctr(&["snapshots", "rm", &instance]);
    let listed = stand.bed.ctr(&["images", "ls", "-q"]);
    let images = listed.lines().filter(|image| image.contains("/web"));
    stand.bed.ctr(
        &["images", "rm", "--sync"]
            .into_iter()
            .chain(images)
            .collect::<Vec<_>>(),
    );
    Image::web()
        .layer(Packing::Gzip, &[("/www/index.html", b"newer\n")])
        .push(&stand.registry, "web:1")
        .await;
    stand.agent.ask("POST", "/containers/web/start", None).await;
    let again = stand.agent.wait_status("web", "running", SOON).await;
    assert_eq!(
        page(&again).await.as_deref(),
        Some("newer\n"),
        "what runs is the image that is reported: {again}"
    );
    assert_eq!(
        (&again["ip"], &again["generation"]),
        (&shown["ip"], &shown["generation"])
    );
    assert_ne!(again["image_digest"], shown["image_digest"]);
    stand.end().await;
}

/// What a creation cut off in the middle leaves at times: the shim and its container live, and containerd knows no task.
fn forget_task(stand: &Stand, instance: &str) {
    stand.bed.containerd.kill_9();
    let state = stand
        .bed
        .containerd
        .socket()
        .with_file_name("state/io.containerd.runtime.v2.task");
    let bundle = state.join(&stand.bed.namespace).join(instance);
    run(
        "umount",
        ["--lazy", bundle.join("rootfs").to_str().unwrap()],
    )
    .unwrap();
    std::fs::remove_dir_all(&bundle).unwrap();
    stand.bed.containerd.start();
    assert!(
        !stand.bed.ctr(&["tasks", "ls", "-q"]).contains(instance),
        "containerd has forgotten it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_containerd_lost_is_ended_and_a_new_one_runs_the_container() {
    let mut stand = Stand::on(Testbed::with_private_containerd()).await;
    let shown = stand
        .agent
        .deploy_and_wait(&stand.web("web", &json!({})))
        .await;
    let instance = format!("{}-1", shown["id"].as_str().unwrap());
    stand.agent.kill_9();
    forget_task(&stand, &instance);
    stand.agent.start_again().await;
    let again = stand.agent.wait_status("web", "running", SOON).await;
    assert!(serves(&again).await, "{again}");
    assert_eq!(
        run(
            "pgrep",
            [
                "--full",
                "--count",
                &format!("containerd-shim-runc-v2 .*{instance}")
            ]
        )
        .unwrap()
        .trim(),
        "1"
    );

    stand.agent.kill_9();
    forget_task(&stand, &instance);
    stand.agent.start_again().await;
    // Also one that is to go at once.
    stand.agent.ask("DELETE", "/containers/web", None).await;
    stand.agent.delete_and_wait_if_there("web").await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_container_is_not_touched_even_where_it_has_the_name_that_ours_needs() {
    let stand = Stand::new().await;
    let shown = stand
        .agent
        .deploy_and_wait(&stand.web("web", &json!({})))
        .await;
    let stranger = format!("{}-2", shown["id"].as_str().unwrap());
    // Its task has ended: of our own, that is what a launch takes away first.
    stand.bed.ctr(&[
        "run",
        "-d",
        "--net-host",
        &stand.image("web:1"),
        &stranger,
        "true",
    ]);
    let ended = || {
        stand
            .bed
            .ctr(&["tasks", "ls"])
            .lines()
            .any(|line| line.starts_with(&stranger) && line.contains("STOPPED"))
    };
    crate::harness::eventually("the stranger's task has ended", SOON, ended);
    assert_eq!(
        stand
            .agent
            .deploy(&stand.web("web", &json!({"environment": {"A": "1"}})))
            .await
            .0,
        202
    );
    let deadline = Instant::now() + SOON;
    let refused = loop {
        let (_, shown) = stand.agent.get("/containers/web").await;
        if shown["reason"] == "NameTaken" {
            break shown;
        }
        assert!(Instant::now() < deadline, "{shown}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(refused.to_string().contains("not the agent's"), "{refused}");
    stand.agent.ask("POST", "/containers/web/stop", None).await;
    stand.agent.delete_and_wait("web").await;
    assert!(ended(), "the stranger's task is still there");
    stand.bed.ctr(&["tasks", "delete", &stranger]);
    stand.bed.ctr(&["containers", "delete", &stranger]);
    stand.end().await;
}
