//! What a scrape shows of a node that pulled, ran, restarted and failed for real.

use serde_json::{Value, json};

use crate::harness::Testbed;
use crate::harness::agent::Agent;
use crate::harness::image::{Image, Packing};
use crate::stand::{SOON, Stand};

async fn scrape(agent: &Agent) -> String {
    let (status, text) = agent.get("/metrics").await;
    assert_eq!(status, 200);
    text.as_str().expect("text").to_owned()
}

/// The number on the line that begins so.
#[track_caller]
fn number(text: &str, series: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series))
        .unwrap_or_else(|| panic!("no {series} in\n{text}"));
    line.trim().parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_tells_what_happened() {
    let stand = Stand::new().await;
    // Content is shared by all of containerd's namespaces: only an image of our own is sure to be received.
    Image::busybox()
        .big_layer(Packing::Gzip, 1 << 20, 9)
        .push(&stand.registry, "own:1")
        .await;
    let once = stand.script(
        "once",
        "sleep 1; exit 3",
        &json!({"image": stand.image("own:1"), "restart": {"max_retries": 1}}),
    );
    stand.agent.deploy_and_wait(&once).await;
    stand
        .agent
        .deploy(&json!({"name": "none", "image": stand.image("none:1")}))
        .await;
    stand.agent.wait_status("none", "failed", SOON).await;
    stand.agent.wait_status("once", "failed", SOON).await;
    let text = scrape(&stand.agent).await;
    for (series, expected) in [
        (r#"chas_containers{status="failed"}"#, 2.0),
        (r#"chas_containers{status="running"}"#, 0.0),
        ("chas_containerd_up", 1.0),
        ("chas_restarts_total", 1.0),
        (r#"chas_step_duration_seconds_count{step="pull"}"#, 1.0),
        (r#"chas_step_duration_seconds_count{step="launch"}"#, 2.0),
        (
            r#"chas_step_failures_total{step="pull",reason="ImageNotFound"}"#,
            1.0,
        ),
        (
            r#"chas_api_requests_total{method="POST",route="/containers/deploy",status="202"}"#,
            1.0,
        ),
    ] {
        assert!(number(&text, series) >= expected, "{series} in\n{text}");
    }
    assert!(
        number(&text, "chas_image_received_bytes_total") >= f64::from(1 << 20),
        "{text}"
    );
    assert!(
        number(&text, "chas_store_write_duration_seconds_sum") > 0.0,
        "{text}"
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_that_are_switched_off_are_not_there() {
    let bed = Testbed::new();
    let agent = Agent::start_with(&bed, &[("METRICS_ENABLED", "false")]).await;
    let (status, problem): (u16, Value) = agent.get("/metrics").await;
    assert_eq!((status, &problem["status"]), (404, &json!(404)));
}
