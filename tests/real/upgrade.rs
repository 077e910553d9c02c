//! An upgrade of the agent disturbs nothing: what version 0.1.0 started, stored and was listed runs on under this one.

pub(crate) mod previous;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::PROGRAM;
use crate::harness::chas::{Answer, Chas};
use crate::harness::{Testbed, run};
use crate::loggers::{kill, loggers};
use crate::stand::{SOON, Stand, eventually, serves};

/// Alarms of what a node from before keeps open, and of the host's own runc and containerd.
const EARLIER: [&str; 5] = [
    "HostOpenToContainers",
    "RoutesBetweenNetworks",
    "PasswordsToAnyHost",
    "ApiInTheClear",
    "RuntimeOutdated",
];

const DEPLOY: &str = "/containers/deploy";
const KEY: (&str, &str) = ("Idempotency-Key", "asked-of-the-version-before");

/// What of a container's view no upgrade may change.
const KEPT: [&str; 15] = [
    "id",
    "owner",
    "generation",
    "applied_generation",
    "revision",
    "image_digest",
    "created",
    "ip",
    "ports",
    "labels",
    "spec",
    "spec_hash",
    "status",
    "reason",
    "restart_count",
];

type Members = BTreeMap<&'static str, Value>;
type Kept = BTreeMap<String, Members>;

/// A node that an earlier version set up.
struct Node {
    stand: Stand,
    chas: Chas,
    /// Where the agent is installed.
    program: PathBuf,
    /// The bodies that were pushed.
    pushed: Vec<Value>,
    /// The bodies that CHaS lists.
    listed: Vec<Value>,
    generation: u64,
}

/// Every field of the deploy body, each with another value than its default.
fn everything(stand: &Stand) -> Value {
    let (tcp, udp) = (stand.bed.port(), stand.bed.port());
    json!({
        "name": "everything", "image": stand.image("web:1"), "image_pull": "always",
        "exposed_ports": [
            {"container": 80, "host": tcp, "host_ip": "127.0.0.1"},
            {"container": 53, "protocol": "udp", "host": udp}, {"container": 81},
        ],
        "resources": {"cpu": "0.5", "memory": "64m", "pids": 50},
        "environment": {"PASSWORD": "a=secret", "EMPTY": ""},
        "command": ["httpd"], "args": ["-f", "-p", "80", "-h", "/www"], "working_dir": "/www", "user": "web",
        "labels": {"team": "web", "note": "ü".repeat(500), "more": "ü".repeat(500), "much": "ü".repeat(500)},
        "priority": 90, "revision": 7, "restart": {"policy": "on-failure", "max_retries": 3},
        "stop": {"signal": "SIGKILL", "timeout": "1s"},
        "security": {"read_only_rootfs": true, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}},
        "logs": {"max_size": "1m", "max_files": 2},
    })
}

/// A body that prints a number every second.
fn counting(stand: &Stand, name: &str) -> Value {
    let script = "n=0; while :; do echo \"tick $n.\"; n=$((n + 1)); sleep 1; done";
    stand.script(name, script, &json!({}))
}

/// Puts a program at `path`, in one step, as a package manager does.
fn install(program: &Path, path: &Path) {
    let new = path.with_extension("new");
    std::fs::copy(program, &new).expect("cargo built it");
    std::fs::rename(new, path).expect("it is in the test's own directory");
}

