//! The agent itself: what it reports of its own health, and to whom it tells that a part of it is stuck.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};

use crate::harness::Testbed;
use crate::harness::agent::Agent;
use crate::harness::chas::Chas;
use crate::stand::{Stand, eventually};

/// What a systemd hears of the agent until it is silent for so long.
fn heard(systemd: &UnixDatagram, silence: Duration) -> String {
    systemd.set_read_timeout(Some(silence)).unwrap();
    let (mut all, mut bytes) = (String::new(), [0; 4096]);
    // Bounded: a sign of life comes twice a second.
    while let (Ok(length), true) = (systemd.recv(&mut bytes), all.len() < 1 << 20) {
        all.push_str(&String::from_utf8_lossy(&bytes[..length]));
        all.push('\n');
    }
    all
}

/// Waits for a sign of life.
async fn lives(systemd: &UnixDatagram) {
    systemd.set_nonblocking(true).unwrap();
    let mut bytes = [0; 4096];
    eventually("a sign of life", async || {
        let got = systemd.recv(&mut bytes);
        got.is_ok_and(|length| bytes[..length].starts_with(b"WATCHDOG=1"))
    })
    .await;
    systemd.set_nonblocking(false).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_doors_are_deaf_gives_no_sign_of_life_and_says_why() {
    let bed = Testbed::new();
    let path = bed.dir.join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    let variables = [
        ("NOTIFY_SOCKET", path.to_str().unwrap()),
        ("WATCHDOG_USEC", "1000000"),
    ];
    let agent = Agent::start_with(&bed, &variables).await;
    lives(&systemd).await;
    // No file that is opened from now on has a number below this: every connection is refused to it.
    let pid = Pid::from_raw(i32::try_from(agent.pid()).unwrap());
    let none = Rlimit {
        current: Some(3),
        ..getrlimit(Resource::Nofile)
    };
    let before = prlimit(pid, Resource::Nofile, none).unwrap();
    let (unheard, log) = ("agent stuck", || agent.log());
    eventually("it says that it is stuck", async || log().contains(unheard)).await;
    let line = log();
    let line = line.lines().find(|line| line.contains(unheard)).unwrap();
    assert!(line.contains("is deaf"), "{line}");
    assert!(line.contains("no file descriptor is left"), "{line}");
    assert!(log().contains("AgentStuck"), "{}", log());
    // What came before it was stuck is read first.
    heard(&systemd, Duration::from_millis(1));
    assert_eq!(heard(&systemd, Duration::from_secs(2)), "");
    prlimit(pid, Resource::Nofile, before).unwrap();
    lives(&systemd).await;
    eventually("the alarm is cleared", async || {
        let (_, health) = agent.get("/health").await;
        let alarms = health["alarms"].as_array().unwrap();
        alarms.iter().all(|alarm| alarm["name"] != "AgentStuck")
    })
    .await;
    let (_, events) = agent.get("/events?follow=false&after=0").await;
    assert!(events.to_string().contains("AgentStuck"), "{events}");
    bed.assert_no_container_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_reports_nothing_before_the_first_look_and_so_never_an_unhealthy_node() {
    let bed = Testbed::new();
    let chas = Chas::start(&bed.namespace);
    let url = chas.url();
    let mut stand = Stand::with(bed, &[("CHAS_API_URL", &url), ("HEALTH_INTERVAL", "1")]).await;
    let body = stand.script("job", "sleep 3600", &json!({}));
    stand.agent.deploy_and_wait(&body).await;
    let is_healthy = |report: &Value| report["status"] == "healthy";
    chas.report("it is healthy", is_healthy).await;
    for is_killed in [true, false, true] {
        if is_killed {
            stand.agent.kill_9();
        } else {
            stand.agent.terminate();
        }
        let before = chas.reports().len();
        stand.agent.start_again().await;
        eventually("it reports", async || chas.reports().len() > before + 2).await;
        for report in &chas.reports()[before..] {
            let status = &report["status"];
            // A heartbeat says that nothing has changed.
            assert!(status.is_null() || status == "healthy", "{report:#}");
            if let Some(containers) = report["containers"].as_array() {
                assert_eq!(containers[0]["status"], "running", "{report:#}");
            }
        }
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_all_or_nothing_and_another_level_lasts_as_long_as_was_asked() {
    let bed = Testbed::new();
    let file = bed.dir.join("node-agent.yaml");
    let write = |text: &str| fs::write(&file, text).unwrap();
    write("logging:\n  level: INFO\n");
    let variables = [("LOG_LEVEL", ""), ("CHAS_CONFIG", file.to_str().unwrap())];
    let agent = Agent::start_with(&bed, &variables).await;
    let level = async |expected: &str| {
        let (_, shown) = agent.get("/log-level").await;
        shown["level"] == expected
    };
    assert!(level("info").await);
    for hostile in [
        json!({"level": "info\n<3>forged"}),
        json!({"level": "x[{y=(a+)+$}]=trace"}),
        json!({"level": "info,".repeat(100)}),
        json!({"level": "trace", "for": u64::MAX}),
        json!({"level": ["trace"], "for": {}}),
        json!(["trace"]),
    ] {
        let (status, told) = agent.ask("PUT", "/log-level", Some(&hostile)).await;
        assert_eq!(status, 422, "{hostile}: {told}");
    }
    assert!(level("info").await);
    let order = json!({"level": "debug", "for": 2});
    let (status, shown) = agent.ask("PUT", "/log-level", Some(&order)).await;
    assert_eq!(
        (status, &shown["configured"]),
        (200, &json!("info")),
        "{shown}"
    );
    assert!(agent.log().contains("log level changed"));
    // Reads are logged at debug.
    eventually("a read is logged", async || {
        agent.get("/capacity").await;
        agent.log().contains("path=\"/capacity\"")
    })
    .await;
    eventually("it falls back", async || level("info").await).await;
    assert!(agent.log().contains("log level as configured again"));
    // Every fault of a file is named in one error, and nothing of it counts.
    write("logging:\n  level: LOUD\n  colour: blue\nnode:\n  labels: 7=\n");
    agent.signal(rustix::process::Signal::HUP);
    eventually("the error names each fault", async || {
        let log = agent.log();
        let line = log
            .lines()
            .find(|line| line.contains("configuration not reloaded"));
        line.is_some_and(|line| line.contains("LOUD") && line.contains("logging.colour"))
    })
    .await;
    assert!(level("info").await);
    let alarms = agent.get("/health").await.1["alarms"].clone();
    let alarms = alarms.as_array().unwrap();
    let unusable = alarms
        .iter()
        .find(|alarm| alarm["name"] == "ConfigUnusable");
    assert!(unusable.unwrap()["message"].to_string().contains("LOUD"));
    // What is configured anew ends another level at once.
    let order = json!({"level": "off", "for": "1h"});
    agent.ask("PUT", "/log-level", Some(&order)).await;
    assert!(level("off").await);
    write("logging:\n  level: WARN\n");
    agent.signal(rustix::process::Signal::HUP);
    eventually("the new level is in force", async || level("warn").await).await;
    eventually("the alarm is over", async || {
        let alarms = agent.get("/health").await.1["alarms"].to_string();
        !alarms.contains("ConfigUnusable")
    })
    .await;
    let audit = bed.dir.join("state/audit");
    let lines: String = fs::read_dir(audit)
        .unwrap()
        .map(|file| fs::read_to_string(file.unwrap().path()).unwrap_or_default())
        .collect();
    for asked in [
        "\"level\":\"debug\",\"for_s\":2",
        "\"level\":\"off\",\"for_s\":3600",
    ] {
        assert!(lines.contains(asked), "{asked}: {lines}");
    }
    bed.assert_no_container_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_that_a_caller_gives_its_request_is_in_log_event_audit_and_answer() {
    let bed = Testbed::new();
    let log = bed.dir.join("own.log");
    let path = log.to_str().unwrap();
    let variables = [
        ("LOG_FILE", path),
        ("LOG_MAX_SIZE", "64KiB"),
        ("LOG_MAX_FILES", "2"),
    ];
    let agent = Agent::start_with(&bed, &variables).await;
    let forged = "a\",\"by\":\"root";
    for (id, is_kept) in [("deploy-7f.3", true), (forged, false), ("x y", false)] {
        let body = json!({"name": "db", "image": "nginx", "state": "stopped", "labels": {"n": id.len().to_string()}});
        let request = crate::harness::http::client()
            .post(format!("{}/containers/deploy", agent.base()))
            .bearer_auth(crate::harness::agent::TOKEN)
            .header("X-Request-Id", id)
            .json(&body);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 202);
        let own = answer.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned();
        assert_eq!(own == id, is_kept, "{id}: {own}");
        let (_, events) = agent
            .get("/events?follow=false&after=0&kind=change_asked")
            .await;
        assert!(events.to_string().contains(&own), "{events}");
        let audit = fs::read_dir(bed.dir.join("state/audit")).unwrap();
        let lines: String = audit
            .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
            .collect();
        let asked = format!("\"request\":\"{own}\"");
        assert_eq!(lines.matches(&asked).count(), 1, "{asked}: {lines}");
        assert!(!lines.contains("\"by\":\"root\""), "{lines}");
        eventually("the log names it", async || {
            let told = fs::read_to_string(&log).unwrap_or_default();
            told.contains(&format!("request_id=\"{own}\""))
        })
        .await;
    }
    // A log that is full begins anew, and stays within its bounds.
    let old = bed.dir.join("own.log.1");
    let size = |path: &std::path::Path| fs::metadata(path).map_or(0, |data| data.len());
    eventually("the log is rotated", async || {
        for _ in 0..50 {
            agent.get("/capacity").await;
        }
        old.exists()
    })
    .await;
    assert!(size(&log) <= 64 << 10 && size(&old) <= 64 << 10);
    assert!(!bed.dir.join("own.log.2").exists() && !bed.dir.join("own.log.new").exists());
    agent
        .ask("DELETE", "/containers/db?wait=removed", None)
        .await;
    bed.assert_no_container_left();
}
