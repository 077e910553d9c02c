//! Images that the policy wants signed: what runs of them, and what a registry that is gone changes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::Testbed;
use crate::harness::agent::Agent;
use crate::harness::image::{Image, Pushed, push_index};
use crate::harness::proxy::{Fault, Proxy};
use crate::harness::registry::Registry;
use crate::harness::signatures::{Signer, push_signatures};
use crate::stand::{SOON, eventually};

/// A node that reaches its registry through a proxy, with a policy's file.
struct SigningNode {
    agent: Agent,
    proxy: Proxy,
    registry: Registry,
    file: PathBuf,
    bed: Testbed,
}

impl SigningNode {
    async fn new() -> Self {
        let bed = Testbed::new();
        let registry = Registry::open(&bed);
        let proxy = Proxy::before(registry.address());
        let file = bed.dir.join("policy.yaml");
        write(&file, "");
        let agent = Agent::start_with(
            &bed,
            &[
                ("CHAS_POLICY_FILE", file.to_str().unwrap()),
                ("CHAS_REGISTRY_INSECURE", &proxy.address()),
            ],
        )
        .await;
        Self {
            agent,
            proxy,
            registry,
            file,
            bed,
        }
    }

    /// Demands signatures by a key of all images below `team/`.
    fn demand(&self, signer: &Signer) {
        let rule = json!({"name": "signed", "signed_by": [signer.pem()],
            "signed_images": [format!("{}/team/*", self.proxy.address())]});
        write(&self.file, &json!({"rules": [rule]}).to_string());
        self.agent.signal(Signal::HUP);
    }

    /// Waits for the agent to know the policy, by a name that it reserves meanwhile.
    async fn demand_and_wait(&self, signer: &Signer) {
        let before = self.agent.log().matches("policy taken over").count();
        self.demand(signer);
        eventually("the policy is taken over", async || {
            self.agent.log().matches("policy taken over").count() > before
        })
        .await;
    }

    async fn push(&self, name: &str) -> Pushed {
        let labels = json!({"name": name, "made": self.bed.dir});
        let image = Image::busybox().config("Labels", labels);
        image.push(&self.registry, name).await
    }