impl Node {
    /// Version 0.1.0 with all that is to be kept, settled.
    async fn of_version_0_1_0() -> Self {
        let bed = Testbed::new();
        let chas = Chas::start(&bed.namespace);
        let (url, program) = (chas.url(), bed.dir.join("chas-node-agent"));
        install(previous::program(), &program);
        let stand = Stand::of(bed, &program, &[("CHAS_API_URL", &url)]).await;
        let pushed = vec![
            json!({"name": "plain", "image": stand.image("web:1")}),
            everything(&stand),
            counting(&stand, "counting"),
        ];
        let listed = vec![
            counting(&stand, "listed-one"),
            stand.web("listed-two", &json!({"priority": 10})),
        ];
        let generation = chas.list(&listed);
        let node = Self {
            stand,
            chas,
            program,
            pushed,
            listed,
            generation,
        };
        let (status, _, first) = node.deploy_with_key().await;
        assert_eq!(status, 202, "{first}");
        for body in &node.pushed {
            node.stand.agent.deploy_and_wait(body).await;
        }
        node.restart_of("listed-one").await;
        node.stand.printed("counting", "tick 1.").await;
        node.settled().await;
        // What is remembered reaches the disk within half a second, and the copies a moment after a change.
        tokio::time::sleep(Duration::from_millis(800)).await;
        node
    }

    async fn deploy_with_key(&self) -> (u16, String, Value) {
        let agent = &self.stand.agent;
        agent
            .ask_with("POST", DEPLOY, &[KEY], Some(&self.pushed[0]))
            .await
    }

    /// Lets a container be restarted once.
    async fn restart_of(&self, name: &str) {
        let shown = self.stand.agent.wait_status(name, "running", SOON).await;
        let instance = format!("{}-{}", shown["id"].as_str().unwrap(), shown["generation"]);
        self.stand
            .bed
            .ctr(&["tasks", "kill", "--signal", "SIGKILL", &instance]);
        eventually("it was started again", async || {
            let (_, shown) = self.stand.agent.get(&format!("/containers/{name}")).await;
            (&shown["restart_count"], &shown["status"]) == (&json!(1), &json!("running"))
        })
        .await;
    }

    /// Stops one of them.
    async fn stop(&mut self) {
        let mut body = counting(&self.stand, "stopped");
        self.stand.agent.deploy_and_wait(&body).await;
        body["state"] = json!("stopped");
        self.stand.agent.deploy(&body).await;
        self.pushed.push(body);
        self.stand
            .agent
            .wait_status("stopped", "stopped", SOON)
            .await;
        self.settled().await;
    }

    /// Waits until the agent has nothing left to do and CHaS's set is in force, as it says itself.
    async fn settled(&self) {
        let agent = &self.stand.agent;
        eventually("nothing is left to do", async || {
            let ((_, plan), (_, health)) = (agent.get("/plan").await, agent.get("/health").await);
            let chas = &health["chas"];
            let is_taken = chas["generation"] == self.generation && chas["containers"] == 2;
            plan["settled"] == true
                && plan["blocked"].is_null()
                && (is_taken && chas["registered"] == true && chas["desired"]["stale"] == false)
        })
        .await;
    }

    /// Puts this version in the place of the other, which has ended, and starts it.
    async fn upgrade(&mut self) {
        install(Path::new(PROGRAM), &self.program);
        self.stand.agent.start_again().await;
        eventually("it is registered", async || {
            self.chas.registrations().len() == 2
        })
        .await;
        self.settled().await;
    }

    /// Every container by name, with what no upgrade may change.
    async fn kept(&self) -> Kept {
        let instances = self.stand.bed.ctr(&["containers", "ls", "-q"]);
        let mut kept = Kept::new();
        for body in self.pushed.iter().chain(&self.listed) {
            let name = body["name"].as_str().unwrap();
            let (_, shown) = revealed(&self.stand, &format!("/containers/{name}")).await;
            let id = shown["id"].as_str().unwrap_or_else(|| panic!("{shown}"));
            let instance = instances.lines().filter(|line| line.starts_with(id));
            let mut members: Members = KEPT
                .iter()
                .map(|&member| (member, shown[member].clone()))
                .collect();
            if let Some(spec) = members.get_mut("spec") {
                drop_new_members(spec);
            }
            members.insert("pid", json!(self.stand.pid(&shown)));
            members.insert("instances", instance.collect());
            kept.insert(name.to_owned(), members);
        }
        kept
    }

