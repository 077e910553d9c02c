//! The agent itself: what it reports of its own health, and what it reads again.

use std::fs;

use serde_json::{Value, json};

use crate::harness::Testbed;
use crate::harness::agent::Agent;
use crate::harness::chas::Chas;
use crate::stand::{Stand, eventually};

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
    // What is configured anew ends another level at once.
    let order = json!({"level": "off", "for": "1h"});
    agent.ask("PUT", "/log-level", Some(&order)).await;
    assert!(level("off").await);
    write("logging:\n  level: WARN\n");
    agent.signal(rustix::process::Signal::HUP);
    eventually("the new level is in force", async || level("warn").await).await;
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
