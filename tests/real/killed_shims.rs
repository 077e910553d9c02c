//! Shims killed in the middle of their work: nothing of their containers stays on the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::harness::run;
use crate::stand::{SOON, Stand, eventually};

/// Control groups of an instance, in every hierarchy.
fn groups(stand: &Stand, instance: &str) -> Vec<PathBuf> {
    let place = Path::new(&stand.bed.namespace).join(instance);
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).unwrap().flatten();
    let paths = hierarchies.map(|entry| entry.path().join(&place));
    let mut all: Vec<_> = paths.chain([root.join(&place)]).collect();
    all.retain(|group| group.is_dir());
    all
}

/// Socket of an instance's shim.
fn socket(stand: &Stand, instance: &str) -> PathBuf {
    let containerd = stand.bed.containerd.socket();
    let named = containerd.join(&stand.bed.namespace).join(instance);
    let digest = Sha256::digest(named.to_str().unwrap().as_bytes());
    Path::new("/run/containerd/s").join(state::digest::hex(&digest))
}

/// Kills an instance's shim as soon as it has made a control group; whether it came to that.
fn kill_while_it_creates(stand: &Stand, instance: &str, after: Duration) -> bool {
    let deadline = Instant::now() + SOON;
    let pattern = format!("containerd-shim-runc-v2 .*-id {instance} ");
    while groups(stand, instance).is_empty() {
        assert!(Instant::now() < deadline, "no control group of {instance}");
    }
    std::thread::sleep(after);
    let pids = run("pgrep", ["--full", &pattern]).unwrap_or_default();
    let killed = pids.lines().map(|pid| run("kill", ["-KILL", pid]));
    killed.filter(Result::is_ok).count() > 0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_killed_while_it_creates_leaves_no_control_group_and_no_socket() {
    let stand = Stand::new().await;
    // A shim that runs tells the agent where the bundles are.
    let first = stand.web("first", &json!({}));
    stand.agent.deploy_and_wait(&first).await;
    let mut instances = Vec::new();
    for n in 0..8 {
        let name = format!("web{n}");
        let mut body = stand.web(&name, &json!({"state": "stopped"}));
        let (_, shown) = stand.agent.deploy(&body).await;
        let instance = format!("{}-1", shown["id"].as_str().unwrap());
        assert!(instance.len() > 12, "{shown}");
        stand.agent.wait_status(&name, "stopped", SOON).await;
        body["state"] = json!("running");
        let start = format!("/containers/{name}/start");
        stand.agent.ask("POST", &start, None).await;
        let after = Duration::from_millis(3 * n);
        tokio::task::block_in_place(|| kill_while_it_creates(&stand, &instance, after));
        // Before another try can use and remove what is there.
        stand.agent.delete_and_wait(&name).await;
        instances.push(instance);
    }
    for instance in &instances {
        eventually("no control group is left", async || {
            groups(&stand, instance).is_empty()
        })
        .await;
    }
    for instance in &instances {
        assert!(
            !socket(&stand, instance).exists(),
            "the socket of {instance}"
        );
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_takes_control_groups_that_only_the_name_ties_to_the_agent_and_no_strangers() {
    let stand = Stand::new().await;
    let shown = stand
        .agent
        .deploy_and_wait(&stand.web("web", &json!({})))
        .await;
    let own = format!("{}-1", shown["id"].as_str().unwrap());
    let parents: Vec<_> = groups(&stand, &own)
        .iter()
        .map(|group| group.parent().unwrap().to_owned())
        .collect();
    assert!(!parents.is_empty());
    let (ours, strangers) = ("0123456789ab-7", "stranger");
    for parent in &parents {
        fs::create_dir_all(parent.join(ours).join("inner")).unwrap();
        fs::create_dir(parent.join(strangers)).unwrap();
    }
    let state = Path::new("/run/containerd/runc").join(&stand.bed.namespace);
    fs::create_dir_all(state.join(ours)).unwrap();
    // A process that nobody looks after any more.
    let mut orphan = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    for parent in &parents {
        let procs = parent.join(ours).join("inner/cgroup.procs");
        // A cpuset without processors takes nobody in.
        let _taken = fs::write(procs, orphan.id().to_string());
    }
    let ended = tokio::task::spawn_blocking(move || orphan.wait());
    eventually("they are swept", async || groups(&stand, ours).is_empty()).await;
    assert!(!ended.await.unwrap().unwrap().success(), "it was killed");
    assert!(!state.join(ours).exists());
    for parent in &parents {
        assert!(parent.join(strangers).is_dir() && parent.join(&own).is_dir());
        fs::remove_dir(parent.join(strangers)).unwrap();
    }
    let (_, again) = stand.agent.get("/containers/web").await;
    assert_eq!(
        (&again["status"], &again["restart_count"]),
        (&json!("running"), &json!(0))
    );
    stand.end().await;
}

/// Starts a shim of an instance as containerd does, and asks nothing of it. It ends with the pipe of its log.
fn start_a_shim(stand: &Stand, instance: &str) -> fs::File {
    let log = stand.bed.scratch.dir().join(instance).join("log");
    start_a_shim_in(stand, instance, || {
        let open = fs::File::options().read(true).write(true).open(log);
        open.unwrap()
    })
}

/// Starts a shim of an instance once `reading` has opened its log, or has not.
fn start_a_shim_in<T>(stand: &Stand, instance: &str, reading: impl FnOnce() -> T) -> T {
    let bundle = stand.bed.scratch.dir().join(instance);
    fs::create_dir(&bundle).unwrap();
    fs::write(bundle.join("config.json"), "{}").unwrap();
    let log = bundle.join("log");
    run("mkfifo", [log.to_str().unwrap()]).unwrap();
    let reader = reading();
    let socket = stand.bed.containerd.socket();
    let started = std::process::Command::new("containerd-shim-runc-v2")
        .args(["-namespace", &stand.bed.namespace, "-id", instance])
        .arg("-address")
        .arg(socket)
        .arg("start")
        .env(
            "TTRPC_ADDRESS",
            format!("{}.ttrpc", stand.bed.containerd.socket().display()),
        )
        .current_dir(&bundle)
        .output()
        .unwrap();
    assert!(started.status.success(), "{started:?}");
    reader
}

/// A task's creation that is cut off by the end of the agent leaves a shim that answers nothing, and
/// containerd would hand the next creation to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_a_creation_left_is_ended_and_keeps_the_next_one_from_nothing() {
    let stand = Stand::new().await;
    let more = json!({"state": "stopped"});
    let (_, shown) = stand.agent.deploy(&stand.web("web", &more)).await;
    let instance = format!("{}-1", shown["id"].as_str().unwrap());
    stand.agent.wait_status("web", "stopped", SOON).await;
    // Nobody reads its log, for which it waits; its socket takes connections.
    start_a_shim_in(&stand, &instance, || ());
    assert!(socket(&stand, &instance).exists());
    stand.agent.ask("POST", "/containers/web/start", None).await;
    stand.agent.wait_status("web", "running", SOON).await;
    let pattern = format!("containerd-shim-runc-v2 .*-id {instance} ");
    let shims = run("pgrep", ["--full", &pattern]).unwrap_or_default();
    assert_eq!(shims.lines().count(), 1, "{shims}");
    stand.end().await;
}

/// A task's deletion that is cut off by the end of the agent leaves a shim without a task: containerd
/// deletes the task, and no longer asks its shim to end.
#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_the_deletion_of_its_task_left_is_ended_and_the_end_stays_known() {
    let mut stand = Stand::new().await;
    let more = json!({"command": ["sh", "-c", "exit 3"], "restart": {"policy": "never"}});
    stand.agent.deploy(&stand.script("once", "", &more)).await;
    stand.agent.wait_status("once", "failed", SOON).await;
    let (_, before) = stand.agent.get("/containers/once").await;
    let instance = format!("{}-1", before["id"].as_str().unwrap());
    let shims = || {
        let pattern = format!("containerd-shim-runc-v2 .*-id {instance} ");
        let pids = run("pgrep", ["--full", &pattern]).unwrap_or_default();
        pids.lines().count()
    };
    eventually("its shim has ended", async || shims() == 0).await;
    let _log = start_a_shim(&stand, &instance);
    assert_eq!(shims(), 1);
    stand.agent.kill_9();
    stand.agent.start_again().await;
    eventually("the shim is ended", async || shims() == 0).await;
    let (_, after) = stand.agent.get("/containers/once").await;
    for member in ["status", "reason", "exit_code", "finished", "id"] {
        assert_eq!(after[member], before[member], "{member}");
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_was_left_keeps_its_container_from_nothing() {
    let stand = Stand::new().await;
    let shown = stand
        .agent
        .deploy_and_wait(&stand.web("web", &json!({})))
        .await;
    stand.agent.ask("POST", "/containers/web/stop", None).await;
    stand.agent.wait_status("web", "stopped", SOON).await;
    let instance = format!("{}-1", shown["id"].as_str().unwrap());
    let [state, root] = stand.bed.containerd.bundles();
    let bundle = state.join(&stand.bed.namespace).join(&instance);
    let work = root.join(&stand.bed.namespace).join(&instance);
    fs::create_dir_all(bundle.join("rootfs")).unwrap();
    fs::create_dir_all(&work).unwrap();
    std::os::unix::fs::symlink(&work, bundle.join("work")).unwrap();
    run(
        "mount",
        [
            "-t",
            "tmpfs",
            "chas-test",
            bundle.join("rootfs").to_str().unwrap(),
        ],
    )
    .unwrap();
    stand.agent.ask("POST", "/containers/web/start", None).await;
    stand.agent.wait_status("web", "running", SOON).await;
    stand.end().await;
}