    /// Expects that every container is as it was.
    async fn assert_kept(&self, before: &Kept, when: &str) {
        let now = self.kept().await;
        let members = before
            .iter()
            .flat_map(|(name, members)| members.iter().map(move |member| (name, member)));
        let changed: Vec<_> = members
            .filter(|(name, (member, value))| now[*name][*member] != **value)
            .map(|(name, (member, value))| {
                format!("{name}: {member}: {value} is now {}", now[name][member])
            })
            .collect();
        assert!(changed.is_empty(), "{when}: {changed:#?}");
    }

    /// Asks for everything again, in every way, and expects each time that all is as it was.
    async fn assert_undisturbed(&mut self, before: &Kept) {
        self.assert_kept(before, "after the start").await;
        for body in self.pushed.iter().chain(&self.listed) {
            let (status, shown) = self.stand.agent.deploy(body).await;
            assert_eq!(status, 200, "{body} is what is there: {shown}");
        }
        self.assert_kept(before, "the same bodies again").await;
        // The same generation, whole, as if its ETag were not known.
        let set = json!({"schema": 1, "node_id": self.stand.bed.namespace, "epoch": "e1", "generation": self.generation,
            "complete": true, "poll_after_s": 1, "containers": self.listed});
        let again = Answer::Status("200 OK", &[], set.to_string());
        self.chas.answer(again);
        eventually("it is asked", async || self.chas.polls() > 2).await;
        self.settled().await;
        self.assert_kept(before, "the same generation again").await;
        self.chas.answer(Answer::Set);
        self.generation = self.chas.list(&self.listed);
        let generation = self.generation;
        let is_applied = |report: &Value| {
            report["applied_generation"] == generation && report["converged"] == true
        };
        let report = self.chas.report("the next set is applied", is_applied);
        let report = report.await;
        for member in ["pending_prune", "conflicts", "rejected"] {
            let value = &report[member];
            let is_empty = value.is_null() || *value == json!([]);
            assert!(is_empty, "{member}: {report:#}");
        }
        self.settled().await;
        self.assert_kept(before, "the next generation").await;
        // Their logs go on where they were.
        let text = self.stand.agent.logs("counting", "tail=all").await;
        let next = format!("tick {}.", text.lines().count() + 1);
        let text = self.stand.printed("counting", &next).await;
        let lines = text.lines().enumerate();
        assert!(
            lines
                .map(|(n, line)| (format!("tick {n}."), line))
                .all(|(expected, line)| expected == line),
            "{text}"
        );
        for name in ["plain", "everything", "listed-two"] {
            let (_, shown) = self.stand.agent.get(&format!("/containers/{name}")).await;
            assert!(
                shown["ports"] == json!([]) || serves(&shown).await,
                "{shown}"
            );
        }
    }

    async fn assert_no_losses(&self) {
        let (_, health) = self.stand.agent.get("/health").await;
        let state = &health["state"];
        assert_eq!(
            (&state["writable"], &state["rebuilding"], &state["losses"]),
            (&json!(true), &json!(false), &json!([])),
            "{health:#}"
        );
        // What stays open as it was is told of, with the key that ends it.
        let told: Vec<_> = health["errors"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|error| !EARLIER.contains(&error["reason"].as_str().unwrap_or_default()))
            .collect();
        assert_eq!(told, Vec::<&Value>::new(), "{health:#}");
    }

    /// Kills a logger that the version before started, and expects that another one goes on.
    async fn assert_its_logger_is_replaced(&self) {
        let (_, shown) = self.stand.agent.get("/containers/counting").await;
        let (pid, before) = (self.stand.pid(&shown), loggers(&shown));
        assert_eq!(before.len(), 1, "it has gone on");
        kill(before[0]);
        let log = self.stand.printed("counting", "took over").await;
        let next = format!("tick {}.", log.matches("tick ").count() + 1);
        self.stand.printed("counting", &next).await;
        assert_eq!(self.stand.pid(&shown), pid, "it was not restarted");
    }

    async fn end(self) {
        // What CHaS lists would be listed again.
        self.chas
            .answer(Answer::Status("503 No", &[], String::new()));
        self.stand.end().await;
    }
}