    async fn deploy(&self, name: &str, image: &str) {
        let body = json!({
            "name": name, "image": format!("{}/{image}", self.proxy.address()), "stop": {"timeout": "1s"},
            "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"],
        });
        let (status, told) = self.agent.deploy(&body).await;
        assert_eq!(status, 202, "{told}");
    }

    async fn show(&self, name: &str) -> Value {
        self.agent.get(&format!("/containers/{name}")).await.1
    }

    /// Waits until a container is kept from running for a reason; its message.
    async fn kept(&self, name: &str, reason: &str) -> String {
        eventually("it is kept from running", async || {
            self.show(name).await["reason"] == reason
        })
        .await;
        let shown = self.show(name).await;
        shown["message"].as_str().unwrap_or_default().to_owned()
    }

    fn pid(&self, shown: &Value) -> Option<i32> {
        let tasks = self.bed.ctr(&["tasks", "ls"]);
        let name = format!("{}-", shown["id"].as_str().unwrap());
        let line = tasks.lines().find(|line| line.starts_with(&name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    async fn violations(&self) -> String {
        let (_, health) = self.agent.get("/health").await;
        let alarms = health["alarms"].as_array().cloned().unwrap_or_default();
        let mut violated = alarms
            .iter()
            .filter(|alarm| alarm["name"] == "PolicyViolated");
        let message = violated.next().map(|alarm| alarm["message"].to_string());
        message.unwrap_or_default()
    }

    async fn end(self, names: &[&str]) {
        for name in names {
            self.agent.delete_and_wait(name).await;
        }
        self.bed.assert_no_container_left();
    }
}

fn write(file: &PathBuf, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_unpacked_that_nobody_signed_whom_the_policy_names() {
    let node = SigningNode::new().await;
    let (signer, other) = (Signer::new(), Signer::new());
    node.demand_and_wait(&signer).await;
    let registry = &node.registry;
    // Nobody, somebody else, and a signature of another image that somebody put in its place.
    let unsigned = node.push("team/unsigned:1").await;
    let foreign = node.push("team/foreign:1").await;
    push_signatures(
        registry,
        "team/foreign",
        &foreign.digest,
        &[other.sign(&foreign.digest)],
    )
    .await;
    let moved = node.push("team/moved:1").await;
    push_signatures(
        registry,
        "team/moved",
        &moved.digest,
        &[signer.sign(&unsigned.digest)],
    )
    .await;
    for (name, part) in [
        ("unsigned", "has no signature"),
        ("foreign", "by others only"),
        ("moved", "of another image"),
    ] {
        node.deploy(name, &format!("team/{name}:1")).await;
        let told = node.kept(name, "PolicyDenied").await;
        assert!(told.contains("\"signed\"") && told.contains(part), "{told}");
    }
    for (name, image) in [
        ("unsigned", &unsigned),
        ("foreign", &foreign),
        ("moved", &moved),
    ] {
        for layer in &image.layers {
            let path = format!("/v2/team/{name}/blobs/{layer}");
            assert_eq!(node.proxy.requests(&path).len(), 0, "{path}");
        }
    }
    // One signature among several; an index, and the manifest below one.
    let signed = node.push("team/signed:1").await;
    let several = [
        other.sign(&signed.digest),
        signer.sign(&signed.digest),
        other.sign(&signed.digest),
    ];
    push_signatures(registry, "team/signed", &signed.digest, &several).await;
    let below = node.push("team/index:below").await;
    let index = push_index(registry, "team/index:1", &[&below]).await;
    push_signatures(
        registry,
        "team/index",
        &index.digest,
        &[signer.sign(&index.digest)],
    )
    .await;
    let manifest = node.push("team/manifest:below").await;
    push_index(registry, "team/manifest:1", &[&manifest]).await;
    push_signatures(
        registry,
        "team/manifest",
        &manifest.digest,
        &[signer.sign(&manifest.digest)],
    )
    .await;
    node.push("free/app:1").await;
    for (name, image) in [
        ("signed", "team/signed:1"),
        ("index", "team/index:1"),
        ("manifest", "team/manifest:1"),
        ("free", "free/app:1"),
    ] {
        node.deploy(name, image).await;
        node.agent.wait_status(name, "running", SOON).await;
    }
    // The tag stands for something else now, and what runs stays what was signed.
    let newer = Image::busybox().config("Labels", json!({"name": "newer"}));
    let newer = newer.push(registry, "team/signed:1").await;
    let before = node.show("signed").await;
    let (status, told) = node
        .agent
        .ask("POST", "/containers/signed/pull", None)
        .await;
    assert_eq!(status, 202, "{told}");
    let asked = format!("{}.sig", newer.digest.replace(':', "-"));
    eventually(
        "the newer one's signatures are asked for, and the question ends",
        async || {
            let told = node.show("signed").await.to_string();
            !node.proxy.requests(&asked).is_empty() && told.contains("must be signed by")
        },
    )
    .await;
    let after = node.show("signed").await;
    assert_eq!(after["status"], "running", "{after}");
    assert_eq!(node.pid(&after), node.pid(&before));
    // What is signed later runs without another order.
    push_signatures(
        registry,
        "team/unsigned",
        &unsigned.digest,
        &[signer.sign(&unsigned.digest)],
    )
    .await;
    node.agent.wait_status("unsigned", "running", SOON).await;
    node.end(&[
        "unsigned", "foreign", "moved", "signed", "index", "manifest", "free",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_starts_without_its_registry_and_nothing_is_ended_for_want_of_a_signature() {
    let mut node = SigningNode::new().await;
    let (signer, next) = (Signer::new(), Signer::new());
    let kept = node.push("team/kept:1").await;
    push_signatures(
        &node.registry,
        "team/kept",
        &kept.digest,
        &[signer.sign(&kept.digest)],
    )
    .await;
    node.push("team/plain:1").await;
    for name in ["kept", "plain"] {
        node.deploy(name, &format!("team/{name}:1")).await;
        node.agent.wait_status(name, "running", SOON).await;
    }
    let pids = async |node: &SigningNode| {
        let [kept, plain] = [node.show("kept").await, node.show("plain").await];
        [node.pid(&kept), node.pid(&plain)]
    };
    let before = pids(&node).await;
    node.demand_and_wait(&signer).await;
    eventually("what is not signed is told", async || {
        let told = node.violations().await;
        told.contains("plain: ") && !told.contains("kept: ")
    })
    .await;
    assert_eq!(pids(&node).await, before);
    // Without a registry: what was seen signed starts; of the other nobody knows.
    node.agent.kill_9();
    for pid in before {
        kill_process(Pid::from_raw(pid.unwrap()).unwrap(), Signal::KILL).unwrap();
    }
    let down = Fault::Status {
        code: 503,
        retry_after_s: None,
    };
    node.proxy.inject("/v2/", usize::MAX, down);
    node.agent.start_again().await;
    node.agent.wait_status("kept", "running", SOON).await;
    node.kept("plain", "RegistryError").await;
    node.proxy.heal();
    node.kept("plain", "PolicyDenied").await;
    // Another key, by which nobody signed what runs: it is told, and outlives a restart.
    let pid = pids(&node).await[0];
    node.demand_and_wait(&next).await;
    let (status, told) = node
        .agent
        .ask("POST", "/containers/kept/restart", None)
        .await;
    assert_eq!(status, 202, "{told}");
    eventually("that it is not signed so is told", async || {
        node.violations().await.contains("kept: ")
            && node
                .show("kept")
                .await
                .to_string()
                .contains("by others only")
    })
    .await;
    assert_eq!(pids(&node).await[0], pid);
    let both = [signer.sign(&kept.digest), next.sign(&kept.digest)];
    push_signatures(&node.registry, "team/kept", &kept.digest, &both).await;
    eventually("it is restarted", async || {
        let now = pids(&node).await[0];
        now.is_some() && now != pid && node.show("kept").await["status"] == "running"
    })
    .await;
    node.end(&["kept", "plain"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_which_only_its_platform_s_manifest_is_signed_is_fetched_again_when_it_is_lost()
{
    let mut node = SigningNode::new().await;
    let signer = Signer::new();
    node.demand_and_wait(&signer).await;
    let manifest = node.push("team/app:below").await;
    push_index(&node.registry, "team/app:1", &[&manifest]).await;
    let signatures = [signer.sign(&manifest.digest)];
    push_signatures(&node.registry, "team/app", &manifest.digest, &signatures).await;
    node.deploy("app", "team/app:1").await;
    let shown = node.agent.wait_status("app", "running", SOON).await;
    let pid = node.pid(&shown).unwrap();
    node.agent.kill_9();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let listed = node.bed.ctr(&["images", "ls", "-q"]);
    let names = ["images", "rm", "--sync"].into_iter().chain(listed.lines());
    node.bed.ctr(&names.collect::<Vec<_>>());
    assert_eq!(node.bed.ctr(&["content", "ls", "-q"]).trim(), "");
    node.agent.start_again().await;
    eventually("it runs again", async || {
        let shown = node.show("app").await;
        let now = node.pid(&shown);
        now.is_some_and(|now| now != pid) && shown["status"] == "running"
    })
    .await;
    let stored = node.bed.ctr(&["content", "ls", "-q"]);
    assert!(stored.contains(&manifest.digest), "{stored}");
    node.end(&["app"]).await;
}
