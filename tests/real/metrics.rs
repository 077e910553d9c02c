//! What a scrape shows of a node that pulled, ran, restarted and failed for real.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::Testbed;
use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::image::{Image, Packing};
use crate::health::cost::used;
use crate::stand::{SOON, Stand};
use crate::state::kills::number as given;

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

/// Processor time of the agent in a minute, in which it is scraped so often.
async fn minute(stand: &Stand, scrapes: u32) -> Duration {
    let minutes = given("CHAS_TEST_MINUTES", 2);
    let spent = || used(stand.agent.pid()).iter().sum::<Duration>();
    let before = spent();
    let mut until = Instant::now();
    for _ in 0..minutes {
        if scrapes == 0 {
            until += Duration::from_secs(60);
            tokio::time::sleep_until(until).await;
        }
        for _ in 0..scrapes {
            until += Duration::from_secs(60) / scrapes;
            tokio::time::sleep_until(until).await;
            scrape(&stand.agent).await;
        }
    }
    (spent() - before) / u32::try_from(minutes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures for minutes, by hand: CHAS_TEST_AGENT=FILE CHAS_TEST_SCRAPED=50 CHAS_TEST_MINUTES=2; \
            with CHAS_TEST_BUSY=1 each container does something between two scrapes"]
async fn scrapes_of_many_real_containers_are_quick_and_cost_little() {
    // A debug build takes a multiple.
    let program = std::env::var_os("CHAS_TEST_AGENT");
    let program = program.map_or_else(|| PROGRAM.into(), PathBuf::from);
    let variables = [("LOG_LEVEL", "INFO"), ("CHAS_SUBNET", "10.199.0.0/20")];
    let stand = Stand::of(Testbed::new(), &program, &variables).await;
    let count = given("CHAS_TEST_SCRAPED", 50);
    let is_busy = given("CHAS_TEST_BUSY", 0) > 0;
    // busybox's `tail -f` looks each second.
    let (script, pause_ms) = match is_busy {
        true => ("exec tail -f /dev/null", 1500),
        false => ("sleep 100000 & wait", 100),
    };
    for n in 0..count {
        let body = stand.script(&format!("a{n}"), script, &json!({}));
        let (status, told) = stand.agent.deploy(&body).await;
        assert_eq!(status, 202, "{told}");
    }
    let until = Instant::now() + SOON + Duration::from_secs(count);
    let runs = format!("chas_containers{{status=\"running\"}} {count}");
    while !scrape(&stand.agent).await.contains(&runs) {
        assert!(Instant::now() < until, "not all run");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(15)).await;
    let (mut took, mut bytes) = (Vec::new(), 0);
    for _ in 0..41 {
        let began = Instant::now();
        bytes = scrape(&stand.agent).await.len();
        took.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
    took.sort();
    eprintln!(
        "{count} containers, {bytes} bytes a scrape: median {:?}, worst {:?}",
        took[20], took[40]
    );
    for round in 0..2 {
        let (without, with) = (minute(&stand, 0).await, minute(&stand, 4).await);
        eprintln!(
            "round {round}: {without:?} of the processor a minute, {with:?} with a scrape each 15 s"
        );
    }
    stand.end().await;
}
