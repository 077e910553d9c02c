//! Probes of real containers: over the bridge, and by programs in them; what they find, and what they leave.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::image::Image;
use crate::stand::{SOON, Stand, eventually};

pub(crate) mod cost;
mod kills;

/// Deploys, and waits until the container is ready; the status and the answer.
async fn ready(stand: &Stand, body: &Value) -> (u16, Value) {
    let path = "/containers/deploy?wait=ready&timeout=40s";
    stand.agent.ask("POST", path, Some(body)).await
}

/// Runs a program in a container; its exit code.
async fn run_in(stand: &Stand, name: &str, command: &[&str]) -> Value {
    let path = format!("/containers/{name}/exec");
    let body = json!({"command": command});
    let (status, answer) = stand.agent.ask("POST", &path, Some(&body)).await;
    assert_eq!(status, 200, "{answer}");
    answer["exit_code"].clone()
}

/// Waits until a container's health shows `part` in its last answer; its view.
async fn answers(stand: &Stand, name: &str, status: &str, part: &str) -> Value {
    let mut last = Value::Null;
    eventually(&format!("{name} is {status} with {part:?}"), async || {
        last = stand.agent.get(&format!("/containers/{name}")).await.1;
        let answer = last["health"]["answer"].as_str().unwrap_or_default();
        last["status"] == status && answer.contains(part)
    })
    .await;
    last
}

fn http(path: &str) -> Value {
    json!({"http": {"path": path, "port": 80}, "interval": "1s", "retries": 2})
}

