//! Updates of what has a probe: the next generation counts once that finds it ready, and not before.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Load, instances, request};
use crate::stand::{Stand, eventually};

/// Page of the generation that has the port.
async fn page(port: u64) -> String {
    let text = request(port).await.unwrap_or_default();
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    body.trim().to_owned()
}

/// The deploy body of the examples, as a web server of this registry that is asked once a second.
fn example(stand: &Stand, version: u64, begins: &str) -> Value {
    let text = include_str!("../../../examples/updates/web.json");
    let mut body: Value = serde_json::from_str(text).unwrap();
    state::spec::parse::deploy(&body).unwrap();
    assert_eq!(body["health"]["http"]["path"], "/ready");
    let server = "httpd -f -p 80 -h /tmp/w & wait";
    let script =
        format!("mkdir -p /tmp/w; echo hello {version} > /tmp/w/index.html; {begins} {server}");
    body["image"] = json!(stand.image("box:1"));
    body["command"] = json!(["sh", "-c", format!("trap 'exit 143' TERM; {script}")]);
    body["exposed_ports"] = json!([{"container": 80}]);
    body["health"]["interval"] = json!("1s");
    body["update"]["min_ready"] = json!("2s");
    body["stop"]["timeout"] = json!("3s");
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_gets_the_port_once_its_probe_finds_it_ready_and_not_before() {
    let stand = Stand::new().await;
    let path = "/containers/deploy?wait=ready&timeout=40s";
    let first = example(&stand, 1, "touch /tmp/w/ready;");
    let (status, shown) = stand.agent.ask("POST", path, Some(&first)).await;
    assert_eq!(status, 200, "{shown}");
    let port = shown["ports"][0]["host"].as_u64().unwrap();
    let load = Load::start(port).await;
    let (status, told) = stand.agent.deploy(&example(&stand, 2, "")).await;
    assert_eq!(status, 202, "{told}");
    let shown = async || stand.agent.get("/containers/web").await.1;
    eventually("the next one is asked, and is not ready", async || {
        let shown = shown().await;
        let answer = shown["health"]["answer"].as_str().unwrap_or_default();
        shown["generation"] == 2 && answer.contains("404")
    })
    .await;
    // Longer than it has to be ready.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let waiting = shown().await;
    assert_eq!(
        (
            &waiting["update"]["stage"],
            &waiting["ready"],
            &waiting["update"]["serves_generation"]
        ),
        (&json!("trying"), &json!(false), &json!(1)),
        "{waiting:#}"
    );
    let (served, there) = (page(port).await, instances(&stand));
    assert_eq!((&*served, there), ("hello 1", 2));
    // The page that it is asked for is put into the one that is tried: its address is known to containerd alone.
    let instance = format!("{}-2", waiting["id"].as_str().unwrap());
    let touch = [
        "tasks",
        "exec",
        "--exec-id",
        "touch",
        &instance,
        "touch",
        "/tmp/w/ready",
    ];
    stand.bed.ctr(&touch);
    let path = "/containers/web?wait=applied&generation=2&timeout=40s";
    let (status, over) = stand.agent.get(path).await;
    assert_eq!((status, &over["ready"]), (200, &json!(true)), "{over:#}");
    eventually("the one before is gone", async || instances(&stand) == 1).await;
    assert_eq!(page(port).await, "hello 2");
    // Until its deadline it may yet be given up.
    assert_eq!(shown().await["update"]["stage"], "switched");
    load.end();
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_its_probe_never_finds_ready_gives_way_at_its_deadline() {
    let stand = Stand::new().await;
    let path = "/containers/deploy?wait=ready&timeout=40s";
    let first = example(&stand, 1, "touch /tmp/w/ready;");
    let (status, shown) = stand.agent.ask("POST", path, Some(&first)).await;
    assert_eq!(status, 200, "{shown}");
    let port = shown["ports"][0]["host"].as_u64().unwrap();
    let load = Load::start(port).await;
    // Ready for less than it has to be, again and again.
    let flaps = "(while :; do touch /tmp/w/ready; sleep 1.4; rm /tmp/w/ready; sleep 2.6; done) &";
    let mut bad = example(&stand, 2, flaps);
    bad["health"]["retries"] = json!(1);
    bad["update"]["deadline"] = json!("9s");
    bad["update"]["min_ready"] = json!("5s");
    let (status, told) = stand.agent.deploy(&bad).await;
    assert_eq!(status, 202, "{told}");
    let is_back = async || {
        let (_, shown) = stand.agent.get("/containers/web").await;
        shown["reason"] == "RolledBack" && shown["update"].is_null()
    };
    eventually("the one before is back", is_back).await;
    let (_, shown) = stand.agent.get("/containers/web").await;
    assert_eq!(
        (&shown["status"], &shown["ready"]),
        (&json!("running"), &json!(true)),
        "{shown:#}"
    );
    let (served, there) = (page(port).await, instances(&stand));
    assert_eq!((&*served, there), ("hello 1", 1));
    load.end();
    stand.end().await;
}
