//! A full disk under the agent's state: said, survived, and recovered from without help.

use serde_json::json;

use crate::harness::agent::Agent;
use crate::harness::registry::Registry;
use crate::harness::{Testbed, run};
use crate::stand::{SOON, Stand, serves};

/// A file system of its own, gone with the value.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(path: std::path::PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap();
        run(
            "mount",
            [
                "-t",
                "tmpfs",
                "-o",
                "size=6m",
                "tmpfs",
                path.to_str().unwrap(),
            ],
        )
        .unwrap();
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = run("umount", ["--lazy", self.0.to_str().unwrap()]);
        assert!(
            unmounted.is_ok() || std::thread::panicking(),
            "{unmounted:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_changes_harms_nothing_and_is_forgotten_when_it_has_room() {
    let bed = Testbed::new();
    let disk = SmallDisk::mount(bed.dir.join("small"));
    let registry = Registry::open(&bed);
    crate::harness::image::Image::web()
        .push(&registry, "web:1")
        .await;
    let state = disk.0.join("state");
    let variables = [
        ("CHAS_REGISTRY_INSECURE", registry.address()),
        ("CHAS_STATE_DIR", state.to_str().unwrap()),
    ];
    let agent = Agent::start_with(&bed, &variables).await;
    let mut stand = Stand {
        agent,
        registry,
        bed,
    };
    let shown = stand
        .agent
        .deploy_and_wait(&stand.web("web", &json!({})))
        .await;

    let fill = disk.0.join("fill");
    std::fs::write(&fill, vec![0_u8; 6 << 20]).unwrap_err();
    let large = "x".repeat(100_000);
    let mut answers = Vec::new();
    for n in 0..10 {
        answers.push(
            stand
                .agent
                .deploy(&stand.web(&format!("more{n}"), &json!({"environment": {"A": large}})))
                .await
                .0,
        );
    }
    assert!(answers.contains(&507), "{answers:?}");
    assert!(serves(&shown).await);

    std::fs::remove_file(&fill).unwrap();
    let later = stand
        .agent
        .deploy_and_wait(&stand.web("later", &json!({})))
        .await;
    assert!(serves(&later).await);
    stand.agent.kill_9();
    stand.agent.start_again().await;
    stand.agent.wait_status("later", "running", SOON).await;
    let accepted = answers.iter().filter(|status| **status == 202).count();
    let (_, all) = stand.agent.get("/containers").await;
    assert_eq!(
        all["containers"].as_array().unwrap().len(),
        2 + accepted,
        "all that was accepted, and no more"
    );
    for container in all["containers"].as_array().unwrap() {
        stand
            .agent
            .delete_and_wait(container["name"].as_str().unwrap())
            .await;
    }
    stand.agent.terminate();
    drop(disk);
    stand.bed.assert_no_container_left();
}
