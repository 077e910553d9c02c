//! The link to CHaS on real containers: whatever it answers, and whether it does, nothing that runs is stopped by mistake.

mod guard;
mod takeover;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::Testbed;
use crate::harness::agent::PROGRAM;
use crate::harness::chas::{Answer, Chas};
use crate::stand::{SOON, Stand, eventually};

mod tls;

/// A node of CHaS.
struct Central {
    stand: Stand,
    chas: Chas,
}

impl Central {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    async fn with(variables: &[(&str, &str)]) -> Self {
        let bed = Testbed::new();
        let chas = Chas::start(&bed.namespace);
        let url = chas.url();
        let stand = Stand::with(bed, &[variables, &[("CHAS_API_URL", &url)]].concat()).await;
        Self { stand, chas }
    }

    fn sleeper(&self, name: &str) -> Value {
        self.stand
            .script(name, "while :; do sleep 1; done", &json!({}))
    }

    fn sleepers(&self, names: &[&str]) -> Vec<Value> {
        names.iter().map(|name| self.sleeper(name)).collect()
    }

    /// Lists these, and waits until the node says that it is so.
    async fn list(&self, containers: &[Value]) -> Value {
        let generation = self.chas.list(containers);
        self.applied(generation).await
    }

    async fn applied(&self, generation: u64) -> Value {
        let is = |report: &Value| {
            report["applied_generation"] == generation && report["converged"] == true
        };
        self.chas
            .report(&format!("generation {generation} is applied"), is)
            .await
    }

    /// What runs, by name, with the process that it is.
    async fn running(&self) -> BTreeMap<String, String> {
        let (_, shown) = self.stand.agent.get("/containers?status=running").await;
        let shown = shown["containers"].as_array().unwrap();
        let pid = |view: &Value| {
            (
                view["name"].as_str().unwrap().to_owned(),
                self.stand.pid(view).unwrap_or_default(),
            )
        };
        shown.iter().map(pid).collect()
    }

