//! The whole agent: containers come, serve, are adopted, restarted, stopped, replaced, and go without a trace.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::Testbed;
use crate::stand::{SOON, Stand, eventually, page, serves};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_serves_survives_the_agent_and_leaves_nothing() {
    let mut stand = Stand::new().await;
    let body = stand.web(
        "web",
        &json!({"resources": {"cpu": "0.5", "memory": "64m"}}),
    );
    let shown = stand.agent.deploy_and_wait(&body).await;
    assert!(serves(&shown).await, "{shown}");
    stand.agent.kill_9();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(serves(&shown).await, "without the agent");
    stand.agent.start_again().await;
    let again = stand.agent.wait_status("web", "running", SOON).await;
    assert_eq!(
        (&again["id"], &again["restart_count"], &again["ports"]),
        (&shown["id"], &json!(0), &shown["ports"])
    );
    let began =
        |shown: &Value| humantime::parse_rfc3339(shown["started"].as_str().unwrap()).unwrap();
    let apart = began(&again)
        .max(began(&shown))
        .duration_since(began(&again).min(began(&shown)))
        .unwrap();
    assert!(
        apart < Duration::from_secs(1),
        "it started when it did, not when the agent was: {again}"
    );
    assert_eq!(
        stand.agent.deploy(&body).await.0,
        200,
        "the same again changes nothing"
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_stops_no_container_and_the_next_start_adopts_them() {
    let mut stand = Stand::new().await;
    let shown = stand
        .agent
        .deploy_and_wait(&stand.web("web", &json!({})))
        .await;
    let before = stand.pid(&shown);
    assert!(before.is_some());
    stand.agent.terminate();
    assert!(serves(&shown).await, "while the agent is down");
    stand.agent.start_again().await;
    stand.agent.wait_status("web", "running", SOON).await;
    assert_eq!(stand.pid(&shown), before);
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_start_and_restart_keep_address_and_port() {
    let mut stand = Stand::new().await;
    let shown = stand
        .agent
        .deploy_and_wait(&stand.web("web", &json!({})))
        .await;
    stand.agent.ask("POST", "/containers/web/stop", None).await;
    let stopped = stand.agent.wait_status("web", "stopped", SOON).await;
    assert_eq!(stopped["reason"], "StopRequested");
    stand.agent.terminate();
    stand.agent.start_again().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        stand.agent.get("/containers/web").await.1["status"],
        "stopped",
        "a stop outlives the agent"
    );
    stand.agent.ask("POST", "/containers/web/start", None).await;
    let started = stand.agent.wait_status("web", "running", SOON).await;
    assert!(serves(&started).await);
    let before = stand.pid(&shown);
    assert!(before.is_some());
    stand
        .agent
        .ask("POST", "/containers/web/restart", None)
        .await;
    let deadline = Instant::now() + SOON;
    while stand.pid(&shown).is_none_or(|now| Some(now) == before) {
        assert!(Instant::now() < deadline, "it is not restarted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let again = stand.agent.wait_status("web", "running", SOON).await;
    assert!(serves(&again).await);
    assert_eq!(
        (&again["ip"], &again["ports"], &again["restart_count"]),
        (&shown["ip"], &shown["ports"], &json!(0))
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_replaces_the_container_and_keeps_its_place() {
    let stand = Stand::new().await;
    let shown = stand
        .agent
        .deploy_and_wait(&stand.web("web", &json!({})))
        .await;
    let changed = stand.web("web", &json!({"environment": {"A": "1"}}));
    let (status, again) = stand
        .agent
        .ask(
            "POST",
            "/containers/deploy?wait=running&timeout=40s",
            Some(&changed),
        )
        .await;
    assert_eq!((status, &again["generation"]), (200, &json!(2)), "{again}");
    assert_eq!(
        (&again["id"], &again["ip"], &again["ports"]),
        (&shown["id"], &shown["ip"], &shown["ports"])
    );
    eventually("it serves", async || serves(&again).await).await;
    assert_eq!(
        stand.bed.ctr(&["containers", "ls", "-q"]).lines().count(),
        1
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_container_is_back_at_once_and_then_waits_ever_longer() {
    let stand = Stand::new().await;
    stand
        .agent
        .deploy(&stand.script("loop", "echo up; exit 3", &json!({})))
        .await;
    let deadline = Instant::now() + SOON;
    let times = loop {
        let log = stand.agent.logs("loop", "tail=all&timestamps=true").await;
        let times: Vec<_> = log
            .lines()
            .filter_map(|line| humantime::parse_rfc3339(line.split_whitespace().next()?).ok())
            .collect();
        if times.len() >= 5 {
            break times;
        }
        assert!(Instant::now() < deadline, "{log}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let waits: Vec<_> = times
        .windows(2)
        .map(|pair| pair[1].duration_since(pair[0]).unwrap())
        .collect();
    // Half of each wait is certain: 0, then from 0.5, 1 and 2 s on; each start itself takes some 150 ms more.
    assert!(waits[0] < Duration::from_millis(600), "{waits:?}");
    assert!(
        waits[1] > Duration::from_millis(500)
            && waits[2] > Duration::from_secs(1)
            && waits[3] > Duration::from_secs(2),
        "{waits:?}"
    );
    // A line is in the log before the start that printed it is known.
    eventually("the restarts are counted", async || {
        let (_, shown) = stand.agent.get("/containers/loop").await;
        shown["restart_count"].as_u64() >= Some(4)
    })
    .await;
    let shown = stand.agent.wait_status("loop", "restarting", SOON).await;
    assert_eq!(shown["exit_code"], 3, "{shown}");
    assert!(shown["next_attempt"].is_string(), "{shown}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_of_a_deploy_the_agent_converges_to_one_container() {
    let mut stand = Stand::new().await;
    for (n, after_ms) in [0, 5, 12, 20, 35, 55, 80, 110, 150, 220]
        .into_iter()
        .enumerate()
    {
        let name = format!("web{n}");
        let (status, _) = stand.agent.deploy(&stand.web(&name, &json!({}))).await;
        assert_eq!(status, 202);
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        stand.agent.kill_9();
        stand.agent.start_again().await;
        let shown = stand.agent.wait_status(&name, "running", SOON).await;
        assert!(serves(&shown).await, "killed after {after_ms} ms: {shown}");
        let id = shown["id"].as_str().unwrap();
        let count = |listing: String| {
            listing
                .lines()
                .filter(|line| line.trim_start().starts_with(id))
                .count()
        };
        assert_eq!(
            count(stand.bed.ctr(&["containers", "ls", "-q"])),
            1,
            "killed after {after_ms} ms"
        );
        assert_eq!(
            count(stand.bed.ctr(&["tasks", "ls", "-q"])),
            1,
            "killed after {after_ms} ms"
        );
        assert_eq!(
            count(stand.bed.ctr(&["snapshots", "ls"])),
            1,
            "killed after {after_ms} ms"
        );
    }
    let (_, all) = stand.agent.get("/containers").await;
    let ips: std::collections::BTreeSet<_> = all["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["ip"].to_string())
        .collect();
    assert_eq!(ips.len(), 10, "one address each");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_creates_and_then_asked_to_remove_the_agent_leaves_no_shim() {
    let mut stand = Stand::new().await;
    // The image is there from now on, so that a kill meets the creation.
    stand
        .agent
        .deploy_and_wait(&stand.web("first", &json!({})))
        .await;
    for (n, after_ms) in [30, 45, 60, 75, 90, 105].into_iter().enumerate() {
        let name = format!("web{n}");
        stand.agent.deploy(&stand.web(&name, &json!({}))).await;
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        // Asked for while the creation is under way, so that the next start finds it to be removed and nothing else.
        stand
            .agent
            .ask("DELETE", &format!("/containers/{name}"), None)
            .await;
        stand.agent.kill_9();
        // The creation that was cut off comes to its end without anybody who waits for it.
        tokio::time::sleep(Duration::from_millis(300)).await;
        stand.agent.start_again().await;
        stand.agent.delete_and_wait_if_there(&name).await;
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_killed_and_started_again_restarts_nothing_and_is_followed() {
    let stand = Stand::on(Testbed::with_private_containerd()).await;
    let shown = stand
        .agent
        .deploy_and_wait(&stand.web("web", &json!({})))
        .await;
    let before = stand.pid(&shown);
    assert!(before.is_some());
    stand.bed.containerd.kill_9();
    let deadline = Instant::now() + SOON;
    while stand.agent.get("/health").await.1["containerd"]["reachable"] != json!(false) {
        assert!(Instant::now() < deadline, "the agent does not notice");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (status, body) = stand.agent.deploy(&stand.web("later", &json!({}))).await;
    assert_eq!(status, 202, "what is asked meanwhile is stored: {body}");
    assert_eq!(
        (&body["status"], &body["reason"]),
        (&json!("pending"), &json!("RuntimeUnavailable")),
        "{body}"
    );
    let (_, explained) = stand.agent.get("/containers/later/explain").await;
    let text = |field: &str| explained[field].as_str().unwrap().to_owned();
    assert!(
        text("unblock").contains("systemctl status containerd"),
        "{explained}"
    );
    let (blocked, socket) = (text("blocked"), stand.bed.containerd.socket());
    assert!(blocked.contains(socket.to_str().unwrap()), "{blocked}");
    assert!(blocked.contains("Since "), "{blocked}");
    assert!(serves(&shown).await);
    stand.bed.containerd.start();
    let started = Instant::now();
    while stand.agent.get("/health").await.1["containerd"]["reachable"] != json!(true) {
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "the agent follows within 2 s"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stand.agent.wait_status("later", "running", SOON).await;
    assert_eq!(stand.pid(&shown), before);
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containerd_that_is_away_at_start_is_waited_for_while_the_api_serves() {
    let bed = Testbed::with_private_containerd();
    bed.containerd.stop();
    let stand = Stand::on(bed).await;
    assert_eq!(stand.agent.get("/readyz").await.0, 503);
    // Only once it was asked, which waits for the network.
    eventually("the node is unhealthy", async || {
        let (status, health) = stand.agent.get("/health").await;
        let error = &health["containerd"]["error"];
        (status, &health["status"]) == (200, &json!("unhealthy")) && error.is_string()
    })
    .await;
    stand.agent.deploy(&stand.web("web", &json!({}))).await;
    stand.bed.containerd.start();
    stand.agent.wait_status("web", "running", SOON).await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_at_once_all_run() {
    let stand = Stand::new().await;
    let bodies: Vec<_> = (0..30)
        .map(|n| stand.web(&format!("web{n}"), &json!({})))
        .collect();
    let answers =
        futures_util::future::join_all(bodies.iter().map(|body| stand.agent.deploy(body))).await;
    assert!(answers.iter().all(|(status, _)| *status == 202));
    for n in 0..30 {
        let shown = stand
            .agent
            .wait_status(&format!("web{n}"), "running", Duration::from_secs(90))
            .await;
        assert!(
            page(&shown)
                .await
                .is_some_and(|page| page.contains("hello")),
            "{shown}"
        );
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_is_listed_and_never_touched() {
    let stand = Stand::new().await;
    stand
        .agent
        .deploy_and_wait(&stand.web("web", &json!({})))
        .await;
    let image = stand.image("web:1");
    stand.bed.ctr(&[
        "run",
        "-d",
        "--net-host",
        &image,
        "stranger",
        "sleep",
        "1000",
    ]);
    stand.agent.delete_and_wait("web").await;
    let deadline = Instant::now() + SOON;
    loop {
        let (_, all) = stand.agent.get("/containers").await;
        let shown = all["containers"].as_array().unwrap();
        if shown.len() == 1 && shown[0]["owner"] == "unmanaged" && shown[0]["id"] == "stranger" {
            break;
        }
        assert!(Instant::now() < deadline, "{all}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(stand.bed.ctr(&["tasks", "ls"]).contains("RUNNING"));
    stand
        .bed
        .ctr(&["tasks", "kill", "-s", "SIGKILL", "stranger"]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    stand.bed.ctr(&["tasks", "delete", "stranger"]);
    stand.bed.ctr(&["containers", "delete", "stranger"]);
    stand.bed.assert_no_container_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fix_that_is_waited_for_is_not_blamed_for_what_it_fixes() {
    let stand = Stand::new().await;
    let broken = stand.script("app", "exit 3", &json!({}));
    let (status, problem) = stand
        .agent
        .ask(
            "POST",
            "/containers/deploy?wait=running&timeout=40s",
            Some(&broken),
        )
        .await;
    // It may be caught in the moment in which it ran.
    assert!(
        status == 200 || problem["reason"] == "Exited",
        "{status} {problem}"
    );
    stand.agent.wait_status("app", "restarting", SOON).await;
    let fixed = stand.script("app", "while :; do sleep 1; done", &json!({}));
    let (status, view) = stand
        .agent
        .ask(
            "POST",
            "/containers/deploy?wait=running&timeout=40s",
            Some(&fixed),
        )
        .await;
    assert_eq!(
        (status, &view["generation"], &view["restart_count"]),
        (200, &json!(2), &json!(0)),
        "{view}"
    );
    stand.end().await;
}