/// A body that serves a page as long as it has one.
fn serving(stand: &Stand, name: &str, more: &Value) -> Value {
    let mut more = more.clone();
    more["exposed_ports"] = json!([{"container": 80}]);
    stand.script(name, "httpd -f -p 80 -h /www & wait", &more)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_server_is_ready_while_it_answers_well_and_a_change_of_the_probe_keeps_it() {
    let stand = Stand::new().await;
    let body = serving(&stand, "web", &json!({"health": http("/index.html")}));
    let (status, shown) = ready(&stand, &body).await;
    assert_eq!((status, &shown["ready"]), (200, &json!(true)), "{shown:#}");
    assert_eq!(shown["health"]["status"], "ready", "{shown:#}");
    let pid = stand.pid(&shown).unwrap();
    assert_eq!(
        run_in(&stand, "web", &["mv", "/www/index.html", "/www/x"]).await,
        0
    );
    let shown = answers(&stand, "web", "unhealthy", "HTTP 404").await;
    assert_eq!(
        (
            &shown["reason"],
            &shown["ready"],
            &shown["health"]["status"]
        ),
        (&json!("Unhealthy"), &json!(false), &json!("unhealthy")),
        "{shown:#}"
    );
    let (_, why) = stand.agent.get("/containers/web/explain").await;
    let check = &why["observed"]["health"]["check"];
    assert_eq!(check["http"]["path"], "/index.html", "{why:#}");
    let message = why["message"].as_str().unwrap();
    assert!(message.contains("in a row: HTTP 404"), "{message}");
    let (_, listed) = stand.agent.get("/containers?status=unhealthy").await;
    assert_eq!(listed["containers"][0]["name"], "web");
    let (_, node) = stand.agent.get("/health").await;
    assert_eq!(node["status"], "degraded", "{node:#}");
    assert_eq!(
        run_in(&stand, "web", &["mv", "/www/x", "/www/index.html"]).await,
        0
    );
    answers(&stand, "web", "running", "HTTP 200").await;
    // The same process, asked otherwise.
    let tcp = json!({"health": {"tcp": {"port": 81}, "interval": "1s", "retries": 1}});
    let (status, problem) = ready(&stand, &serving(&stand, "web", &tcp)).await;
    assert_eq!(
        (status, &problem["code"]),
        (422, &json!("Unhealthy")),
        "{problem:#}"
    );
    answers(&stand, "web", "unhealthy", "port 81 refuses").await;
    let tcp = json!({"health": {"tcp": {"port": 80}, "interval": "1s"}});
    let (status, shown) = ready(&stand, &serving(&stand, "web", &tcp)).await;
    assert_eq!(status, 200, "{shown:#}");
    assert_eq!(stand.pid(&shown).unwrap(), pid);
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unhealthy_is_stopped_and_started_again_with_its_reason() {
    let stand = Stand::new().await;
    let health = json!({"exec": {"command": ["cat", "/ok"]}, "interval": "1s", "retries": 2, "on_failure": "restart"});
    let script = "echo fine > /ok; while :; do sleep 0.1; done";
    // It ends well when it is asked to: it has not done its work for that.
    let script = format!("trap 'exit 0' TERM; {script}");
    let mut body = stand.script(
        "a",
        "",
        &json!({"health": health, "restart": {"policy": "on-failure"}}),
    );
    body["command"] = json!(["sh", "-c", script]);
    let (status, shown) = ready(&stand, &body).await;
    assert_eq!(status, 200, "{shown:#}");
    assert_eq!(shown["health"]["answer"], "exit code 0: fine");
    let pid = stand.pid(&shown).unwrap();
    assert_eq!(run_in(&stand, "a", &["rm", "/ok"]).await, 0);
    eventually("it is started again", async || {
        let (_, shown) = stand.agent.get("/containers/a").await;
        shown["restart_count"] == 1 && shown["ready"] == true
    })
    .await;
    let (_, shown) = stand.agent.get("/containers/a").await;
    assert_ne!(stand.pid(&shown).unwrap(), pid);
    let log = stand.agent.log();
    let ended = log.lines().find(|line| line.contains("container exited"));
    let ended = ended.unwrap();
    assert!(ended.contains("reason=Unhealthy"), "{ended}");
    assert!(ended.contains("No such file"), "{ended}");
    let (_, why) = stand.agent.get("/containers/a/explain").await;
    assert_eq!(why["decision"]["inputs"]["exits"], 1, "{why:#}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_hangs_costs_its_time_and_no_other_probe_waits_for_it() {
    let stand = Stand::new().await;
    let silent = json!({"health": {"http": {"port": 80}, "interval": "1s", "timeout": "500ms", "retries": 2}});
    let script = "httpd -f -p 80 -h /www & sleep 0.5; kill -STOP $!; wait";
    for n in 0..4 {
        let body = stand.script(&format!("silent{n}"), script, &silent);
        assert_eq!(stand.agent.deploy(&body).await.0, 202);
    }
    let hung = json!({"health": {"exec": {"command": ["sh", "-c", "echo begun; sleep 1000"]}, "interval": "1s", "timeout": "500ms", "retries": 2}});
    let body = stand.script("hung", "while :; do sleep 0.1; done", &hung);
    assert_eq!(stand.agent.deploy(&body).await.0, 202);
    let (status, shown) = ready(
        &stand,
        &serving(&stand, "web", &json!({"health": http("/")})),
    )
    .await;
    assert_eq!(status, 200, "{shown:#}");
    for n in 0..4 {
        answers(
            &stand,
            &format!("silent{n}"),
            "unhealthy",
            "no answer within 500ms",
        )
        .await;
    }
    let shown = answers(&stand, "hung", "unhealthy", "no answer within 500ms: begun").await;
    assert_eq!(shown["ready"], false);
    // At most the one under way.
    let sleeping = json!({"command": ["sh", "-c", "pgrep -f 'sleep 1000' | wc -l"]});
    for _ in 0..5 {
        let (_, found) = stand
            .agent
            .ask("POST", "/containers/hung/exec", Some(&sleeping))
            .await;
        let count: usize = found["stdout"].as_str().unwrap().trim().parse().unwrap();
        assert!(count <= 4, "{found}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let (_, web) = stand.agent.get("/containers/web").await;
    assert_eq!(web["health"]["stale"], false, "{web:#}");
    let log = stand.agent.log();
    assert!(
        !log.contains("health probe runs"),
        "no event tells of a probe"
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_images_healthcheck_counts_unless_the_body_says_otherwise() {
    let stand = Stand::new().await;
    let second = 1_000_000_000_u64;
    let said = json!({"Test": ["CMD-SHELL", "test -e /ok || { echo none; exit 1; }"], "Interval": second, "Timeout": second, "Retries": 1});
    Image::busybox()
        .config("Healthcheck", said)
        .push(&stand.registry, "checked:1")
        .await;
    let mut body = stand.script("a", "while :; do sleep 0.1; done", &json!({}));
    body["image"] = json!(stand.image("checked:1"));
    let (status, problem) = ready(&stand, &body).await;
    assert_eq!(
        (status, &problem["code"]),
        (422, &json!("Unhealthy")),
        "{problem:#}"
    );
    let shown = answers(&stand, "a", "unhealthy", "exit code 1: none").await;
    assert_eq!(
        (&shown["health"]["from"], &shown["spec"]["health"]),
        (&json!("image"), &json!(null))
    );
    let pid = stand.pid(&shown).unwrap();
    assert_eq!(run_in(&stand, "a", &["touch", "/ok"]).await, 0);
    answers(&stand, "a", "running", "exit code 0").await;
    body["health"] = json!("none");
    let (status, shown) = ready(&stand, &body).await;
    assert_eq!((status, &shown["health"]), (200, &json!(null)), "{shown:#}");
    assert_eq!(run_in(&stand, "a", &["rm", "/ok"]).await, 0);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (_, shown) = stand.agent.get("/containers/a").await;
    assert_eq!(
        (&shown["status"], &shown["ready"]),
        (&json!("running"), &json!(true))
    );
    assert_eq!(stand.pid(&shown).unwrap(), pid);
    // The image has none to switch off, and one that says nonsense harms nobody.
    let odd = json!({"Test": ["HTTP", 7], "Interval": "soon"});
    Image::busybox()
        .config("Healthcheck", odd)
        .push(&stand.registry, "odd:1")
        .await;
    let mut body = stand.script("odd", "while :; do sleep 0.1; done", &json!({}));
    body["image"] = json!(stand.image("odd:1"));
    let (status, shown) = ready(&stand, &body).await;
    assert_eq!((status, &shown["health"]), (200, &json!(null)), "{shown:#}");
    let log = stand.agent.log();
    assert!(log.contains("image's HEALTHCHECK not used"));
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_start_is_no_failure_and_ready_soon_after_it_is_done() {
    let stand = Stand::new().await;
    let health = json!({"http": {"port": 80, "path": "/index.html"}, "interval": "5s", "retries": 1, "start_period": "1m"});
    let script = "sleep 6; httpd -f -p 80 -h /www & wait";
    let body = stand.script("slow", script, &json!({"health": health}));
    let began = tokio::time::Instant::now();
    let (status, shown) = ready(&stand, &body).await;
    assert_eq!(status, 200, "{shown:#}");
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(6) && took < SOON, "{took:?}");
    let log = stand.agent.log();
    assert!(!log.contains("container unhealthy"), "{log}");
    stand.end().await;
}
