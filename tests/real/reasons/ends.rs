//! How containers end, what loses them, and what keeps them from ending.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use state::reason::Reason;

use super::{next_attempt, shows};
use crate::harness::Testbed;
use crate::harness::agent::Agent;
use crate::harness::image::Image;
use crate::harness::proxy::{Fault, Proxy};
use crate::harness::registry::Registry;
use crate::harness::run;
use crate::stand::{SOON, Stand};

pub(super) const INDUCED: &[Reason] = &[
    Reason::Exited,
    Reason::ExitedCleanly,
    Reason::CrashLoop,
    Reason::Completed,
    Reason::OutOfMemory,
    Reason::RetriesExhausted,
    Reason::Signaled,
    Reason::ShimLost,
    Reason::StopRequested,
    Reason::ImageLost,
    Reason::ProcessStuck,
    Reason::RemoveFailed,
];

fn instance(shown: &Value) -> String {
    format!("{}-{}", shown["id"].as_str().unwrap(), shown["generation"])
}

/// The process id of a container's first process.
fn pid(stand: &Stand, shown: &Value) -> String {
    let (tasks, instance) = (stand.bed.ctr(&["tasks", "ls"]), instance(shown));
    let line = tasks
        .lines()
        .find(|line| line.starts_with(&instance))
        .unwrap_or_else(|| panic!("{instance} in {tasks}"));
    line.split_whitespace().nth(1).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_end_has_its_own_reason() {
    let stand = Stand::new().await;
    let policy = |policy: &str| json!({"restart": {"policy": policy}});
    let mut hog = policy("never");
    hog["resources"] = json!({"memory": "16m"});
    let mut retries = policy("always");
    retries["restart"]["max_retries"] = json!(1);
    for (name, script, more) in [
        ("exits", "sleep 0.3; exit 3", json!({})),
        ("clean", "sleep 0.3; exit 0", json!({})),
        ("done", "exit 0", policy("on-failure")),
        ("hog", "exec tail /dev/zero", hog),
        ("retries", "exit 4", retries),
        ("signal", "sleep 1000 & wait", policy("never")),
        ("lost", "sleep 1000 & wait", policy("never")),
        ("rests", "sleep 1000 & wait", json!({"state": "stopped"})),
    ] {
        assert_eq!(
            stand
                .agent
                .deploy(&stand.script(name, script, &more))
                .await
                .0,
            202
        );
    }
    // These two only for as long as it waits to be started again.
    let exited = shows(&stand.agent, "exits", Reason::Exited, "exit code 3");
    let clean = shows(&stand.agent, "clean", Reason::ExitedCleanly, "exit code 0");
    let (exited, clean) = tokio::join!(exited, clean);
    assert!(
        next_attempt(&exited).is_some() && next_attempt(&clean).is_some(),
        "{exited} {clean}"
    );

    let signal = stand.agent.wait_status("signal", "running", SOON).await;
    stand
        .bed
        .ctr(&["tasks", "kill", "--signal", "SIGKILL", &instance(&signal)]);
    let lost = stand.agent.wait_status("lost", "running", SOON).await;
    let shims = run(
        "pgrep",
        [
            "--full",
            &format!("containerd-shim-runc-v2 .*{}", instance(&lost)),
        ],
    )
    .unwrap();
    run("kill", ["-KILL", shims.trim()]).unwrap();

    for (name, status, reason) in [
        ("done", "stopped", Reason::Completed),
        ("hog", "failed", Reason::OutOfMemory),
        ("retries", "failed", Reason::RetriesExhausted),
        ("signal", "failed", Reason::Signaled),
        ("lost", "failed", Reason::ShimLost),
        ("rests", "stopped", Reason::StopRequested),
    ] {
        let shown = stand.agent.wait_status(name, status, SOON).await;
        assert_eq!(
            (&shown["reason"], next_attempt(&shown)),
            (&json!(reason), None),
            "{shown}"
        );
    }
    shows(&stand.agent, "exits", Reason::CrashLoop, "in a row").await;
    super::tried_as_announced(&stand.agent, &["exits"]).await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_somebody_took_away_is_said_to_be_lost_while_it_is_fetched_again() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let proxy = Proxy::before(registry.address());
    Image::web().push(&registry, "web:1").await;
    let variables = [
        ("CHAS_REGISTRY_INSECURE", proxy.address()),
        ("CHAS_REGISTRY_STALL_TIMEOUT", "2s".to_owned()),
    ];
    let agent = Agent::start_with(
        &bed,
        &variables
            .each_ref()
            .map(|(name, value)| (*name, value.as_str())),
    )
    .await;
    let stand = Stand {
        agent,
        registry,
        bed,
    };
    let mut body = stand.web("web", &json!({}));
    body["image"] = json!(format!("{}/web:1", proxy.address()));
    let shown = stand.agent.deploy_and_wait(&body).await;
    stand.agent.ask("POST", "/containers/web/stop", None).await;
    stand.agent.wait_status("web", "stopped", SOON).await;
    stand.bed.ctr(&["snapshots", "rm", &instance(&shown)]);
    let listed = stand.bed.ctr(&["images", "ls", "-q"]);
    stand.bed.ctr(
        &["images", "rm", "--sync"]
            .into_iter()
            .chain(listed.lines())
            .collect::<Vec<_>>(),
    );
    proxy.inject("/manifests/", 100, Fault::Stall { after_bytes: 0 });
    stand.agent.ask("POST", "/containers/web/start", None).await;
    shows(&stand.agent, "web", Reason::ImageLost, "").await;
    proxy.heal();
    stand.agent.wait_status("web", "running", super::LATE).await;
    stand.end().await;
}

/// A control group in which nothing runs, not even to its end; only version 1 has such. Thawed with the value.
struct Frozen(PathBuf);

impl Frozen {
    fn new(name: &str, pid: &str) -> Option<Self> {
        let freezer = Path::new("/sys/fs/cgroup/freezer");
        if !freezer.exists() {
            eprintln!("left out: this host's frozen control groups let SIGKILL through");
            return None;
        }
        let group = Self(freezer.join(format!("{name}-frozen")));
        fs::create_dir(&group.0).unwrap();
        fs::write(group.0.join("cgroup.procs"), pid).unwrap();
        group.set("FROZEN");
        Some(group)
    }

    fn set(&self, state: &str) {
        fs::write(self.0.join("freezer.state"), state).unwrap();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.set("THAWED");
        crate::harness::eventually("what was frozen ends", SOON, || {
            fs::remove_dir(&self.0).is_ok()
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_container_from_ending_has_its_own_reason() {
    let stand = Stand::new().await;
    let body = |name: &str| {
        stand.script(
            name,
            "sleep 1000 & wait",
            &json!({"stop": {"timeout": "0s"}}),
        )
    };
    let frozen = stand.agent.deploy_and_wait(&body("frozen")).await;
    let kept = stand.agent.deploy_and_wait(&body("kept")).await;
    let freezer = Frozen::new(&stand.bed.namespace, &pid(&stand, &frozen));
    stand
        .agent
        .ask("POST", "/containers/frozen/stop", None)
        .await;

    let logs = stand
        .bed
        .dir
        .join("state/logs")
        .join(kept["id"].as_str().unwrap())
        .join("in-the-way");
    fs::create_dir(&logs).unwrap();
    run(
        "mount",
        ["-t", "tmpfs", "chas-test", logs.to_str().unwrap()],
    )
    .unwrap();
    stand.agent.ask("DELETE", "/containers/kept", None).await;
    let shown = shows(&stand.agent, "kept", Reason::RemoveFailed, "logs").await;
    assert!(next_attempt(&shown).is_some(), "{shown}");
    run("umount", [&logs]).unwrap();
    stand.agent.delete_and_wait_if_there("kept").await;

    if let Some(freezer) = freezer {
        shows(&stand.agent, "frozen", Reason::ProcessStuck, "kernel").await;
        drop(freezer);
        stand
            .agent
            .wait_status("frozen", "stopped", Duration::from_secs(60))
            .await;
    }
    stand.end().await;
}
