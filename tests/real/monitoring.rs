//! Rules and dashboards of `contrib/monitoring`: checked by promtool, and asked of a Prometheus that scrapes a node.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs};

use serde_json::{Value, json};

use crate::harness::agent::TOKEN;
use crate::stand::{Stand, eventually};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Questions that a node has no answer to while nothing is wrong with it, or no container did anything of
/// late; no other one may be without.
const MAY_BE_EMPTY: [&str; 8] = [
    "chas:container_cpu_held_back:ratio{instance=\"$instance\",container=~\"$container\"}",
    "chas_alarm{instance=\"$instance\"} == 1",
    "sum by (step, reason) (increase(chas_step_failures_total{instance=\"$instance\"}[15m])) > 0",
    "sum by (code) (increase(chas_api_problems_total{instance=\"$instance\"}[15m])) > 0",
    "chas_alarm == 1",
    "topk(10, increase(chas_container_restarts_total[1h]) > 0)",
    "sum by (instance, by) (increase(chas_rollbacks_total[1h])) > 0",
    "chas_link_pending_prune > 0",
];

/// The directory with prometheus and promtool, unpacked there by the first who asks.
fn programs() -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("prometheus");
    let mut unpack = Command::new(Path::new(ROOT).join("contrib/prometheus"));
    let unpacked = unpack.arg(&directory).output().expect("it is a program");
    let errors = String::from_utf8_lossy(&unpacked.stderr);
    assert!(unpacked.status.success(), "{errors}");
    directory
}

fn promtool(arguments: &[&str], input: &str) {
    let mut command = Command::new(programs().join("promtool"));
    let command = command.current_dir(Path::new(ROOT).join("contrib/monitoring"));
    let piped = command.args(arguments).stdin(Stdio::piped());
    let mut child = piped
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it was unpacked");
    child
        .stdin
        .take()
        .expect("it is piped")
        .write_all(input.as_bytes())
        .expect("it is read");
    let done = child.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "promtool {arguments:?}: {told}");
    // What it only advises it says on standard error.
    assert!(
        done.stderr.is_empty() || arguments[0] != "check",
        "promtool {arguments:?}: {told}"
    );
}

#[test]
fn the_rules_are_valid_and_raise_what_they_should() {
    promtool(&["check", "rules", "rules.yml", "alerts.yml"], "");
    promtool(&["check", "config", "--syntax-only", "prometheus.yml"], "");
    promtool(&["test", "rules", "tests.yml"], "");
}