/// Asks with all values; the version before shows them without being asked to.
async fn revealed(stand: &Stand, path: &str) -> (u16, Value) {
    let (status, shown) = stand.agent.get(&format!("{path}?reveal=true")).await;
    if status == 400 {
        return stand.agent.get(path).await;
    }
    (status, shown)
}

/// Takes the members out of a spec that the version before does not show; each has its default.
fn drop_new_members(spec: &mut Value) {
    let new = spec.as_object_mut().expect("it is one").remove("network");
    assert!(new.is_none_or(|new| new == "bridge"));
    for (name, default) in [
        ("volumes", json!([])),
        (
            "update",
            json!({"strategy": "stop-first", "min_ready": "10s", "deadline": "5m", "rollback": false, "retries": 3}),
        ),
        ("devices", json!([])),
        ("runtime", json!("default")),
        ("files", json!([])),
        ("secrets", json!([])),
        ("health", json!(null)),
        ("ulimits", json!({})),
        ("shm_size", json!("64m")),
        ("oom_score", json!(null)),
        ("init", json!(false)),
        ("interactive", json!(false)),
        ("hostname", json!(null)),
        ("hosts", json!({})),
        ("dns", json!({"servers": [], "search": [], "options": []})),
        ("groups", json!([])),
        ("after", json!([])),
        ("schedule", json!(null)),
        ("on_disconnect", json!({"stop_after": null})),
        ("sysctls", json!({})),
    ] {
        let new = spec.as_object_mut().expect("it is one").remove(name);
        assert!(
            new.as_ref().is_none_or(|new| *new == default),
            "{name}: {new:?}"
        );
    }
    let resources = spec["resources"].as_object_mut().expect("it is shown");
    resources.retain(|name, _| ["cpu", "memory", "pids"].contains(&name.as_str()));
    let security = spec["security"].as_object_mut().expect("it is shown");
    let new = security.remove("no_new_privileges");
    assert!(matches!(new, None | Some(Value::Bool(true))), "{new:?}");
    let new = security.remove("user_namespace");
    assert!(new.is_none_or(|new| new == "auto"));
}

async fn an_upgrade_with_its_files_disturbs_nothing(end: fn(&mut Node)) {
    let mut node = Node::of_version_0_1_0().await;
    node.stop().await;
    let (before, set) = (
        node.kept().await,
        revealed(&node.stand, "/desired-state").await,
    );
    end(&mut node);
    node.upgrade().await;
    node.assert_no_losses().await;
    let (status, mut now) = revealed(&node.stand, "/desired-state").await;
    for container in now["containers"].as_array_mut().unwrap() {
        drop_new_members(container);
    }
    assert_eq!((status, now), set);
    let (status, _, repeated) = node.deploy_with_key().await;
    let replayed = (&repeated["replayed"], &repeated["id"]);
    assert_eq!(
        (status, replayed),
        (202, (&json!(true), &before["plain"]["id"]))
    );
    node.assert_undisturbed(&before).await;
    node.assert_no_losses().await;
    node.assert_its_logger_is_replaced().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_disturbs_nothing() {
    an_upgrade_with_its_files_disturbs_nothing(|node| node.stand.agent.terminate()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_of_an_agent_that_was_killed_disturbs_nothing() {
    an_upgrade_with_its_files_disturbs_nothing(|node| node.stand.agent.kill_9()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_without_the_agents_files_takes_over_what_runs() {
    // Nothing is stopped here: the labels of what was started before it was stopped do not tell.
    let mut node = Node::of_version_0_1_0().await;
    let mut before = node.kept().await;
    node.stand.agent.terminate();
    let state = node.stand.bed.dir.join("state");
    for name in ["state", "desired.json.a", "desired.json.b"] {
        run("rm", ["-r", state.join(name).to_str().unwrap()]).unwrap();
    }
    node.upgrade().await;
    // How often it was restarted went with the files.
    before
        .get_mut("listed-one")
        .unwrap()
        .insert("restart_count", json!(0));
    node.assert_undisturbed(&before).await;
    node.end().await;
}
