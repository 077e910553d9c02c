//! Containers that are not to run without CHaS's word: stopped once it has been silent for so long, also over the death
//! of the agent, and started by its next answer.

use std::time::Duration;

use serde_json::{Value, json};
use state::reason::Reason;
use tokio::time::Instant;

use crate::harness::Testbed;
use crate::harness::chas::Chas;
use crate::reasons::shows;
use crate::stand::{SOON, Stand, eventually};
use crate::state::power::Disk;

const LOOP: &str = "while :; do sleep 1; done";
/// The shortest that there is.
const STOP_AFTER: Duration = Duration::from_secs(10);

async fn shown(stand: &Stand, name: &str) -> Value {
    stand.agent.get(&format!("/containers/{name}")).await.1
}

/// The number on the line of a scrape that begins so.
async fn metric(stand: &Stand, series: &str) -> f64 {
    let (_, text) = stand.agent.get("/metrics").await;
    let mut lines = text.as_str().unwrap().lines();
    let number = lines.find_map(|line| line.strip_prefix(series));
    number.unwrap().trim().parse().unwrap()
}

fn body(stand: &Stand, name: &str, stop_after: Option<&str>) -> Value {
    stand.script(
        name,
        LOOP,
        &json!({"on_disconnect": {"stop_after": stop_after}}),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_of_chas_stops_whom_it_is_to_stop_and_its_next_answer_starts_them_again() {
    let bed = Testbed::new();
    let chas = Chas::start(&bed.namespace);
    let mut stand = Stand::with(bed, &[("CHAS_API_URL", &chas.url())]).await;
    let before = stand
        .agent
        .deploy_and_wait(&body(&stand, "goes", None))
        .await;
    stand
        .agent
        .deploy_and_wait(&body(&stand, "stops", Some("10s")))
        .await;
    chas.report("it is reached", |report| report["status"] == "healthy")
        .await;
    let (_, explained) = stand.agent.get("/containers/stops/explain").await;
    assert_eq!(
        explained["on_disconnect"]["in_force"], "10s",
        "{explained:#}"
    );
    assert!(metric(&stand, "chas_link_silence_seconds").await < 5.0);
    // Answers go on for longer than that, and nothing happens.
    tokio::time::sleep(STOP_AFTER + Duration::from_secs(1)).await;
    assert_eq!(shown(&stand, "stops").await["status"], "running");

    chas.set_away(true);
    let began = Instant::now();
    let rests = shows(
        &stand.agent,
        "stops",
        Reason::Disconnected,
        "stop_after (10s)",
    )
    .await;
    let took = began.elapsed();
    println!("stopped {took:?} after the last answer");
    assert!(took > STOP_AFTER - Duration::from_secs(3), "{took:?}");
    assert!(took < STOP_AFTER + Duration::from_secs(10), "{took:?}");
    stand.agent.wait_status("stops", "stopped", SOON).await;
    assert_eq!(rests["spec"]["on_disconnect"]["stop_after"], "10s");
    assert_eq!(stand.pid(&rests), None, "nothing of it runs");
    assert_eq!(stand.pid(&shown(&stand, "goes").await), stand.pid(&before));
    assert!(metric(&stand, "chas_containers_disconnected").await >= 1.0);
    assert!(metric(&stand, "chas_link_silence_seconds").await >= 10.0);
    let (_, health) = stand.agent.get("/health").await;
    assert!(
        health["chas"]["silent_s"].as_u64().unwrap() >= 10,
        "{health:#}"
    );

    // No order starts it, whoever waits is told so, and the death of the agent changes nothing.
    stand
        .agent
        .ask("POST", "/containers/stops/start", None)
        .await;
    let late = stand.script(
        "late",
        LOOP,
        &json!({"after": [{"name": "stops", "condition": "ready"}]}),
    );
    stand.agent.deploy(&late).await;
    shows(
        &stand.agent,
        "late",
        Reason::WaitsFor,
        "is stopped (Disconnected",
    )
    .await;
    let mut labelled = body(&stand, "stops", Some("10s"));
    labelled["labels"] = json!({"team": "a"});
    let path = "/containers/deploy?wait=running";
    let (status, refused) = stand.agent.ask("POST", path, Some(&labelled)).await;
    assert_eq!(
        (status, &refused["code"]),
        (422, &json!("Disconnected")),
        "{refused:#}"
    );
    stand.agent.kill_9();
    stand.agent.start_again().await;
    for _ in 0..20 {
        assert_eq!(shown(&stand, "stops").await["reason"], "Disconnected");
        assert_eq!(stand.pid(&rests), None);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(stand.pid(&shown(&stand, "goes").await), stand.pid(&before));

    // A change of the length counts at once, in both directions.
    stand.agent.deploy(&body(&stand, "stops", Some("1h"))).await;
    stand.agent.wait_status("stops", "running", SOON).await;
    stand.agent.wait_status("late", "running", SOON).await;
    stand
        .agent
        .deploy(&body(&stand, "stops", Some("12s")))
        .await;
    shows(&stand.agent, "stops", Reason::Disconnected, "(12s)").await;
    stand.agent.wait_status("stops", "stopped", SOON).await;

    chas.set_away(false);
    stand
        .agent
        .wait_status("stops", "running", Duration::from_secs(90))
        .await;
    let again = shown(&stand, "stops").await;
    assert_eq!(
        (&again["reason"], &again["restart_count"]),
        (&json!(null), &json!(0))
    );
    chas.report("it is told", |report| {
        let mut containers = report["containers"].as_array().unwrap().iter();
        containers.any(|one| one["name"] == "stops" && one["status"] == "running")
    })
    .await;
    eventually("nobody rests", async || {
        metric(&stand, "chas_containers_disconnected").await == 0.0
    })
    .await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_chas_refuses_what_nobody_could_end() {
    let stand = Stand::new().await;
    let (status, problem) = stand.agent.deploy(&body(&stand, "web", Some("10m"))).await;
    assert_eq!(status, 422, "{problem:#}");
    assert_eq!(problem["errors"][0]["field"], "on_disconnect.stop_after");
    let (status, problem) = stand.agent.deploy(&body(&stand, "web", None)).await;
    assert_eq!(status, 202, "{problem:#}");
    stand.agent.wait_status("web", "running", SOON).await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_forgets_no_silence() {
    let bed = Testbed::new();
    let chas = Chas::start(&bed.namespace);
    let mut disk = Disk::make(&bed);
    let state = disk.mount.join("state").display().to_string();
    let variables = [("CHAS_API_URL", chas.url()), ("CHAS_STATE_DIR", state)];
    let variables: Vec<_> = variables
        .iter()
        .map(|(key, value)| (*key, &**value))
        .collect();
    let mut stand = Stand::with(bed, &variables).await;
    stand
        .agent
        .deploy_and_wait(&body(&stand, "stops", Some("10s")))
        .await;
    chas.set_away(true);
    let rests = shows(&stand.agent, "stops", Reason::Disconnected, "(10s)").await;
    stand.agent.wait_status("stops", "stopped", SOON).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    disk.cut();
    stand.agent.kill_9();
    disk.unmount();
    disk.mount();
    stand.agent.start_again().await;
    for _ in 0..10 {
        shows(&stand.agent, "stops", Reason::Disconnected, "(10s)").await;
        assert_eq!(stand.pid(&rests), None);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    chas.set_away(false);
    stand
        .agent
        .wait_status("stops", "running", Duration::from_secs(90))
        .await;
    stand.agent.delete_and_wait("stops").await;
    stand.agent.kill_9();
    disk.unmount();
    stand.bed.assert_no_container_left();
}
