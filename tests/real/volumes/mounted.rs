//! Directories of volumes that an operator made: left as they are, with what their mounts forbid.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::harness::{Testbed, run};
use crate::stand::{Stand, eventually};

/// A file system of its own where nothing can be executed, gone with the value.
struct Shut(PathBuf);

impl Shut {
    fn mount(place: PathBuf) -> Self {
        fs::create_dir_all(&place).unwrap();
        let options = ["-t", "tmpfs", "-o", "noexec,nosuid", "chas-test"];
        let options = options.into_iter().chain(place.to_str());
        run("mount", options).unwrap();
        Self(place)
    }
}

impl Drop for Shut {
    fn drop(&mut self) {
        let _ = run("umount", ["--lazy", self.0.to_str().unwrap()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_point_is_left_and_what_a_mount_forbids_is_forbidden_in_the_container() {
    let bed = Testbed::new();
    let volumes = bed.dir.join("state/volumes");
    let disk = Shut::mount(volumes.join("disk"));
    fs::create_dir(volumes.join("later")).unwrap();
    let mut stand = Stand::on(bed).await;
    let script = "grep ' /data ' /proc/mounts; cp /bin/busybox /data/run; /data/run echo ran; echo the-end; sleep 1000 & wait";
    let more = json!({"volumes": [{"volume": "disk", "path": "/data"}]});
    stand
        .agent
        .deploy_and_wait(&stand.script("a", script, &more))
        .await;
    let log = stand.printed("a", "the-end").await;
    let mounted = log.lines().find(|line| line.contains(" /data ")).unwrap();
    for option in ["rw", "noexec", "nosuid", "nodev"] {
        assert!(mounted.contains(option), "{option}: {mounted}");
    }
    assert!(!log.lines().any(|line| line == "ran"), "{log}");

    // A fill that was cut off is swept, by which it is known that the sweep came by.
    stand.agent.kill_9();
    let cut = volumes.join("cut");
    fs::create_dir_all(cut.join(".new/half")).unwrap();
    stand.agent.start_again().await;
    eventually("the fill is swept", async || !cut.exists()).await;
    stand.agent.delete_and_wait("a").await;
    assert!(volumes.join("later").is_dir(), "the operator made it");
    drop(disk);
    stand.end().await;
}
