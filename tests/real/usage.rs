//! What containers use, as the kernel counts it: shown by the API and scraped.

use std::time::Duration;

use serde_json::{Value, json};

use crate::stand::{Stand, eventually};

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

async fn stats(stand: &Stand, name: &str) -> Value {
    let (status, shown) = stand.agent.get(&format!("/containers/{name}/stats")).await;
    assert_eq!(status, 200, "{shown}");
    shown
}

async fn scraped(stand: &Stand, series: &str) -> Option<f64> {
    let (_, text) = stand.agent.get("/metrics").await;
    let text = text.as_str().unwrap().to_owned();
    let found = text.lines().find_map(|line| line.strip_prefix(series));
    found.map(|number| number.trim().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_uses_is_shown_and_scraped_also_after_a_kill_of_the_agent() {
    let mut stand = Stand::new().await;
    let limits = json!({"resources": {"cpu": "0.2", "memory": "64m", "pids": 50}});
    let busy = stand.script("busy", "while :; do :; done", &limits);
    stand.agent.deploy_and_wait(&busy).await;
    let web = stand
        .agent
        .deploy_and_wait(&stand.web("web", &json!({})))
        .await;
    let port = web["ports"][0]["host"].as_u64().unwrap();
    let url = format!("http://127.0.0.1:{port}/");
    eventually("it answers", async || reqwest::get(&url).await.is_ok()).await;
    for _ in 0..20 {
        assert_eq!(reqwest::get(&url).await.unwrap().status(), 200);
    }

    // Periods of the limit are a tenth of a second: a quarter of one holds two or three.
    let is_limited = async || {
        let cores = stats(&stand, "busy").await["cpu"]["used_cores"].clone();
        (0.05..0.45).contains(&number(&cores))
    };
    eventually("its CPU use is that of its limit", is_limited).await;
    let shown = stats(&stand, "busy").await;
    assert!(number(&shown["cpu"]["throttled_periods"]) > 1.0, "{shown}");
    assert!(number(&shown["cpu"]["throttled_seconds"]) > 0.1, "{shown}");
    assert_eq!(shown["memory"]["limit_bytes"], 64 << 20);
    let (used, set) = (
        &shown["memory"]["used_bytes"],
        &shown["memory"]["working_set_bytes"],
    );
    assert!(
        number(used) >= number(set) && number(set) > 4096.0,
        "{shown}"
    );
    assert_eq!(shown["pids"], json!({"current": 1, "limit": 50}), "{shown}");

    let shown = stats(&stand, "web").await;
    assert!(
        number(&shown["network"]["received_packets"]) >= 60.0,
        "{shown}"
    );
    assert!(number(&shown["network"]["sent_bytes"]) > 1000.0, "{shown}");
    assert!(number(&shown["cpu"]["used_cores"]) < 0.1, "{shown}");
    let (_, both) = stand.agent.get("/stats").await;
    let names: Vec<_> = both["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["busy", "web"]);

    let series = "chas_container_cpu_usage_seconds_total{container=\"busy\"} ";
    let before = scraped(&stand, series).await.unwrap();
    stand.agent.kill_9();
    stand.agent.start_again().await;
    eventually("it is counted on", async || {
        scraped(&stand, series)
            .await
            .is_some_and(|now| now > before)
    })
    .await;
    stand.agent.delete_and_wait("busy").await;
    assert_eq!(scraped(&stand, series).await, None, "it is gone");
    stand
        .agent
        .ask("POST", "/containers/web/stop?wait=stopped", None)
        .await;
    let stopped = stats(&stand, "web").await;
    assert_eq!(
        (&stopped["generation"], &stopped["cpu"]),
        (&Value::Null, &Value::Null),
        "{stopped}"
    );
    let status = "chas_container_status{container=\"web\",status=\"stopped\"} ";
    assert_eq!(scraped(&stand, status).await, Some(1.0));
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_a_line_each_second_and_ends_with_the_container() {
    let stand = Stand::new().await;
    let body = stand.script("box", "sleep 1000 & wait", &json!({}));
    stand.agent.deploy_and_wait(&body).await;
    let reading = stand.agent.get("/containers/box/stats?stream=true");
    let removing = async {
        tokio::time::sleep(Duration::from_millis(2500)).await;
        stand.agent.delete_and_wait("box").await;
    };
    let ((_, text), ()) = tokio::join!(reading, removing);
    let text = text.as_str().unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!((2..=8).contains(&lines.len()), "{text}");
    assert_eq!(lines[1]["pids"]["current"], 2, "{text}");
    stand.end().await;
}

/// Files of control groups that the agent has open.
fn open_files_of_groups(stand: &Stand) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fd", stand.agent.pid())).unwrap();
    let links = files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok());
    let namespace = stand.bed.namespace.as_str();
    let of_group = |link: &std::path::PathBuf| {
        let link = link.to_string_lossy();
        link.contains("cgroup") && link.contains(namespace)
    };
    links.filter(of_group).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_busy_containers_stay_open_between_scrapes_and_no_longer() {
    let stand = Stand::new().await;
    let busy = stand.script("busy", "while :; do :; done", &json!({}));
    stand.agent.deploy_and_wait(&busy).await;
    let cpu = "chas_container_cpu_usage_seconds_total{container=\"busy\"} ";
    let memory = "chas_container_memory_used_bytes{container=\"busy\"} ";
    // On a busy machine it may do nothing between two scrapes.
    let keeps = async || {
        eventually("its files stay open", async || {
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(scraped(&stand, cpu).await.is_some());
            open_files_of_groups(&stand) >= 4
        })
        .await;
        let kept = open_files_of_groups(&stand);
        assert!(kept <= 11, "{kept}");
    };
    keeps().await;
    let before = scraped(&stand, cpu).await.unwrap();
    let goes_on = async || scraped(&stand, cpu).await.unwrap() > before;
    eventually("it is told what is so now", goes_on).await;
    // The same generation has another group, of the same name.
    let (status, told) = stand
        .agent
        .ask("POST", "/containers/busy/restart?wait=running", None)
        .await;
    assert_eq!(status, 200, "{told}");
    keeps().await;
    assert!(scraped(&stand, memory).await.unwrap() > 4096.0);
    stand.agent.delete_and_wait("busy").await;
    assert_eq!(scraped(&stand, cpu).await, None);
    assert_eq!(open_files_of_groups(&stand), 0);
    stand.end().await;
}
