//! Whatever happens to the agent's files, what was acknowledged is what runs, and nothing that runs is touched.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{Testbed, run};
use crate::stand::{SOON, Stand, serves};

mod full;
pub(crate) mod kills;
pub(crate) mod power;
mod unreadable;

/// A start is over within this, whatever it finds.
const READY_WITHIN: Duration = Duration::from_secs(5);
const BLOCK: usize = 512;

/// The files that hold what is desired.
fn files(state: &Path) -> Vec<PathBuf> {
    let inside = |directory: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(directory)
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_file())
            .collect()
    };
    let mut found = inside(state);
    found.extend(inside(&state.join("state")));
    found.sort();
    found
}

fn put_back(whole: &Path, state: &Path) {
    for gone in [
        "state",
        "quarantine",
        "desired.json.a",
        "desired.json.b",
        "last-change",
    ] {
        let path = state.join(gone);
        let _not_there = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
    }
    run(
        "cp",
        [
            "-a",
            &format!("{}/.", whole.display()),
            state.to_str().unwrap(),
        ],
    )
    .unwrap();
}

/// Turns a block's bits over, makes it zero, or cuts the file there.
fn damage(path: &Path, block: usize, how: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let (start, end) = (block * BLOCK, ((block + 1) * BLOCK).min(bytes.len()));
    match how {
        0 => bytes[start..end].iter_mut().for_each(|byte| *byte = !*byte),
        1 => bytes[start..end].fill(0),
        _ => bytes.truncate(start),
    }
    std::fs::write(path, bytes).unwrap();
}