    async fn end(self) {
        // What CHaS lists would be listed again.
        self.chas
            .answer(Answer::Status("503 No", &[], String::new()));
        self.stand.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_chas_lists_is_run_changed_and_taken_away_and_reported() {
    let central = Central::new().await;
    let report = central.list(&central.sleepers(&["one", "two"])).await;
    let registration = &central.chas.registrations()[0];
    for (field, value) in [
        ("node_id", json!(central.stand.bed.namespace)),
        ("api", json!({"desired_state": 1})),
    ] {
        assert_eq!(registration[field], value, "{registration:#}");
    }
    assert!(
        registration["resources"]["memory_total"]
            .as_str()
            .is_some_and(|size| size.ends_with("GB")),
        "{registration:#}"
    );
    assert_eq!(&central.chas.calls()[..3], ["register", "report", "poll"]);
    let names: Vec<_> = report["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (&c["name"], &c["status"], &c["owner"]))
        .collect();
    assert_eq!(
        names,
        [
            (&json!("one"), &json!("running"), &json!("chas")),
            (&json!("two"), &json!("running"), &json!("chas"))
        ]
    );
    let before = central.running().await;
    // Another spec for one of them restarts that one; the other is left alone.
    let changed = central
        .stand
        .script("two", "while :; do sleep 2; done", &json!({}));
    central.list(&[central.sleeper("one"), changed]).await;
    let after = central.running().await;
    assert!(
        after["one"] == before["one"] && after["two"] != before["two"],
        "{before:?} {after:?}"
    );
    // A process that ends is reported within a second or so, with its reason.
    central.stand.bed.ctr(&[
        "tasks",
        "kill",
        "--signal",
        "SIGKILL",
        &instance(&central, "one").await,
    ]);
    let counted = |report: &Value| report["containers"][0]["restart_count"] == 1;
    central.chas.report("it was started again", counted).await;
    central.list(&[central.sleeper("one")]).await;
    assert_eq!(central.running().await.keys().collect::<Vec<_>>(), ["one"]);
    // What was pushed is not CHaS's, and stays.
    central
        .stand
        .agent
        .deploy_and_wait(&central.sleeper("mine"))
        .await;
    central.list(&[]).await;
    assert_eq!(central.running().await.keys().collect::<Vec<_>>(), ["mine"]);
    let (status, refused) = central.stand.agent.deploy(&json!({"name": "mine"})).await;
    assert_eq!(status, 422, "{refused}");
    central.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_starts_again_reports_nothing_that_is_not_so() {
    let mut central = Central::new().await;
    central.list(&central.sleepers(&["one", "two"])).await;
    for _ in 0..3 {
        let before = central.chas.reports().len();
        central.stand.agent.terminate();
        central.stand.agent.start_again().await;
        eventually("it reports", async || {
            central.chas.reports().len() > before + 1
        })
        .await;
        for report in &central.chas.reports()[before..] {
            assert_eq!(report["status"], "healthy", "{report:#}");
        }
    }
    central.end().await;
}

async fn instance(central: &Central, name: &str) -> String {
    let (_, view) = central
        .stand
        .agent
        .get(&format!("/containers/{name}"))
        .await;
    format!("{}-{}", view["id"].as_str().unwrap(), view["generation"])
}

/// Everything that a server can do wrong, and what the agent counts it as.
fn wrongs(node: &str) -> Vec<(Answer, &'static str)> {
    let status = |status, body: &str| Answer::Status(status, &[], body.to_owned());
    let set = |node: &str, more: Value| {
        let mut set = json!({"schema": 1, "node_id": node, "epoch": "e1", "generation": 1000, "complete": true, "containers": []});
        set.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        status("200 OK", &set.to_string())
    };
    let bad = "bad_desired_state";
    vec![
        (status("200 OK", ""), bad),
        (
            Answer::Bytes(
                b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{\"schema\":1,\"node_id\":"
                    .to_vec(),
            ),
            bad,
        ),
        (status("200 OK", "{\"schema\":1,\"containers\":["), bad),
        (
            status("200 OK", "<html><body>Log in to the network</body></html>"),
            bad,
        ),
        (
            Answer::Status(
                "302 Found",
                &[("Location", "http://127.0.0.1:1/")],
                String::new(),
            ),
            bad,
        ),
        (set("another-node", json!({})), bad),
        (set(node, json!({"complete": false})), bad),
        (set(node, json!({"containers": null})), bad),
        (set(node, json!({"schema": 2})), bad),
        (status("200 OK", &" ".repeat(10_000_000)), bad),
        (set(node, json!({"generation": 1})), "stale_generation"),
        (set(node, json!({"generation": -1})), bad),
        (set(node, json!({"generation": 1.8e19})), bad),
        (set(node, json!({"epoch": ""})), bad),
        (set(node, json!({"containers": vec![0; 10_001]})), bad),
        (status("200 OK", &"[".repeat(100_000)), bad),
        (status("204 No Content", ""), bad),
        (status("206 Partial Content", "{}"), bad),
        (status("500 Broken", "{}"), "away"),
        (
            Answer::Status("503 Busy", &[("Retry-After", "1")], String::new()),
            "away",
        ),
        (
            Answer::Status("429 Slow", &[("Retry-After", "1")], String::new()),
            "away",
        ),
        (status("401 No", ""), "unauthorized"),
        (status("403 No", ""), "unauthorized"),
        (status("404 None", "{\"code\":\"node_unknown\"}"), "unknown"),
        (status("400 What", ""), "refused"),
        (Answer::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), "away"),
        (Answer::Bytes(Vec::new()), "away"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_chas_answers_nothing_stops() {
    let central = Central::new().await;
    central
        .stand
        .agent
        .deploy_and_wait(&central.sleeper("mine"))
        .await;
    let mut listed = central.sleepers(&["a", "b", "c"]);
    central.list(&listed).await;
    let before = central.running().await;
    assert_eq!(before.len(), 4);
    for (number, (answer, counted)) in wrongs(&central.stand.bed.namespace).into_iter().enumerate()
    {
        let line = format!("chas_link_polls_total{{result=\"{counted}\"}} ");
        let count = async || {
            let (_, text) = central.stand.agent.get("/metrics").await;
            let text = text.as_str().unwrap_or_default().to_owned();
            text.lines()
                .find_map(|shown| shown.strip_prefix(&line)?.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let so_far = count().await;
        central.chas.answer(answer.clone());
        eventually(&format!("{answer:?} is counted as {counted}"), async || {
            count().await > so_far
        })
        .await;
        let now = central.running().await;
        assert!(
            before.iter().all(|(name, pid)| now.get(name) == Some(pid)),
            "{answer:?}: {before:?} {now:?}"
        );
        if counted == "bad_desired_state" {
            let told = |report: &Value| {
                report["desired"]["fault"]["code"] == counted && report["desired"]["stale"] == true
            };
            central.chas.report("the fault is told", told).await;
            let (_, health) = central.stand.agent.get("/health").await;
            let alarms = health["alarms"].as_array().expect("a list");
            let named = alarms.iter().any(|alarm| alarm["name"] == "SetRejected");
            assert!(named && health["status"] == "degraded", "{health}");
        }
        // It goes on where it was.
        central.chas.answer(Answer::Set);
        listed[0]["priority"] = json!(number);
        let generation = central.chas.list(&listed);
        central
            .chas
            .report("the next set is taken", |report| {
                report["observed_generation"] == generation
            })
            .await;
    }
    let now = central.running().await;
    assert_eq!(before, now);
    central.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_drips_or_refuses_the_node_is_in_nobodys_way() {
    let central = Central::new().await;
    central.list(&central.sleepers(&["a", "b"])).await;
    let before = central.running().await;
    for (answer, name) in [
        (Answer::Silence, "under-silence"),
        (Answer::Drip, "under-drip"),
    ] {
        central.chas.answer(answer);
        // A report tells the agent of it, so that it asks anew.
        central.chas.list(&central.sleepers(&["a", "b"]));
        eventually("it is asked", async || central.chas.polls() > 0).await;
        central
            .stand
            .agent
            .deploy_and_wait(&central.sleeper(name))
            .await;
        central.stand.agent.delete_and_wait(name).await;
    }
    // A start of the agent with a server that hangs, and one that says that the node is another one.
    let mut central = central;
    central.chas.answer(Answer::Set);
    for (register, word) in [("409 Conflict", true), ("500 Broken", false)] {
        central.stand.agent.kill_9();
        central.chas.register(
            register,
            json!({"code": "identity_conflict", "detail": "worker-1 is elsewhere"}),
        );
        central.chas.list(&[]);
        central.stand.agent.start_again().await;
        central
            .stand
            .agent
            .deploy_and_wait(&central.sleeper("mine"))
            .await;
        eventually("the conflict is told", async || {
            let (_, health) = central.stand.agent.get("/health").await;
            let status = if word { "degraded" } else { "healthy" };
            health["chas"]["identity_conflict"] == word
                && health["status"] == status
                && !health["chas"]["error"].is_null()
        })
        .await;
        let now = central.running().await;
        assert!(
            before.iter().all(|(name, pid)| now.get(name) == Some(pid)),
            "{before:?} {now:?}"
        );
        central.stand.agent.delete_and_wait("mine").await;
    }
    central
        .chas
        .register("200 OK", json!({"poll_after_s": 1, "health_after_s": 1}));
    central
        .chas
        .report("two are left out", |report| {
            report["converged"] == true && report["containers"] == json!([])
        })
        .await;
    central.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cordoned_node_takes_nothing_new_and_one_entry_that_is_wrong_is_told() {
    let central = Central::new().await;
    central.list(&central.sleepers(&["a"])).await;
    central.chas.set("cordon", json!(true));
    let mut wrong = central.sleeper("b");
    wrong["priorty"] = json!(1);
    wrong["resources"] = json!({"memory": "lots"});
    central
        .chas
        .list(&[central.sleeper("a"), wrong, central.sleeper("c")]);
    let waits = |report: &Value| {
        report["containers"][1]["reason"] == "NodeCordoned" && report["cordoned"] == true
    };
    let report = central.chas.report("c waits", waits).await;
    assert_eq!(report["rejected"][0]["name"], "b", "{report:#}");
    let fields: Vec<_> = report["rejected"][0]["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| &error["field"])
        .collect();
    assert_eq!(fields, ["resources.memory", "priorty"]);
    let (status, pushed) = central.stand.agent.deploy(&central.sleeper("d")).await;
    assert_eq!(
        (status, &pushed["reason"]),
        (202, &json!("NodeCordoned")),
        "{pushed}"
    );
    let (status, problem) = central
        .stand
        .agent
        .ask(
            "POST",
            "/containers/deploy?wait=running&timeout=30s",
            Some(&central.sleeper("d")),
        )
        .await;
    assert_eq!(
        (status, &problem["reason"]),
        (422, &json!("NodeCordoned")),
        "{problem}"
    );
    // What is there is kept running.
    central.stand.bed.ctr(&[
        "tasks",
        "kill",
        "--signal",
        "SIGKILL",
        &instance(&central, "a").await,
    ]);
    central
        .chas
        .report("a runs again", |report| {
            report["containers"][0]["restart_count"] == 1
        })
        .await;
    central.stand.agent.wait_status("a", "running", SOON).await;
    assert_eq!(central.running().await.len(), 1);
    central.chas.set("cordon", json!(false));
    for name in ["c", "d"] {
        central.stand.agent.wait_status(name, "running", SOON).await;
    }
    central.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn push_and_pull_of_one_name_end_as_the_rules_have_it() {
    let central = Central::new().await;
    let agent = &central.stand.agent;
    // Pushed first and listed later: it changes hands, and does not restart.
    agent.deploy_and_wait(&central.sleeper("a")).await;
    let before = central.running().await;
    central.list(&central.sleepers(&["a"])).await;
    assert_eq!(central.running().await, before);
    assert_eq!(agent.get("/containers/a").await.1["owner"], "chas");
    let (status, problem) = agent
        .deploy(&central.stand.script("a", "exit 0", &json!({})))
        .await;
    assert_eq!(status, 409, "{problem}");
    // What an operator stops stays so until a newer generation lists it.
    agent.ask("POST", "/containers/a/stop", None).await;
    agent.wait_status("a", "stopped", SOON).await;
    central
        .chas
        .report("it is told", |report| {
            report["containers"][0]["status"] == "stopped"
        })
        .await;
    central.list(&central.sleepers(&["a"])).await;
    agent.wait_status("a", "running", SOON).await;
    // What differs is CHaS's once it was asked after the push, and it is told.
    agent
        .deploy_and_wait(
            &central
                .stand
                .script("b", "while :; do sleep 4; done", &json!({})),
        )
        .await;
    central.chas.list(&central.sleepers(&["a", "b"]));
    let lost = |report: &Value| {
        report["conflicts"][0]["name"] == "b" && report["conflicts"][0]["winner"] == "chas"
    };
    central.chas.report("push lost", lost).await;
    // A deletion is noted until CHaS was told.
    agent.deploy_and_wait(&central.sleeper("c")).await;
    agent.delete_and_wait("c").await;
    central.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_only_server_is_reported_to_and_rarely_asked() {
    let central = Central::new().await;
    central.list(&central.sleepers(&["a"])).await;
    let before = central.running().await;
    central.chas.answer(Answer::Status(
        "404 Not Found",
        &[],
        "no such page".to_owned(),
    ));
    eventually("it is asked", async || central.chas.polls() > 0).await;
    let (polls, calls) = (central.chas.polls(), central.chas.calls().len());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(
        central.chas.polls() == polls && central.chas.calls().len() >= calls + 3,
        "{:?}",
        central.chas.calls()
    );
    assert_eq!(central.running().await, before);
    central.end().await;
}
