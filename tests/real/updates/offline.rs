//! Rollback of every kind of generation that does not work, while the registry is gone: what ran before
//! is back, and everybody is told.

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Load, instances, web};
use crate::harness::Testbed;
use crate::harness::chas::Chas;
use crate::harness::image::Image;
use crate::harness::registry::Registry;
use crate::stand::{Stand, eventually, serves};

/// A node of CHaS whose registry is gone. Another one has an image for another machine.
struct Offline {
    stand: Stand,
    chas: Chas,
    nothing: String,
    good: Value,
    first: Value,
}

impl Offline {
    async fn new() -> Self {
        let bed = Testbed::new();
        let chas = Chas::start(&bed.namespace);
        let url = chas.url();
        let mut stand = Stand::with(bed, &[("CHAS_API_URL", &url)]).await;
        Image::busybox()
            .config("Cmd", Value::Null)
            .push(&stand.registry, "nothing:1")
            .await;
        let other = Registry::open(&stand.bed);
        Image::web()
            .architecture("s390x")
            .push(&other, "other:1")
            .await;
        let both = format!("{},{}", stand.registry.address(), other.address());
        stand.agent.set("CHAS_REGISTRY_INSECURE", &both);
        stand.agent.kill_9();
        stand.agent.start_again().await;
        let good = web(&stand, 1, &json!({}));
        // It keeps an image on the node that has no command.
        let nothing = stand.image("nothing:1");
        let keeper = stand.script("keeper", "while :; do sleep 1; done", &json!({}));
        let mut keeper = keeper;
        keeper["image"] = json!(nothing);
        stand.agent.deploy_and_wait(&keeper).await;
        let first = stand.agent.deploy_and_wait(&good).await;
        stand.registry = other;
        Self {
            stand,
            chas,
            nothing,
            good,
            first,
        }
    }

    /// Kinds of generations that do not work: what is other in their bodies, and the reason.
    fn bad(&self) -> Vec<(Value, &'static str)> {
        let script = |text: &str| json!({"command": ["sh", "-c", text]});
        let mut hog = script("exec tail /dev/zero");
        hog["resources"] = json!({"memory": "16m"});
        // It would count before it ends, and be watched for ends until the deadline.
        let mut late = script("sleep 2; exit 4");
        late["update"] = json!({"min_ready": "3s", "deadline": "20s"});
        let never = json!({"health": {"http": {"path": "/none", "port": 80}, "interval": "1s", "retries": 2}});
        let hung = json!({"health": {"exec": {"command": ["sleep", "100"]}, "interval": "1s", "timeout": "1s", "retries": 1}});
        vec![
            (script("exit 3"), "Exited"),
            (late, "Exited"),
            (never, "Unhealthy"),
            (hung, "Unhealthy"),
            (
                json!({"image": self.stand.image("other:1")}),
                "ImagePlatformMismatch",
            ),
            (json!({"image": self.nothing}), "NoCommand"),
            (hog, "OutOfMemory"),
        ]
    }

    /// Deploys a generation that does not work, and expects that the good one is back.
    async fn falls_back(&self, strategy: &str, mut more: Value, reason: &str) {
        let began = Instant::now();
        let agent = &self.stand.agent;
        // A probe alone is another without another instance.
        more["environment"] = json!({"VERSION": "bad"});
        let mut rules = json!({"strategy": strategy, "min_ready": "1s", "deadline": "4s", "rollback": true, "retries": 2});
        let own = more["update"].as_object().cloned().unwrap_or_default();
        rules.as_object_mut().unwrap().extend(own);
        more["update"] = rules;
        let mut bad = self.good.clone();
        let members = more.as_object().unwrap().clone();
        bad.as_object_mut().unwrap().extend(members);
        let (status, told) = agent.deploy(&bad).await;
        assert_eq!(status, 202, "{told}");
        let what = format!("{strategy} {reason} {more}");
        let mut shown = Value::Null;
        let is_back = async || {
            shown = agent.get("/containers/web").await.1;
            shown["reason"] == "RolledBack" && shown["update"].is_null()
        };
        eventually(&what, is_back).await;
        let given_up = &shown["rolled_back"];
        assert_eq!(given_up["reason"], reason, "{what}: {given_up}");
        assert_eq!(given_up["generation"], told["generation"], "{what}");
        assert_eq!(shown["status"], "running", "{what}");
        assert_eq!(instances(&self.stand), 2, "{what}: it and the keeper");
        assert!(serves(&shown).await, "{what}");
        let (status, told) = agent.deploy(&bad).await;
        assert_eq!(status, 409, "{what}: {told}");
        let is_reported = |report: &Value| {
            let containers = report["containers"].as_array().into_iter().flatten();
            let mut webs = containers.filter(|of| of["name"] == "web");
            webs.any(|of| {
                of["rolled_back"]["generation"] == given_up["generation"]
                    && of["rolled_back"]["image_digest"] == given_up["image_digest"]
                    && of["image_digest"] == shown["image_digest"]
            })
        };
        self.chas.report(&what, is_reported).await;
        let (_, history) = agent.get("/containers/web/history").await;
        let left = &history["generations"][1];
        assert_eq!(left["outcome"]["result"], "rolled-back", "{what}: {left}");
        assert_eq!(left["outcome"]["reason"], reason, "{what}: {left}");
        assert_eq!(history["generations"][0]["by"], "agent", "{what}");
        eprintln!("{strategy} {reason}: {:?}", began.elapsed());
    }
}

/// What the agent has counted of rollbacks, by who asked for them.
pub(super) async fn counted(stand: &Stand, by: &str) -> usize {
    let (_, metrics) = stand.agent.get("/metrics").await;
    let wanted = format!("chas_rollbacks_total{{by=\"{by}\"}} ");
    let mut lines = metrics.as_str().unwrap().lines();
    let line = lines.find_map(|line| line.strip_prefix(&wanted));
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_a_generation_the_one_before_is_back_without_a_registry() {
    let node = Offline::new().await;
    let first = &node.first;
    let pid = node.stand.pid(first);
    let bad = node.bad();
    let port = first["ports"][0]["host"].as_u64().unwrap();
    let load = Load::start(port).await;
    for (more, reason) in &bad {
        node.falls_back("start-first", more.clone(), reason).await;
        assert_eq!(node.stand.pid(first), pid, "{reason}: it was never stopped");
    }
    load.end();
    // With a gap: by the fast ones, for the rest is the same.
    for (more, reason) in [&bad[0], &bad[2], &bad[6]] {
        node.falls_back("stop-first", more.clone(), reason).await;
    }
    assert_eq!(counted(&node.stand, "agent").await, bad.len() + 3);
    let log = node.stand.agent.log();
    assert_eq!(log.matches("generation rolled back").count(), bad.len() + 3);
    node.stand.end().await;
}
