//! What callers ask of one agent, and what they and its log are told: names, waits, ends, ports, signals, and many at once.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::stand::{SOON, Stand, eventually};

const LOOP: &str = "while :; do sleep 1; done";

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_delete_takes_nobody_whose_id_only_begins_so() {
    let stand = Stand::new().await;
    let kept = stand
        .agent
        .deploy_and_wait(&stand.script("keep-me", LOOP, &json!({})))
        .await;
    let id = kept["id"].as_str().unwrap();
    // As a name it is a container's; as the beginning of an id, another one's.
    let name = &id[..6];
    stand
        .agent
        .deploy_and_wait(&stand.script(name, LOOP, &json!({})))
        .await;
    let delete = format!("/containers/{name}?wait=removed");
    let (status, gone) = stand.agent.ask("DELETE", &delete, None).await;
    assert_eq!(status, 200, "{gone}");
    for (method, call) in [("DELETE", ""), ("POST", "/stop"), ("POST", "/restart")] {
        let path = format!("/containers/{name}{call}");
        let (status, refused) = stand.agent.ask(method, &path, None).await;
        assert_eq!(status, 404, "{refused}");
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains("keep-me"), "{detail}");
    }
    let (status, read) = stand.agent.get(&format!("/containers/{name}")).await;
    assert_eq!((status, &read["status"]), (200, &json!("running")));
    assert_eq!(stand.pid(&read), stand.pid(&kept));
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_does_its_work_answers_the_same_each_time_and_each_end_is_in_the_log() {
    let stand = Stand::new().await;
    for policy in ["never", "on-failure"] {
        for number in 0..5 {
            let name = format!("{policy}-{number}");
            let more = json!({"command": ["true"], "restart": {"policy": policy}});
            let body = stand.script(&name, "", &more);
            let path = "/containers/deploy?wait=running";
            let (status, shown) = stand.agent.ask("POST", path, Some(&body)).await;
            assert_eq!(status, 200, "{name}: {shown}");
            let shown = stand.agent.wait_status(&name, "stopped", SOON).await;
            assert_eq!(shown["reason"], "Completed", "{shown}");
        }
    }
    let more = json!({"restart": {"policy": "on-failure", "max_retries": 1}});
    stand
        .agent
        .deploy(&stand.script("quits", "exit 78", &more))
        .await;
    stand.agent.wait_status("quits", "failed", SOON).await;
    let more = json!({"stop": {"signal": "SIGKILL"}});
    let removed = stand.script("removed", "sleep 1000 & wait", &more);
    stand.agent.deploy_and_wait(&removed).await;
    stand.agent.delete_and_wait("removed").await;
    let log = stand.agent.log();
    let ends = |name: &str| {
        let lines = log.lines();
        lines
            .filter(|line| line.contains("container exited") && line.contains(name))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let quits = ends("quits");
    assert_eq!(quits.len(), 2, "{quits:#?}");
    assert!(quits.iter().all(|line| line.contains("exit_code=78")));
    assert_eq!(ends("never-0").len(), 1);
    let removed = ends("removed");
    assert!(
        removed.len() == 1 && removed[0].contains("exit_code=137"),
        "{removed:#?}"
    );
    let (_, health) = stand.agent.get("/health").await;
    let named = &health["unsettled_containers"];
    assert_eq!(named[0]["name"], "quits", "{health:#}");
    let errors = health["errors"].as_array().unwrap();
    assert!(
        errors
            .iter()
            .any(|error| error["message"].as_str().unwrap().starts_with("quits: ")),
        "{errors:#?}"
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_keeps_how_it_ended_and_a_start_waits_for_nothing() {
    let stand = Stand::new().await;
    stand
        .agent
        .deploy_and_wait(&stand.script("web", LOOP, &json!({})))
        .await;
    stand.agent.ask("POST", "/containers/web/stop", None).await;
    let shown = stand.agent.wait_status("web", "stopped", SOON).await;
    assert_eq!(shown["exit_code"], 143, "{shown}");
    let time = |field: &str| {
        let text = shown[field].as_str().unwrap_or_else(|| panic!("{shown}"));
        humantime::parse_rfc3339(text).unwrap()
    };
    assert!(time("started") < time("finished"), "{shown}");
    let looping = stand.script("loops", "exit 1", &json!({}));
    stand.agent.deploy(&looping).await;
    let restarts = async || {
        let (_, shown) = stand.agent.get("/containers/loops").await;
        shown["restart_count"].as_u64().unwrap()
    };
    eventually("it waits for long", async || restarts().await >= 4).await;
    stand.agent.wait_status("loops", "restarting", SOON).await;
    let (before, began) = (restarts().await, Instant::now());
    stand
        .agent
        .ask("POST", "/containers/loops/start", None)
        .await;
    eventually("it is started", async || restarts().await > before).await;
    assert!(began.elapsed() < Duration::from_secs(3));
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_container_port_answers_on_several_host_ports() {
    let stand = Stand::new().await;
    let ports =
        json!({"exposed_ports": [{"container": 80}, {"container": 80, "host_ip": "127.0.0.1"}]});
    let shown = stand.agent.deploy_and_wait(&stand.web("web", &ports)).await;
    let hosts: Vec<_> = shown["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| port["host"].as_u64().unwrap())
        .collect();
    assert!(hosts.len() == 2 && hosts[0] != hosts[1], "{shown}");
    for host in hosts {
        let page = crate::stand::page(&json!({"ports": [{"host": host}]})).await;
        assert!(page.is_some_and(|page| page.contains("hello")), "{host}");
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_clients_keep_nobody_out_and_a_signal_ends_nothing() {
    let stand = Stand::new().await;
    let address = stand.agent.address();
    let mut silent = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        if number % 2 == 0 {
            stream
                .write_all(b"GET /livez HTTP/1.1\r\nX: ")
                .await
                .unwrap();
        }
        silent.push(stream);
    }
    for signal in [Signal::USR1, Signal::USR2, Signal::HUP] {
        stand.agent.signal(signal);
    }
    let began = Instant::now();
    // A connection that its client kept open may be closed for them just now; he takes another one.
    eventually("it answers", async || {
        let answer = stand.agent.call("GET", "/livez", None).await;
        answer.is_some_and(|(status, _)| status == 200)
    })
    .await;
    let body = stand.script("web", LOOP, &json!({"state": "stopped"}));
    let (status, shown): (u16, Value) = stand.agent.deploy(&body).await;
    assert_eq!(status, 202, "{shown}");
    assert!(began.elapsed() < Duration::from_secs(3));
    eventually("the signals are told", async || {
        let log = stand.agent.log();
        ["SIGUSR1", "SIGUSR2", "configuration reloaded"]
            .iter()
            .all(|told| log.contains(told))
    })
    .await;
    drop(silent);
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_may_be_waited_for() {
    let stand = Stand::new().await;
    let body = stand.script("a", "sleep 1000 & wait", &json!({}));
    let shown = stand.agent.deploy_and_wait(&body).await;
    let pids = [stand.pid(&shown), None, None];
    let mut pids = pids.map(|pid| pid.unwrap_or_default());
    for (number, call, status) in [
        (1, "restart?wait=running", "running"),
        (2, "stop?wait=stopped", "stopped"),
        (2, "start?wait=running", "running"),
    ] {
        let path = format!("/containers/a/{call}&timeout=30s");
        let (code, shown) = stand.agent.ask("POST", &path, None).await;
        assert_eq!((code, &shown["status"]), (200, &json!(status)), "{shown}");
        pids[number] = stand.pid(&shown).unwrap_or_default();
        assert_eq!(pids[number].is_empty(), status == "stopped", "{call}");
        assert!(!pids[..number].contains(&pids[number]), "{call}: {pids:?}");
    }
    stand.end().await;
}