async fn ready(stand: &Stand, what: &str) {
    let began = Instant::now();
    while stand.agent.get("/readyz").await.0 != 200 {
        assert!(began.elapsed() < READY_WITHIN, "{what}: not ready");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until so many of the two copies hold what was deployed last. One change is in one copy.
async fn copied(state: &Path, name: &str, copies: usize) {
    let deadline = Instant::now() + SOON;
    let name = format!("\"{name}\"");
    let holding = || {
        let read = |copy| std::fs::read_to_string(state.join(copy)).unwrap_or_default();
        let copies = ["desired.json.a", "desired.json.b"].map(read);
        copies.iter().filter(|text| text.contains(&name)).count()
    };
    while holding() < copies {
        assert!(Instant::now() < deadline, "the copies are not written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_damaged_block_keeps_the_agent_from_starting_or_touches_a_container() {
    let mut stand = Stand::new().await;
    let bodies = [
        stand.web("one", &json!({})),
        stand.script(
            "two",
            "sleep 1000",
            &json!({"environment": {"KEY": "value"}}),
        ),
    ];
    let mut shown = Vec::new();
    for body in &bodies {
        shown.push(stand.agent.deploy_and_wait(body).await);
    }
    // A state with a past: many changes of what never ran.
    for n in 0..40 {
        let filler = json!({"name": "filler", "image": "never.example/x", "state": "stopped",
            "environment": {"N": n.to_string(), "LONG": "x".repeat(3000)}});
        assert_eq!(stand.agent.deploy(&filler).await.0, 202);
    }
    stand.agent.delete_and_wait("filler").await;
    // What was resolved is noted after the start, and copied a moment later.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (state, whole) = (stand.bed.dir.join("state"), stand.bed.dir.join("whole"));
    copied(&state, "two", 2).await;
    stand.agent.kill_9();
    let pids: Vec<_> = shown.iter().map(|shown| stand.pid(shown)).collect();
    std::fs::create_dir(&whole).unwrap();
    run(
        "cp",
        ["-a", "--target-directory", whole.to_str().unwrap()]
            .map(str::to_owned)
            .into_iter()
            .chain(
                ["state", "desired.json.a", "desired.json.b", "last-change"]
                    .map(|name| state.join(name).display().to_string()),
            ),
    )
    .unwrap();
    // Every block takes a quarter of an hour: where that is asked for. Else every so many, another damage each.
    let every = std::env::var_os("CHAS_TEST_EVERY_BLOCK").is_some();
    let (mut number, mut named) = (0, 0);
    for path in files(&whole) {
        let blocks = usize::try_from(std::fs::metadata(&path).unwrap().len())
            .unwrap()
            .div_ceil(BLOCK);
        let stride = if every { 1 } else { (blocks / 4).max(1) };
        for block in (0..blocks).step_by(stride) {
            for how in (0..3).filter(|how| every || *how == number % 3) {
                put_back(&whole, &state);
                damage(&state.join(path.strip_prefix(&whole).unwrap()), block, how);
                stand.agent.start_again().await;
                let what = format!("{} block {block} damage {how}", path.display());
                ready(&stand, &what).await;
                let (_, all) = stand.agent.get("/containers").await;
                assert_eq!(
                    all["containers"].as_array().unwrap().len(),
                    2,
                    "{what}: {all}"
                );
                let (_, health) = stand.agent.get("/health").await;
                for body in &bodies {
                    assert_eq!(
                        stand.agent.deploy(body).await.0,
                        200,
                        "{what}: nothing of it was lost: {health}"
                    );
                }
                assert_eq!(health["state"]["writable"], json!(true), "{what}: {health}");
                let losses = health["state"]["losses"].as_array().unwrap().len();
                assert_eq!(
                    losses > 0,
                    stand.agent.log().contains("stored state lost or damaged") && losses > 0,
                    "{what}: {health}"
                );
                named += usize::from(losses > 0);
                stand.agent.kill_9();
                let now: Vec<_> = shown.iter().map(|shown| stand.pid(shown)).collect();
                assert_eq!(now, pids, "{what}");
            }
            number += 1;
        }
    }
    eprintln!("{number} blocks, {named} losses named");
    assert!(
        number >= 8 && named >= 4,
        "{number} blocks, {named} losses named"
    );
    put_back(&whole, &state);
    stand.agent.start_again().await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_all_of_its_files_gone_the_agent_takes_over_what_runs() {
    let mut stand = Stand::new().await;
    let body = stand.script(
        "secretive",
        "sleep 1000",
        &json!({"environment": {"TOKEN": "a=b"}, "exposed_ports": [{"container": 80}]}),
    );
    let shown = stand.agent.deploy_and_wait(&body).await;
    let before = stand.pid(&shown);
    stand.agent.kill_9();
    let state = stand.bed.dir.join("state");
    for name in ["state", "desired.json.a", "desired.json.b", "last-change"] {
        run("rm", ["-r", state.join(name).to_str().unwrap()]).unwrap();
    }
    stand.agent.start_again().await;
    let again = stand.agent.wait_status("secretive", "running", SOON).await;
    let same = |key: &str| assert_eq!(again[key], shown[key], "{key}");
    [
        "id",
        "ip",
        "ports",
        "spec",
        "spec_hash",
        "generation",
        "image_digest",
        "owner",
    ]
    .into_iter()
    .for_each(same);
    let (_, revealed) = stand.agent.get("/containers/secretive?reveal=true").await;
    assert_eq!(revealed["spec"]["environment"]["TOKEN"], "a=b");
    assert_eq!(
        stand.agent.deploy(&body).await.0,
        200,
        "the same again changes nothing"
    );
    // A whole look later it is still the same process.
    stand
        .agent
        .ask("POST", "/containers/secretive/start", None)
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stand.pid(&shown), before);
    let (_, health) = stand.agent.get("/health").await;
    assert!(
        health["errors"]
            .to_string()
            .contains("taken from containerd's labels"),
        "{health}"
    );
    stand.end().await;
}

/// Deploys a container that ends at once, and waits until it waits out at least the fourth restart; its view.
async fn crashing(stand: &Stand) -> Value {
    stand
        .agent
        .deploy(&stand.script("crash", "exit 3", &json!({})))
        .await;
    let waits_long = |shown: &Value| {
        shown["restart_count"].as_u64().unwrap() >= 4 && shown["status"] == "restarting"
    };
    let deadline = Instant::now() + SOON;
    let before = loop {
        let (_, shown) = stand.agent.get("/containers/crash").await;
        if waits_long(&shown) {
            break shown;
        }
        assert!(Instant::now() < deadline, "{shown}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    // What is remembered reaches the disk within half a second.
    tokio::time::sleep(Duration::from_millis(800)).await;
    before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_ten_years_off_changes_no_decision() {
    let library = ["x86_64", "aarch64"]
        .map(|machine| format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketime.so.1"));
    let library = library
        .iter()
        .find(|path| Path::new(path).exists())
        .expect("the package faketime is installed");
    let mut stand = Stand::new().await;
    let shown = stand
        .agent
        .deploy_and_wait(&stand.web("web", &json!({})))
        .await;
    let crash = crashing(&stand).await;
    let due = humantime::parse_rfc3339(crash["next_attempt"].as_str().unwrap()).unwrap();
    let (before, count) = (stand.pid(&shown), crash["restart_count"].as_u64().unwrap());
    stand.agent.kill_9();
    stand.agent.set("LD_PRELOAD", library);
    stand.agent.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    stand.agent.set("FAKETIME", "+3650d");
    stand.agent.start_again().await;
    ready(&stand, "ten years ahead").await;
    while stand.agent.get("/containers/crash").await.1["restart_count"] == json!(count) {
        let late = std::time::SystemTime::now()
            .duration_since(due)
            .unwrap_or_default();
        assert!(
            late < Duration::from_secs(5),
            "ten years ahead, it waits too long"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let now = std::time::SystemTime::now();
    assert!(
        now + Duration::from_millis(300) > due,
        "ten years ahead, it does not wait"
    );
    let (_, web) = stand.agent.get("/containers/web").await;
    let started = humantime::parse_rfc3339(web["started"].as_str().unwrap()).unwrap();
    assert!(
        started > now + Duration::from_hours(24 * 3000),
        "the agent's clock is not ahead: {web}"
    );
    // The library takes its shared memory away with a process that ends in order.
    stand.agent.terminate();
    stand.agent.set("FAKETIME", "-3650d");
    stand.agent.start_again().await;
    ready(&stand, "ten years behind").await;
    let after = stand
        .agent
        .deploy_and_wait(&stand.web("later", &json!({})))
        .await;
    assert!(serves(&after).await);
    assert_eq!(stand.pid(&shown), before);
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_counts_and_waits_outlive_the_agent() {
    let mut stand = Stand::new().await;
    let before = crashing(&stand).await;
    stand.agent.kill_9();
    stand.agent.start_again().await;
    ready(&stand, "a start").await;
    let (_, after) = stand.agent.get("/containers/crash").await;
    let at = |shown: &Value| {
        humantime::parse_rfc3339(
            shown["next_attempt"]
                .as_str()
                .unwrap_or_else(|| panic!("{shown}")),
        )
        .unwrap()
    };
    let apart = at(&after)
        .max(at(&before))
        .duration_since(at(&after).min(at(&before)))
        .unwrap();
    assert!(apart < Duration::from_millis(200), "{before} {after}");
    assert_eq!(
        (&after["restart_count"], &after["reason"]),
        (&before["restart_count"], &before["reason"])
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_that_turns_read_only_refuses_changes_and_touches_nothing() {
    let bed = Testbed::new();
    let mut disk = power::Disk::make(&bed);
    let state = disk.mount.join("state").display().to_string();
    let mut stand = Stand::with(bed, &[("CHAS_STATE_DIR", &state)]).await;
    let shown = stand
        .agent
        .deploy_and_wait(&stand.web("web", &json!({})))
        .await;
    // Its start is noted after it, perhaps together with the deploy: a copy with a later change has all of it.
    let later = json!({"name": "later", "image": "never.example/x", "state": "stopped"});
    assert_eq!(stand.agent.deploy(&later).await.0, 202);
    copied(Path::new(&state), "later", 1).await;
    let before = stand.pid(&shown);
    disk.turn_read_only();
    let (status, problem) = stand.agent.deploy(&stand.web("other", &json!({}))).await;
    assert_eq!(status, 503, "{problem}");
    assert_eq!(
        stand.agent.get("/health").await.1["state"]["writable"],
        json!(false)
    );
    // Also a start on it.
    stand.agent.kill_9();
    stand.agent.start_again().await;
    let (status, problem) = stand.agent.deploy(&stand.web("other", &json!({}))).await;
    assert_eq!(status, 503, "{problem}");
    let again = stand.agent.wait_status("web", "running", SOON).await;
    assert!(
        serves(&again).await && stand.pid(&shown) == before,
        "{again}"
    );
    // What such a disk needs is another one.
    stand.agent.kill_9();
    stand.agent.set(
        "CHAS_STATE_DIR",
        &stand.bed.dir.join("other").display().to_string(),
    );
    stand.agent.start_again().await;
    let again = stand.agent.wait_status("web", "running", SOON).await;
    assert!(
        serves(&again).await && stand.pid(&shown) == before,
        "{again}"
    );
    stand
        .agent
        .deploy_and_wait(&stand.web("other", &json!({})))
        .await;
    stand.agent.delete_and_wait("web").await;
    stand.agent.delete_and_wait("other").await;
    stand.agent.terminate();
    disk.unmount();
    stand.bed.assert_no_container_left();
}
