//! Updates without a gap: the next generation beside the one before, under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::image::Image;
use crate::stand::{Stand, eventually, serves};

mod by_hand;
mod cuts;
mod load;
mod lost;
mod names;
mod offline;
mod ready;
mod rollback;
mod silence;
mod tools;

/// Kills of the agent; all that must be shown takes 50.
fn kills() -> u64 {
    count("CHAS_TEST_UPDATE_KILLS", 6)
}

/// Number in a variable of the environment.
fn count(variable: &str, default: u64) -> u64 {
    let asked = std::env::var_os(variable);
    let asked = asked.and_then(|text| text.to_str()?.parse().ok());
    asked.unwrap_or(default)
}

/// Requests over a connection of their own each, until it is told to stop.
struct Load {
    stopped: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    failed: Arc<std::sync::Mutex<Vec<String>>>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Begins once the port is served: a program without a probe counts before it listens.
    async fn start(port: u64) -> Self {
        let is_served = async || request(port).await.is_ok_and(|text| text.contains("hello"));
        eventually("the port is served", is_served).await;
        let begun = Instant::now();
        let mut load = Self {
            stopped: Arc::default(),
            done: Arc::default(),
            failed: Arc::default(),
            tasks: JoinSet::new(),
        };
        for _ in 0..4 {
            let (stopped, done) = (Arc::clone(&load.stopped), Arc::clone(&load.done));
            let failed = Arc::clone(&load.failed);
            load.tasks.spawn(async move {
                while !stopped.load(Ordering::Relaxed) {
                    let timeout = Duration::from_secs(5);
                    match tokio::time::timeout(timeout, request(port)).await {
                        Ok(Ok(text)) if text.contains("hello") => {
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        other => {
                            let after = begun.elapsed();
                            failed
                                .lock()
                                .unwrap()
                                .push(format!("after {after:?}: {other:?}"));
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
        load
    }

    /// Ends it, and expects that nothing failed. Answers how many requests were answered.
    fn end(self) -> usize {
        self.stopped.store(true, Ordering::Relaxed);
        let failed = self.failed.lock().unwrap();
        let done = self.done.load(Ordering::Relaxed);
        assert!(
            failed.is_empty(),
            "{} of {done} requests failed: {failed:?}",
            failed.len()
        );
        assert!(done > 100, "{done} requests");
        done
    }
}

async fn request(port: u64) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

/// A web server that is updated beside itself; `version` is a variable of it.
fn web(stand: &Stand, version: u64, more: &Value) -> Value {
    let mut all = json!({"environment": {"VERSION": version.to_string()}, "stop": {"signal": "SIGKILL", "timeout": "5s"},
        "update": {"strategy": "start-first", "min_ready": "1s"}});
    all.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    stand.web("web", &all)
}

/// Waits until the update is over, and answers the container.
async fn updated(stand: &Stand, generation: u64) -> Value {
    let path = format!("/containers/web?wait=applied&generation={generation}&timeout=60s");
    let (status, shown) = stand.agent.get(&path).await;
    assert_eq!(status, 200, "{shown}");
    let is_over = async || stand.agent.get("/containers/web").await.1["update"].is_null();
    eventually("it is over", is_over).await;
    shown
}

fn instances(stand: &Stand) -> usize {
    let containers = stand.bed.ctr(&["containers", "ls", "-q"]);
    containers.lines().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_while_generations_change_places() {
    let stand = Stand::new().await;
    let shown = stand
        .agent
        .deploy_and_wait(&web(&stand, 1, &json!({})))
        .await;
    let port = shown["ports"][0]["host"].as_u64().unwrap();
    let load = Load::start(port).await;
    let mut addresses = vec![shown["ip"].clone()];
    for version in 2..=6 {
        let (status, told) = stand.agent.deploy(&web(&stand, version, &json!({}))).await;
        assert_eq!(status, 202, "{told}");
        let shown = updated(&stand, version).await;
        assert_eq!(shown["ports"][0]["host"], port);
        assert_eq!(shown["status"], "running");
        addresses.push(shown["ip"].clone());
        assert_eq!(instances(&stand), 1, "the one before is gone");
    }
    let done = load.end();
    eprintln!("{done} requests, addresses {addresses:?}");
    assert!(addresses.windows(2).all(|pair| pair[0] != pair[1]));
    assert_eq!(addresses[0], addresses[2], "two addresses are enough");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_serves_on_while_the_next_one_cannot_start() {
    let stand = Stand::new().await;
    let shown = stand
        .agent
        .deploy_and_wait(&web(&stand, 1, &json!({})))
        .await;
    let port = shown["ports"][0]["host"].as_u64().unwrap();
    let load = Load::start(port).await;
    for more in [
        json!({"image": stand.image("none:1")}),
        json!({"command": ["/missing"]}),
        json!({"command": ["sh", "-c", "exit 3"]}),
    ] {
        let (status, told) = stand.agent.deploy(&web(&stand, 1, &more)).await;
        assert_eq!(status, 202, "{told}");
        let is_told = async || stand.agent.get("/containers/web").await.1["reason"].is_string();
        eventually("it is told", is_told).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (_, shown) = stand.agent.get("/containers/web").await;
        assert_eq!(shown["status"], "running", "{shown}");
    }
    let (_, told) = stand.agent.deploy(&web(&stand, 2, &json!({}))).await;
    updated(&stand, told["generation"].as_u64().unwrap()).await;
    load.end();
    assert_eq!(instances(&stand), 1);
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_port_that_somebody_takes_meanwhile_moves_no_other() {
    let stand = Stand::new().await;
    let shown = stand
        .agent
        .deploy_and_wait(&web(&stand, 1, &json!({})))
        .await;
    let port = shown["ports"][0]["host"].as_u64().unwrap();
    let load = Load::start(port).await;
    let added = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let address = added.local_addr().unwrap();
    drop(added);
    let ports = json!({"exposed_ports": [{"container": 80, "host": port}, {"container": 81, "host": address.port()}],
        "update": {"strategy": "start-first", "min_ready": "3s"}});
    let (status, told) = stand.agent.deploy(&web(&stand, 2, &ports)).await;
    assert_eq!(status, 202, "{told}");
    let other = std::net::TcpListener::bind(address).unwrap();
    let is_told =
        async || stand.agent.get("/containers/web").await.1["reason"] == json!("PortTaken");
    eventually("it is told", is_told).await;
    let (_, shown) = stand.agent.get("/containers/web").await;
    assert_eq!(shown["status"], "running", "{shown}");
    assert_eq!(shown["applied_generation"], 1, "{shown}");
    assert_eq!(shown["update"]["stage"], "trying", "{shown}");
    drop(other);
    updated(&stand, 2).await;
    load.end();
    assert_eq!(instances(&stand), 1);
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_at_any_instant_of_an_update_goes_on_with_it() {
    let mut stand = Stand::new().await;
    let shown = stand
        .agent
        .deploy_and_wait(&web(&stand, 1, &json!({})))
        .await;
    let port = shown["ports"][0]["host"].as_u64().unwrap();
    let load = Load::start(port).await;
    for round in 0..kills() {
        let (_, told) = stand
            .agent
            .deploy(&web(&stand, 2 + round, &json!({})))
            .await;
        // From before the image is looked for until after the one before is gone.
        let after = Duration::from_millis(round * 4001 % 2600);
        tokio::time::sleep(after).await;
        stand.agent.kill_9();
        stand.agent.start_again().await;
        updated(&stand, told["generation"].as_u64().unwrap()).await;
        assert_eq!(instances(&stand), 1, "killed after {after:?}");
    }
    let done = load.end();
    eprintln!("{done} requests over {} kills", kills());
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_generations_cannot_have_at_once_is_refused() {
    let stand = Stand::new().await;
    Image::web()
        .config("Volumes", json!({"/data": {}}))
        .push(&stand.registry, "data:1")
        .await;
    let image = json!({"image": stand.image("data:1")});
    let shown = stand.agent.deploy_and_wait(&web(&stand, 1, &image)).await;
    stand.agent.deploy(&web(&stand, 2, &image)).await;
    let is_told = async || {
        let (_, shown) = stand.agent.get("/containers/web").await;
        shown["reason"] == "VolumeNotShared" && shown["status"] == "running"
    };
    eventually("it is told", is_told).await;
    assert!(serves(&shown).await);
    let covered =
        json!({"image": stand.image("data:1"), "volumes": [{"tmpfs": "1m", "path": "/data"}]});
    let (_, told) = stand.agent.deploy(&web(&stand, 3, &covered)).await;
    updated(&stand, told["generation"].as_u64().unwrap()).await;
    assert!(serves(&shown).await);
    stand.end().await;
}
