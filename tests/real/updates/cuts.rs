//! containerd that is killed, and power that fails, at any instant of an update.

use std::time::Duration;

use serde_json::json;

use super::{Load, count, instances, updated, web};
use crate::harness::{Testbed, run};
use crate::stand::{Stand, eventually, serves};

/// An instant of an update: from before the image is looked for until after the one before is gone.
fn instant(round: u64) -> Duration {
    Duration::from_millis((round + 1) * 1301 % 2600)
}

/// The processes of every task, and their shims.
fn processes(stand: &Stand) -> Vec<String> {
    let tasks = stand.bed.ctr(&["tasks", "ls"]);
    let pid = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
    let tasks = tasks.lines().skip(1).filter_map(pid);
    let shim = format!(
        "containerd-shim-runc-v2 -namespace {} ",
        stand.bed.namespace
    );
    let shims = run("pgrep", ["--full", "--", &shim]).unwrap_or_default();
    tasks.chain(shims.lines().map(str::to_owned)).collect()
}

/// The power fails, and returns: no task is left.
fn cut_power(stand: &mut Stand) {
    let processes = processes(stand);
    stand.agent.kill_9();
    stand.bed.containerd.kill_9();
    // Some may have ended since.
    let _ended = run("kill", ["-9".to_owned()].into_iter().chain(processes));
    stand.bed.containerd.start();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_generation_serves_after_containerd_was_killed_or_the_power_was_cut_during_an_update() {
    let mut stand = Stand::on(Testbed::with_private_containerd()).await;
    let shown = stand
        .agent
        .deploy_and_wait(&web(&stand, 1, &json!({})))
        .await;
    let port = shown["ports"][0]["host"].as_u64().unwrap();
    for round in 0..count("CHAS_TEST_UPDATE_CUTS", 4) {
        let is_power = round % 2 == 1;
        let load = match is_power {
            true => None,
            false => Some(Load::start(port).await),
        };
        let body = web(&stand, 2 + round, &json!({}));
        let (status, told) = stand.agent.deploy(&body).await;
        assert_eq!(status, 202, "{told}");
        let after = instant(round / 2);
        tokio::time::sleep(after).await;
        if is_power {
            cut_power(&mut stand);
            assert_eq!(stand.bed.ctr(&["tasks", "ls", "-q"]), "");
            stand.agent.start_again().await;
        } else {
            stand.bed.containerd.kill_9();
            tokio::time::sleep(Duration::from_millis(300)).await;
            stand.bed.containerd.start();
        }
        updated(&stand, told["generation"].as_u64().unwrap()).await;
        eventually("it serves", async || serves(&shown).await).await;
        let what = format!("power {is_power}, after {after:?}");
        assert_eq!(instances(&stand), 1, "{what}");
        // Containers do not notice that containerd is away.
        let answered = load.map(Load::end);
        eprintln!("{what}: {answered:?} requests");
    }
    stand.end().await;
}
