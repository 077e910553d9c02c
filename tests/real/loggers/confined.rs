//! Loggers under the operator's rules: a rate, a user of their own, and a control group of their own.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use rustix::process::Pid;
use serde_json::json;

use super::{kill_logger, the_logger};
use crate::harness::Testbed;
use crate::stand::{Stand, eventually};

/// A user without an entry in /etc/passwd.
const USER: &str = "61234";

fn of_process(pid: Pid, file: &str) -> String {
    fs::read_to_string(format!("/proc/{}/{file}", pid.as_raw_nonzero())).unwrap()
}

/// Waits until a process is the loggers' user, can become no other, and is in the control group of its own: one that has
/// just begun is not yet.
async fn confined(logger: Pid, instance: &str) {
    let expected = [
        &["Uid:", USER, USER, USER, USER][..],
        &["Gid:", USER, USER, USER, USER],
        &["Groups:"],
        &["CapPrm:", "0000000000000000"],
        &["CapEff:", "0000000000000000"],
        &["NoNewPrivs:", "1"],
    ];
    let group = format!("/{instance}.log\n");
    eventually("the logger is confined", async || {
        let status = of_process(logger, "status");
        let fields: Vec<Vec<&str>> = status
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        expected
            .iter()
            .all(|expected| fields.iter().any(|field| field == expected))
            && of_process(logger, "cgroup").contains(&group)
    })
    .await;
    let groups = of_process(logger, "cgroup");
    let is_of_cpu =
        |line: &&str| line.contains(":cpu:") || line.contains(",cpu") || line.starts_with("0::");
    let line = groups
        .lines()
        .find(|line| is_of_cpu(line) && line.ends_with(".log"))
        .unwrap();
    let path = line.rsplit(':').next().unwrap();
    let bounds = ["cpu/", ""].iter().zip(["cpu.cfs_quota_us", "cpu.max"]);
    let found = bounds.filter_map(|(hierarchy, file)| {
        fs::read_to_string(format!("/sys/fs/cgroup/{hierarchy}{path}/{file}")).ok()
    });
    assert!(
        found.into_iter().any(|bound| bound.starts_with("50000")),
        "{groups}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logger_is_a_user_without_rights_in_a_group_of_its_own() {
    let mut stand = Stand::new().await;
    // The first run's logger is root; its files are there when the user comes.
    let script = |word: &str| format!("echo {word}; sleep 1000 & wait");
    let body = |word: &str| stand.script("a", &script(word), &json!({}));
    let (first, second) = (body("first"), body("second"));
    let shown = stand.agent.deploy_and_wait(&first).await;
    stand.printed("a", "first").await;
    assert!(of_process(the_logger(&shown), "status").contains("Uid:\t0\t0\t0\t0"));
    stand.agent.set("CHAS_LOG_USER", USER);
    stand.agent.terminate();
    stand.agent.start_again().await;
    let shown = stand.agent.deploy_and_wait(&second).await;
    let log = stand.printed("a", "second").await;
    assert_eq!(log.matches("first").count(), 1, "{log}");
    let instance = format!("{}-{}", shown["id"].as_str().unwrap(), shown["generation"]);
    confined(the_logger(&shown), &instance).await;
    // One that takes over is no more than the one before.
    let another = kill_logger(&shown).await;
    confined(another, &instance).await;
    stand.printed("a", "another one took over").await;
    let dir = stand
        .bed
        .dir
        .join("state/logs")
        .join(shown["id"].as_str().unwrap());
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(fs::metadata(&path).unwrap().uid(), 61234, "{path:?}");
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_prints_beyond_the_rate_is_left_out_and_counted() {
    let stand = Stand::with(Testbed::new(), &[("CHAS_LOG_RATE", "64KiB")]).await;
    // 10,000 lines of 511 characters at once, then one more when there is room again.
    let script = "line=$(head -c 511 /dev/zero | tr '\\0' x); yes $line | head -n 10000; \
        echo all-printed >&2; sleep 3; echo the-end; sleep 1000 & wait";
    stand
        .agent
        .deploy_and_wait(&stand.script("a", script, &json!({})))
        .await;
    let log = stand.printed("a", "the-end").await;
    let written = log.lines().filter(|line| line.starts_with("xxx")).count();
    assert!(
        (1250..1400).contains(&written),
        "{written}: ten seconds of the rate"
    );
    let left_out: usize = log
        .lines()
        .filter_map(|line| {
            line.strip_prefix("[chas-node-agent: ")?
                .split_once(" lines (")
        })
        .map(|(lines, rest)| {
            assert!(
                rest.contains("the 65536 bytes a second that logs.rate allows"),
                "{rest}"
            );
            lines.parse::<usize>().unwrap()
        })
        .sum();
    // The word on stderr may be among them.
    let told = log.matches("all-printed").count();
    assert_eq!(written + left_out + told, 10_001, "{log:.2000}");
    // A logger tells what it counted once a second at most; the next one goes on with it.
    let counted = async || {
        let (_, shown) = stand.agent.get("/containers/a/stats").await;
        let log = &shown["log"];
        ["written_bytes", "left_out_bytes", "lost_bytes"].map(|part| log[part].as_u64().unwrap())
    };
    let beyond = (10_000 - written) as u64 * 511;
    let all = async || {
        let [log, left, lost] = counted().await;
        (beyond..beyond + 12).contains(&left) && log > written as u64 * 511 && lost == 0
    };
    eventually("it is all counted", all).await;
    let before = counted().await;
    let path = "/containers/a/restart?wait=running";
    assert_eq!(stand.agent.ask("POST", path, None).await.0, 200);
    eventually("a restart counts on", async || {
        counted().await[1] > before[1] && counted().await[0] > before[0]
    })
    .await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_directory_that_somebody_removed_is_made_again_for_a_logger_that_is_not_root() {
    let variables = [("CHAS_LOG_USER", USER), ("CHAS_RESYNC_INTERVAL", "1s")];
    let stand = Stand::with(Testbed::new(), &variables).await;
    let script = "n=0; while :; do n=$((n+1)); echo tick-$n; sleep 0.1; done";
    let shown = stand
        .agent
        .deploy_and_wait(&stand.script("a", script, &json!({})))
        .await;
    stand.printed("a", "tick-3").await;
    let instance = format!("{}-{}", shown["id"].as_str().unwrap(), shown["generation"]);
    confined(the_logger(&shown), &instance).await;
    let dir = stand.bed.dir.join("state/logs");
    fs::remove_dir_all(dir.join(shown["id"].as_str().unwrap())).unwrap();
    let log = stand.printed("a", "another one took over").await;
    assert!(!log.contains("tick-1\n"), "{log}");
    let last = log.lines().count();
    eventually("lines are written again", async || {
        stand.agent.logs("a", "tail=all").await.lines().count() > last + 3
    })
    .await;
    let (_, container) = stand.agent.get("/containers/a").await;
    assert_eq!(
        (&container["status"], &container["restart_count"]),
        (&json!("running"), &json!(0))
    );
    stand.end().await;
}