/// A Prometheus that scrapes one agent each second.
struct Prometheus {
    process: Child,
    address: String,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Prometheus {
    fn start(stand: &Stand) -> Self {
        let dir = stand.bed.dir.join("prometheus");
        fs::create_dir(&dir).expect("it is new");
        let address = format!("127.0.0.1:{}", stand.bed.port());
        fs::write(dir.join("token"), TOKEN).expect("the disk takes it");
        let example = format!("{ROOT}/contrib/monitoring/prometheus.yml");
        let config = fs::read_to_string(example)
            .expect("it is there")
            .replace("15s", "1s")
            .replace("rules.yml, alerts.yml", &rule_files(&dir))
            .replace(
                "/etc/prometheus/chas-token",
                dir.join("token").to_str().expect("a path of the test"),
            )
            .replace("worker-1:9090\", \"worker-2:9090", &stand.agent.address());
        fs::write(dir.join("prometheus.yml"), config).expect("the disk takes it");
        let log = fs::File::create(dir.join("log")).expect("the disk takes it");
        let process = Command::new(programs().join("prometheus"))
            .arg(format!("--config.file={}/prometheus.yml", dir.display()))
            .arg(format!("--storage.tsdb.path={}/data", dir.display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it was unpacked");
        Self { process, address }
    }

    /// What a question is answered; `Null` as long as nobody listens.
    async fn ask(&self, path: &str, question: &str) -> Value {
        let url = format!("http://{}/api/v1/{path}", self.address);
        let url = reqwest::Url::parse_with_params(&url, [("query", question)]).expect("a URL");
        let Ok(answer) = reqwest::get(url).await else {
            return Value::Null;
        };
        answer.json().await.unwrap_or_default()
    }

    async fn query(&self, question: &str) -> Value {
        let answer = self.ask("query", question).await;
        answer["data"]["result"].clone()
    }
}

/// Copies of the rules that are looked at each second, as the node is.
fn rule_files(dir: &Path) -> String {
    let paths = ["rules.yml", "alerts.yml"].map(|file| {
        let rules = fs::read_to_string(format!("{ROOT}/contrib/monitoring/{file}"));
        let path = dir.join(file);
        let rules = rules
            .expect("it is there")
            .replace("interval: 30s", "interval: 1s");
        fs::write(&path, rules).expect("the disk takes it");
        path.display().to_string()
    });
    paths.join(", ")
}

/// A question of a dashboard.
struct Question {
    /// As it stands there.
    written: String,
    /// As it is asked, for one node and all of its containers.
    asked: String,
}

/// The questions of all dashboards.
fn questions(instance: &str) -> Vec<Question> {
    let mut questions = Vec::new();
    for name in ["node", "containers", "fleet"] {
        let path = format!("{ROOT}/contrib/monitoring/dashboards/{name}.json");
        let dashboard: Value =
            serde_json::from_str(&fs::read_to_string(path).expect("it is there")).expect("JSON");
        for panel in dashboard["panels"].as_array().expect("a list") {
            for target in panel["targets"].as_array().expect("a list") {
                let written = target["expr"].as_str().expect("a text").to_owned();
                let asked = written
                    .replace("$instance", instance)
                    .replace("$container", ".*");
                questions.push(Question { written, asked });
            }
        }
    }
    questions
}

/// Waits until there is an answer to each question that a node which is well has one to.
async fn answers_all(prometheus: &Prometheus, questions: &[Question]) {
    for question in MAY_BE_EMPTY {
        let is_there = questions.iter().any(|one| one.written == question);
        assert!(is_there, "no dashboard asks {question}");
    }
    let mut empty = Vec::new();
    for _ in 0..60 {
        empty.clear();
        for Question { written, asked } in questions {
            let answer = prometheus.ask("query", asked).await;
            assert_eq!(answer["status"], "success", "{asked}: {answer}");
            let is_empty = answer["data"]["result"] == json!([]);
            if is_empty && !MAY_BE_EMPTY.contains(&written.as_str()) {
                empty.push(asked);
            }
        }
        if empty.is_empty() {
            return;
        }
        // Rates need two scrapes, and what is recorded of them another one.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    assert!(empty.is_empty(), "nothing is answered to {empty:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_scrapes_a_node_and_its_dashboards_and_alerts_see_it() {
    let stand = Stand::new().await;
    let (_, text) = stand.agent.get("/metrics").await;
    promtool(&["check", "metrics"], text.as_str().unwrap());
    let limits = json!({"resources": {"memory": "64m", "cpu": "0.5"}});
    stand
        .agent
        .deploy_and_wait(&stand.web("web", &limits))
        .await;
    let bad = stand.script("bad", "exit 3", &json!({"restart": {"policy": "never"}}));
    let (status, told) = stand.agent.deploy(&bad).await;
    assert_eq!(status, 202, "{told}");
    let prometheus = Prometheus::start(&stand);
    eventually("the node is scraped", async || {
        prometheus.query("up{job=\"chas\"} == 1").await[0].is_object()
    })
    .await;
    eventually("a container that failed raises an alert", async || {
        let raised = r#"ALERTS{alertname="ChasContainerFailed",container="bad"}"#;
        prometheus.query(raised).await[0].is_object()
    })
    .await;
    answers_all(&prometheus, &questions(&stand.agent.address())).await;
    let rules = format!("http://{}/api/v1/rules", prometheus.address);
    let rules: Value = reqwest::get(rules).await.unwrap().json().await.unwrap();
    let groups = rules["data"]["groups"].as_array().unwrap();
    let faults = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap());
    let faults: Vec<_> = faults.filter(|rule| rule["health"] == "err").collect();
    assert!(groups.len() == 4 && faults.is_empty(), "{faults:?}");
    drop(prometheus);
    stand.end().await;
}
