//! Logs on a disk that is full, or that loses its power.

use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::{is_alarmed, kill, silent, the_logger};
use crate::harness::{Testbed, run};
use crate::stand::{Stand, eventually};
use crate::state::power::Disk;

/// The agent with its logs, and nothing else, on a small disk.
async fn with_logs_on(bed: Testbed, disk: &Disk) -> Stand {
    let logs = disk.mount.join("logs");
    fs::create_dir_all(&logs).unwrap();
    fs::create_dir_all(bed.dir.join("state")).unwrap();
    std::os::unix::fs::symlink(&logs, bed.dir.join("state/logs")).unwrap();
    Stand::with(bed, &[("CHAS_RESYNC_INTERVAL", "1s")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_blocks_no_container_and_health_names_those_that_lose_their_output() {
    let bed = Testbed::new();
    let mut disk = Disk::make(&bed);
    let stand = with_logs_on(bed, &disk).await;
    let script = "i=0; while :; do echo line-$i; i=$((i+1)); echo $i > /printed; sleep 0.01; done";
    let shown = stand
        .agent
        .deploy_and_wait(&stand.script("a", script, &json!({})))
        .await;
    stand.printed("a", "line-10").await;
    let filler = disk.mount.join("filler");
    let filled = run(
        "dd",
        ["if=/dev/zero", &format!("of={}", filler.display()), "bs=1M"],
    );
    assert!(filled.is_err(), "the disk is not full");
    let _ = run("sh", ["-c", &format!("yes >> {}", filler.display())]);
    eventually("health names it", async || {
        let (status, found) = silent(&stand.agent).await;
        (status, &found[0]["container"]) == (json!("degraded"), &json!("a"))
            && is_alarmed(&stand.agent).await
    })
    .await;
    let printed = || {
        let pid = stand.pid(&shown).unwrap();
        fs::read_to_string(format!("/proc/{pid}/root/printed")).unwrap()
    };
    let before = printed();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_ne!(printed(), before, "it prints on");
    fs::remove_file(&filler).unwrap();
    let log = stand
        .printed("a", "of this container's output were lost: No space left")
        .await;
    assert_eq!(log.matches("were lost").count(), 1);
    eventually("it is written again", async || {
        silent(&stand.agent).await == (json!("healthy"), json!([]))
            && !is_alarmed(&stand.agent).await
    })
    .await;
    stand.agent.delete_and_wait("a").await;
    disk.unmount();
    stand.bed.assert_no_container_left();
}

/// The time of the newest line that is on the disk.
fn last_line(logs: &std::path::Path) -> SystemTime {
    let dirs = fs::read_dir(logs).unwrap().flatten();
    let files = dirs.flat_map(|dir| fs::read_dir(dir.path()).unwrap().flatten());
    let texts = files.map(|file| fs::read_to_string(file.path()).unwrap_or_default());
    let times = texts.flat_map(|text| {
        let lines = text
            .lines()
            .filter_map(|line| humantime::parse_rfc3339(line.split(' ').next()?).ok());
        lines.collect::<Vec<_>>()
    });
    times.max().expect("a line")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_takes_less_than_three_seconds_and_the_log_says_so() {
    let bed = Testbed::new();
    let mut disk = Disk::make(&bed);
    let mut stand = with_logs_on(bed, &disk).await;
    let script = "i=0; while :; do echo line-$i.; i=$((i+1)); sleep 0.05; done";
    // Where in the interval it comes is by chance, so a few of them.
    for cut in 0..3 {
        let name = format!("a{cut}");
        let shown = stand
            .agent
            .deploy_and_wait(&stand.script(&name, script, &json!({})))
            .await;
        stand.printed(&name, "line-60.").await;
        tokio::time::sleep(Duration::from_millis(600 * cut)).await;
        let logger = the_logger(&shown);
        let at = SystemTime::now();
        disk.cut();
        stand.agent.kill_9();
        kill(logger);
        let instance = format!("{}-1", shown["id"].as_str().unwrap());
        stand
            .bed
            .ctr(&["tasks", "kill", "--signal", "SIGKILL", &instance]);
        disk.unmount();
        disk.mount();
        let logs = disk.mount.join("logs");
        let lost = at.duration_since(last_line(&logs)).unwrap();
        eprintln!("cut {cut}: {lost:?} lost");
        assert!(lost < Duration::from_secs(3), "{lost:?}");
        // This machine has not gone down: the mark of the run must be of another boot.
        let mark = logs.join(shown["id"].as_str().unwrap()).join("1.open");
        assert!(mark.exists(), "it is on the disk");
        fs::write(&mark, "a boot that was before").unwrap();
        stand.agent.start_again().await;
        stand
            .printed(&name, "the node went down while this log was written")
            .await;
        stand.agent.delete_and_wait(&name).await;
    }
    disk.unmount();
    stand.bed.assert_no_container_left();
}
