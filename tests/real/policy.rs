//! The policy on real containers: it denies push and CHaS by the same rule, and stops nothing that runs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::Testbed;
use crate::harness::agent::PROGRAM;
use crate::harness::chas::{Answer, Chas};
use crate::harness::image::Image;
use crate::stand::{SOON, Stand, eventually};

/// A node with a policy's file, which need not be there.
struct Policed {
    stand: Stand,
    file: PathBuf,
}

fn write(file: &PathBuf, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

impl Policed {
    async fn new(policy: &str, variables: &[(&str, &str)]) -> Self {
        let bed = Testbed::new();
        let file = bed.dir.join("policy.yaml");
        write(&file, policy);
        let path = file.display().to_string();
        let named = [("CHAS_POLICY_FILE", path.as_str())];
        let stand = Stand::with(bed, &[variables, &named].concat()).await;
        Self { stand, file }
    }

    /// Replaces the file, and waits until the agent's alarms are as `is` says.
    async fn becomes(&self, policy: &str, is: impl Fn(&[&str]) -> bool) {
        write(&self.file, policy);
        self.stand.agent.signal(Signal::HUP);
        eventually("the policy is looked at", async || {
            let (_, health) = self.stand.agent.get("/health").await;
            let alarms = health["alarms"].as_array().unwrap();
            let names: Vec<_> = alarms
                .iter()
                .filter_map(|alarm| alarm["name"].as_str())
                .collect();
            is(&names)
        })
        .await;
    }

    async fn deploy(&self, body: &Value) -> (u16, Value) {
        self.stand
            .agent
            .ask("POST", "/containers/deploy", Some(body))
            .await
    }
}

fn small(stand: &Stand, name: &str, memory: &str) -> Value {
    let limit = json!({"resources": {"memory": memory}});
    stand.script(name, "while :; do sleep 1; done", &limit)
}

const SMALL: &str = "rules:\n- {name: small, memory: 64m}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_s_name_is_told_to_push_and_pull() {
    let chas = Chas::start("policed");
    let node = Policed::new(
        SMALL,
        &[("CHAS_API_URL", &chas.url()), ("NODE_ID", "policed")],
    )
    .await;
    let (status, problem) = node.deploy(&small(&node.stand, "big", "65m")).await;
    assert_eq!(
        (status, &problem["code"], &problem["rule"]),
        (403, &json!("PolicyDenied"), &json!("small")),
        "{problem}"
    );
    assert_eq!(problem["errors"][0]["field"], "resources.memory");
    for reserved in ["localhost", "metadata"] {
        let (status, problem) = node.deploy(&small(&node.stand, reserved, "64m")).await;
        assert_eq!(
            (status, &problem["rule"]),
            (403, &json!("reserved-name")),
            "{problem}"
        );
    }
    let listed = ["fits", "big"].map(|name| {
        small(
            &node.stand,
            name,
            if name == "fits" { "64m" } else { "65m" },
        )
    });
    chas.list(&listed);
    let report = chas
        .report("the set is judged", |report| {
            report["rejected"]
                .as_array()
                .is_some_and(|all| all.len() == 1)
        })
        .await;
    let rejected = &report["rejected"][0];
    assert_eq!(rejected["name"], "big", "{rejected}");
    assert!(
        rejected["errors"][0]["message"]
            .as_str()
            .unwrap()
            .contains("\"small\""),
        "{rejected}"
    );
    node.stand.agent.wait_status("fits", "running", SOON).await;
    assert_eq!(node.stand.agent.get("/containers/big").await.0, 404);
    chas.answer(Answer::Status("503 No", &[], String::new()));
    node.stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chas_that_was_taken_over_ends_and_changes_no_more_than_its_budget() {
    let chas = Chas::start("budgeted");
    let policy = "changes_per_hour: 2\n";
    let node = Policed::new(
        policy,
        &[("CHAS_API_URL", &chas.url()), ("NODE_ID", "budgeted")],
    )
    .await;
    let names = ["a", "b", "c", "d", "e"];
    chas.list(&names.map(|name| small(&node.stand, name, "64m")));
    let running = async || {
        let (_, shown) = node.stand.agent.get("/containers?status=running").await;
        let shown = shown["containers"].as_array().unwrap().clone();
        let pids = shown
            .iter()
            .map(|view| (view["name"].clone(), node.stand.pid(view)));
        pids.map(|(name, pid)| (name.as_str().unwrap().to_owned(), pid))
            .collect::<BTreeMap<_, _>>()
    };
    eventually("they run", async || running().await.len() == names.len()).await;
    let before = running().await;
    let waiting = async |count: usize| {
        let is = |report: &Value| {
            let rejected = report["rejected"].as_array().unwrap();
            let waits = |entry: &&Value| {
                entry["errors"][0]["message"]
                    .as_str()
                    .unwrap()
                    .contains("changes-per-hour")
            };
            rejected.iter().filter(waits).count() == count
        };
        chas.report("the rest waits", is).await
    };
    // One other body each: two are changed.
    chas.list(&names.map(|name| {
        let mut body = small(&node.stand, name, "64m");
        body["environment"] = json!({"A": "b"});
        body
    }));
    let report = waiting(3).await;
    assert_eq!(report["converged"], false, "{report}");
    eventually("two are changed", async || {
        let now = running().await;
        now.len() == 5
            && now
                .iter()
                .filter(|(name, pid)| before[*name] != **pid)
                .count()
                == 2
    })
    .await;
    let between = running().await;
    // All of them removed, by name and confirmed: nothing.
    chas.set(
        "remove",
        names.iter().map(|name| json!({"name": name})).collect(),
    );
    let generation = chas.list(&[]);
    chas.set("prune_confirm", json!(generation));
    waiting(5).await;
    assert_eq!(running().await, between);
    chas.answer(Answer::Status("503 No", &[], String::new()));
    node.stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_from_before_the_rule_runs_on() {
    let node = Policed::new("", &[]).await;
    let agent = &node.stand.agent;
    let body = small(&node.stand, "before", "128m");
    assert_eq!(node.deploy(&body).await.0, 202);
    let shown = agent.wait_status("before", "running", SOON).await;
    let pid = node.stand.pid(&shown);
    node.becomes(SMALL, |alarms| alarms.contains(&"PolicyViolated"))
        .await;
    // The same body changes nothing; an order that would stop it is refused.
    assert_eq!(node.deploy(&body).await.0, 200);
    let (status, problem) = agent.ask("POST", "/containers/before/restart", None).await;
    assert_eq!(
        (status, &problem["rule"]),
        (403, &json!("small")),
        "{problem}"
    );
    assert_eq!(node.stand.pid(&shown), pid);
    // It ended: now the rule is about it.
    let killed = Command::new("kill")
        .args(["-9", pid.as_deref().unwrap()])
        .status()
        .unwrap();
    assert!(killed.success());
    eventually("it is denied", async || {
        agent.get("/containers/before").await.1["reason"] == "PolicyDenied"
    })
    .await;
    node.becomes("rules: [", |alarms| alarms.contains(&"PolicyUnusable"))
        .await;
    assert_eq!(
        agent.get("/containers/before").await.1["reason"],
        "PolicyDenied"
    );
    node.becomes("", |alarms| {
        !alarms.iter().any(|alarm| alarm.starts_with("Policy"))
    })
    .await;
    agent
        .wait_status("before", "running", Duration::from_secs(10))
        .await;
    node.stand.end().await;
}

fn check(node: &Policed, body: &Value, more: &[&str]) -> Output {
    let file = node.stand.bed.dir.join("body.json");
    fs::write(&file, body.to_string()).unwrap();
    let mut command = Command::new(PROGRAM);
    command
        .args(["policy", "check"])
        .arg(&file)
        .args(more)
        .env("CHAS_POLICY_FILE", &node.file);
    command.output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_tried_beforehand_is_what_the_agent_does() {
    let node = Policed::new(SMALL, &[]).await;
    for (name, memory, is_allowed) in [
        ("a", "64m", true),
        ("b", "65m", false),
        ("localhost", "64m", false),
    ] {
        let body = small(&node.stand, name, memory);
        let tried = check(&node, &body, &[]);
        assert_eq!(
            tried.status.code(),
            Some(i32::from(!is_allowed)),
            "{tried:?}"
        );
        assert_eq!(
            node.deploy(&body).await.0,
            if is_allowed { 202 } else { 403 }
        );
    }
    // A removal in the middle of an unpack is another matter.
    node.stand.agent.wait_status("a", "running", SOON).await;
    node.stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pushed_set_ends_no_more_than_it_names() {
    let node = Policed::new("", &[]).await;
    let agent = &node.stand.agent;
    let bodies = ["a", "b", "c"].map(|name| small(&node.stand, name, "64m"));
    let put = async |query: &str, containers: &[Value]| {
        let set = json!({"containers": containers});
        agent
            .ask("PUT", &format!("/desired-state{query}"), Some(&set))
            .await
    };
    assert_eq!(put("", &bodies).await.0, 202);
    for name in ["a", "b", "c"] {
        agent.wait_status(name, "running", SOON).await;
    }
    let (status, problem) = put("", &[]).await;
    assert_eq!(
        (status, &problem["code"], &problem["confirm"]),
        (409, &json!("Unconfirmed"), &json!(3)),
        "{problem}"
    );
    assert!(
        problem["detail"].as_str().unwrap().contains("?confirm=3"),
        "{problem}"
    );
    assert_eq!(put("?dry_run=true", &[]).await.1["confirm"], 3);
    assert_eq!(put("?confirm=2", &[]).await.0, 409);
    let (_, shown) = agent.get("/containers?status=running").await;
    assert_eq!(shown["containers"].as_array().unwrap().len(), 3);
    assert_eq!(put("?confirm=3", &[]).await.0, 202);
    node.stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_ended_for_an_image_that_the_policy_will_not_let_start() {
    let node = Policed::new("", &[]).await;
    let agent = &node.stand.agent;
    let image = Image::busybox().config("WorkingDir", json!("/sys"));
    image.push(&node.stand.registry, "workdir:1").await;
    let mut body = small(&node.stand, "w", "64m");
    let before = agent.deploy_and_wait(&body).await;
    let pid = node.stand.pid(&before);
    body["image"] = json!(node.stand.image("workdir:1"));
    assert_eq!(node.deploy(&body).await.0, 202);
    let mut shown = Value::Null;
    eventually("it is denied", async || {
        shown = agent.get("/containers/w").await.1;
        shown.to_string().contains("WORKDIR")
    })
    .await;
    assert_eq!(node.stand.pid(&shown), pid, "what ran runs on: {shown}");
    node.stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_s_own_working_directory_is_judged_before_it_is_started() {
    let node = Policed::new("", &[]).await;
    let agent = &node.stand.agent;
    let image = Image::busybox().config("WorkingDir", json!("/proc/self/fd/7"));
    image.push(&node.stand.registry, "workdir:1").await;
    let body =
        json!({"name": "w", "image": node.stand.image("workdir:1"), "command": ["sleep", "60"]});
    assert_eq!(node.deploy(&body).await.0, 202);
    eventually("it is denied", async || {
        agent.get("/containers/w").await.1["reason"] == "PolicyDenied"
    })
    .await;
    let shown = agent.get("/containers/w").await.1;
    let told = shown["message"].as_str().unwrap_or_default();
    assert!(
        told.contains("working-directory") && told.contains("/proc/self/fd/7"),
        "{shown}"
    );
    node.stand.end().await;
}
