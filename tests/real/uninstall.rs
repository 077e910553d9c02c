//! `uninstall` by the program itself: all that the agent made goes, volumes where they are to, and what is
//! not the agent's stays.

use std::fs;
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;

use crate::client::shows;
use crate::harness::agent::PROGRAM;
use crate::harness::image::Image;
use crate::stand::Stand;

fn order(stand: &Stand, words: &[&str]) -> (i32, String) {
    tokio::task::block_in_place(|| {
        let output = Command::new("timeout")
            .args(["110", PROGRAM, "uninstall"])
            .args(words)
            .env_clear()
            .envs(stand.agent.environment())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told).into_owned();
        (output.status.code().unwrap(), told)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_the_agent_made_goes_and_nothing_else_beside_an_agent_that_runs_and_without() {
    let stand = Stand::new().await;
    let more = json!({
        "volumes": [{"volume": "data", "path": "/data"}],
        "environment": {"A": "b"}, "exposed_ports": [{"container": 80}],
    });
    let body = stand.script("web", "echo kept > /data/file; sleep 1000 & wait", &more);
    stand.agent.deploy_and_wait(&body).await;
    stand
        .agent
        .deploy_and_wait(&stand.web("page", &json!({})))
        .await;
    Image::busybox().push(&stand.registry, "other:1").await;
    let other = stand.image("other:1");
    stand.bed.ctr(&["images", "pull", "--plain-http", &other]);
    stand
        .bed
        .ctr(&["run", "-d", &other, "other", "sleep", "1000"]);
    // One that is kept for a while goes as well.
    Image::busybox().push(&stand.registry, "ahead:1").await;
    shows(
        &stand,
        &format!("pull --keep 1h {}", stand.image("ahead:1")),
    );
    let state = stand.bed.dir.join("state");
    let file = state.join("volumes/data/_data/file");

    let (code, told) = order(&stand, &["--dry-run"]);
    assert_eq!(code, 0, "{told}");
    for part in [
        "2 containers",
        &stand.bed.bridge,
        "Kept: volumes",
        "Not touched: other",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let (code, told) = order(&stand, &[]);
    assert!(
        code == 1 && told.contains("--yes"),
        "nobody was asked: {told}"
    );
    assert_eq!(
        stand.agent.get("/containers/web").await.1["status"],
        "running"
    );

    let place = stand.bed.dir.join("run/somebody");
    fs::create_dir(&place).unwrap();
    mount("theirs", &place, "tmpfs", MountFlags::empty(), None).unwrap();
    let (code, told) = order(&stand, &["--yes"]);
    assert!(code == 1 && told.contains("run/somebody"), "{told}");
    assert_eq!(
        stand.agent.get("/containers/web").await.1["status"],
        "running"
    );
    unmount(&place, UnmountFlags::empty()).unwrap();
    fs::remove_dir(&place).unwrap();

    let (code, told) = order(&stand, &["--yes"]);
    assert_eq!(code, 0, "{told}");
    assert!(
        stand.agent.call("GET", "/livez", None).await.is_none(),
        "it is ended"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept\n");
    let left: Vec<_> = fs::read_dir(&state)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("volume"))
        .collect();
    assert!(left.is_empty(), "{left:?}\n{told}");
    assert!(!stand.bed.dir.join("run").exists(), "{told}");
    let tasks = stand.bed.ctr(&["tasks", "ls"]);
    assert!(
        tasks.contains("other") && tasks.contains("RUNNING"),
        "{tasks}"
    );
    let images = stand.bed.ctr(&["images", "ls", "-q"]);
    assert_eq!(images.trim(), other, "{told}");
    stand.bed.ctr(&["tasks", "rm", "-f", "other"]);
    stand.bed.ctr(&["containers", "rm", "other"]);
    stand.bed.ctr(&["images", "rm", "--sync", &other]);
    stand.bed.assert_nothing_left();

    // Again, without an agent, with volumes.
    let mut stand = stand;
    stand.agent.terminate();
    stand.agent.start_again().await;
    stand.agent.deploy_and_wait(&body).await;
    stand.agent.kill_9();
    let (code, told) = order(&stand, &["--yes", "--volumes"]);
    assert_eq!(code, 0, "{told}");
    assert!(!state.exists(), "{told}");
    stand.bed.assert_nothing_left();
}
