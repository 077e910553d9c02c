//! A full disk under the agent's state, over kills and power cuts: nothing that was acknowledged is undone.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::copied;
use super::power::Disk;
use crate::harness::Testbed;
use crate::loggers::{kill, loggers};
use crate::stand::{SOON, Stand, eventually, serves};

/// What the disk has none of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    Space,
    Inodes,
}

/// End of the agent on the full disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kill,
    Orderly,
    PowerCut,
}

impl Lack {
    /// Takes all there is, in `directory`.
    fn fill(self, directory: &Path, round: usize) {
        std::fs::create_dir_all(directory).unwrap();
        match self {
            Self::Space => {
                let mut file = File::create(directory.join(format!("{round}"))).unwrap();
                for size in [1 << 20, 4096, 1] {
                    while file.write_all(&vec![7_u8; size]).is_ok() {}
                }
                let _synced_as_far_as_it_goes = file.sync_all();
            }
            Self::Inodes => {
                let mut made = (0..).map(|n| File::create(directory.join(format!("{round}-{n}"))));
                while made.next().is_some_and(|made| made.is_ok()) {}
            }
        }
    }
}

async fn end(stand: &mut Stand, disk: &mut Disk, shown: &[Value], end: End) {
    match end {
        End::Kill => stand.agent.kill_9(),
        End::Orderly => stand.agent.terminate(),
        End::PowerCut => {
            disk.cut();
            stand.agent.kill_9();
            // Their open files would keep the disk that was cut off.
            shown.iter().flat_map(loggers).for_each(kill);
            disk.unmount();
            disk.mount();
        }
    }
    stand.agent.start_again().await;
}

async fn nothing_is_undone(lack: Lack, how: End) {
    let bed = Testbed::new();
    let mut disk = Disk::make(&bed);
    let (state, filling) = (disk.mount.join("state"), disk.mount.join("filling"));
    let variables = [
        ("CHAS_STATE_DIR", state.to_str().unwrap()),
        ("HEALTH_INTERVAL", "1"),
    ];
    let mut stand = Stand::with(bed, &variables).await;
    let mut shown = Vec::new();
    for name in ["web", "gone", "stays"] {
        shown.push(
            stand
                .agent
                .deploy_and_wait(&stand.web(name, &json!({})))
                .await,
        );
    }
    copied(&state, "stays", 1).await;
    let pid = stand.pid(&shown[2]);

    lack.fill(&filling, 0);
    let stopped = stand.agent.ask("POST", "/containers/web/stop", None).await;
    assert_eq!(stopped.0, 202, "{lack:?}: {}", stopped.1);
    stand.agent.delete_and_wait("gone").await;
    stand.agent.wait_status("web", "stopped", SOON).await;
    if lack == Lack::Space {
        let body = stand.web("new", &json!({"environment": {"A": "x".repeat(100_000)}}));
        assert_eq!(stand.agent.deploy(&body).await.0, 507);
    }
    // Also the room that the agent and the removal gave up, so that a start has none either.
    lack.fill(&filling, 1);
    let name = match lack {
        Lack::Space => "DiskFull",
        Lack::Inodes => "NoInodes",
    };
    eventually("the full disk is named", async || {
        let (_, health) = stand.agent.get("/health").await;
        health["status"] != "healthy" && health["alarms"].to_string().contains(name)
    })
    .await;
    for _ in 0..2 {
        end(&mut stand, &mut disk, &shown, how).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (_, health) = stand.agent.get("/health").await;
        let is_known = health["state"]["known"] == json!(true);
        eprintln!("{lack:?} {how:?}: known: {is_known}");
        assert!(!serves(&shown[0]).await, "{lack:?} {how:?}: it was stopped");
        assert!(!serves(&shown[1]).await, "{lack:?} {how:?}: it was deleted");
        assert!(serves(&shown[2]).await && stand.pid(&shown[2]) == pid);
        let gone = stand.agent.get("/containers/gone").await;
        if is_known {
            assert_eq!(gone.0, 404, "{}", gone.1);
        } else {
            assert_eq!(health["status"], json!("unhealthy"), "{health}");
            assert_eq!(stand.agent.get("/livez").await.0, 200);
            assert_eq!(stand.agent.get("/readyz").await.0, 503);
            let (status, problem) = stand.agent.deploy(&stand.web("web", &json!({}))).await;
            assert_eq!(status, 503, "{problem}");
        }
    }
    std::fs::remove_dir_all(&filling).unwrap();
    eventually("it goes on by itself", async || {
        let (_, health) = stand.agent.get("/health").await;
        health["state"]["known"] == json!(true) && health["state"]["writable"] == json!(true)
    })
    .await;
    stand.agent.wait_status("web", "stopped", SOON).await;
    assert_eq!(stand.agent.get("/containers/gone").await.0, 404);
    assert!(serves(&shown[2]).await && stand.pid(&shown[2]) == pid);
    eventually("the reserve is made again", async || {
        state.join("reserve").exists()
    })
    .await;
    for name in ["web", "stays"] {
        stand.agent.delete_and_wait(name).await;
    }
    stand.agent.terminate();
    disk.unmount();
    stand.bed.assert_no_container_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_disk_without_space_a_stop_and_a_removal_outlive_kills() {
    nothing_is_undone(Lack::Space, End::Kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_disk_without_space_a_stop_and_a_removal_outlive_power_cuts() {
    nothing_is_undone(Lack::Space, End::PowerCut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_disk_without_inodes_a_stop_and_a_removal_outlive_restarts() {
    nothing_is_undone(Lack::Inodes, End::Orderly).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_disk_without_inodes_a_stop_and_a_removal_outlive_power_cuts() {
    nothing_is_undone(Lack::Inodes, End::PowerCut).await;
}
