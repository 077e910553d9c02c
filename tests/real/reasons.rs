//! What cannot run ends in a status with a reason of its own and a time for the next attempt, not in a loop without a word.
//!
//! `images`, `starts`, `broken` and `ends` induce each code on a real node; [`UNINDUCED`] says which are not, and why.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use state::reason::Reason;
use tokio::time::Instant;

use crate::harness::Testbed;
use crate::harness::agent::Agent;
use crate::harness::image::Image;
use crate::harness::proxy::{Fault, Proxy};
use crate::harness::registry::{Access, Registry};
use crate::stand::{SOON, Stand};

mod broken;
mod ends;
mod images;
mod starts;

/// Codes that no test here induces, and where they are tested instead.
const UNINDUCED: [(Reason, &str); 21] = [
    (Reason::Scheduled, "of containers with a schedule: jobs.rs"),
    (
        Reason::WaitsFor,
        "of containers that wait for others: after.rs",
    ),
    (Reason::Unhealthy, "of a probe that fails: health.rs"),
    (
        Reason::CgroupMissing,
        "would take the machine's control groups away: runc's text, in refusals.rs",
    ),
    (
        Reason::ShimUnresponsive,
        "of shims that are stopped: unresponsive.rs",
    ),
    (
        Reason::MemoryLimitTooSmall,
        "needs a runc that takes more than the 6 MiB that may be asked for: runc's text, in runc.rs",
    ),
    (
        Reason::NetworkError,
        "the kernel out of threads or netlink sockets: the typed error, in network/fault.rs",
    ),
    (
        Reason::StateUnwritable,
        "a disk that breaks under the open database: the typed error, in reconcile/turn.rs",
    ),
    (
        Reason::ChangeLost,
        "of damage to every newer copy: an_older_copy_… in store::tests::transient",
    ),
    (
        Reason::VolumeMissing,
        "of a volume that is taken away: volumes.rs",
    ),
    (
        Reason::RolledBack,
        "of generations that fail: updates/rollback.rs",
    ),
    (
        Reason::VolumeNotShared,
        "of an image with a volume, updated with start-first: updates.rs",
    ),
    (
        Reason::HostPathUnusable,
        "of paths that are not there, or lead out: volumes/host_paths.rs",
    ),
    (
        Reason::SecretUnavailable,
        "of a key that is lost: secrets.rs",
    ),
    (
        Reason::DeviceMissing,
        "of a device that is not there: devices.rs",
    ),
    (Reason::PolicyDenied, "of a node with a policy: policy.rs"),
    (
        Reason::StateLost,
        "of the node, not of a container: with_all_of_its_files_gone… in state.rs",
    ),
    (
        Reason::NodeCordoned,
        "of a node that CHaS cordons: a_cordoned_node_… in chas.rs",
    ),
    (
        Reason::NodeDrained,
        "of a node that is drained: maintenance.rs",
    ),
    (
        Reason::Disconnected,
        "of a CHaS that is silent: disconnect.rs, nodes/silence.rs",
    ),
    (
        Reason::RuntimeUnavailable,
        "held against no container: lifecycle.rs, and tests/it/reasons.rs",
    ),
];

/// Longer than the slowest of them takes beside all the others: a pull that waits for its slot and then for its timeouts.
const LATE: Duration = Duration::from_secs(120);

#[test]
fn every_reason_is_induced_or_has_an_excuse() {
    let induced = [
        images::INDUCED,
        starts::INDUCED,
        broken::INDUCED,
        ends::INDUCED,
    ]
    .concat();
    let all: BTreeSet<Reason> = induced
        .iter()
        .copied()
        .chain(UNINDUCED.map(|(reason, _)| reason))
        .collect();
    assert_eq!(all, Reason::ALL.iter().copied().collect());
    assert_eq!(induced.len() + UNINDUCED.len(), all.len(), "each once");
    assert!(induced.len() >= 40, "{} codes are induced", induced.len());
}

/// Waits until a container shows a reason, with a part of its sentence; its view.
pub(crate) async fn shows(agent: &Agent, name: &str, reason: Reason, part: &str) -> Value {
    let deadline = Instant::now() + LATE;
    loop {
        let (_, shown) = agent.get(&format!("/containers/{name}")).await;
        if shown["reason"] == reason.as_str() {
            assert!(
                shown["message"]
                    .as_str()
                    .is_some_and(|message| message.contains(part)),
                "{part:?} is not in {shown:#}"
            );
            return shown;
        }
        assert!(
            Instant::now() < deadline,
            "{name} does not show {reason}: {shown:#}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn next_attempt(shown: &Value) -> Option<SystemTime> {
    shown["next_attempt"]
        .as_str()
        .map(|time| humantime::parse_rfc3339(time).expect("a time"))
}

/// Waits for an attempt of each container that is announced for some seconds ahead, and finds in the agent's log that it
/// began then: not before, and at most 5 % of the wait after.
async fn tried_as_announced(agent: &Agent, names: &[&str]) {
    let mut announced = Vec::new();
    for name in names {
        let deadline = Instant::now() + LATE;
        announced.push(loop {
            let (_, shown) = agent.get(&format!("/containers/{name}")).await;
            let now = SystemTime::now();
            let wait = next_attempt(&shown).and_then(|next| next.duration_since(now).ok());
            // On a busy machine a twentieth of less is no time.
            if let Some(wait) = wait.filter(|wait| *wait > Duration::from_secs(4)) {
                break (*name, now, wait);
            }
            assert!(
                Instant::now() < deadline,
                "{name}: no attempt is announced: {shown:#}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        });
    }
    let last = announced
        .iter()
        .map(|(_, now, wait)| *now + *wait)
        .max()
        .expect("some");
    tokio::time::sleep(
        last.duration_since(SystemTime::now()).unwrap_or_default() + Duration::from_secs(1),
    )
    .await;
    let log = agent.log();
    for (name, noted, wait) in announced {
        let begun = log
            .lines()
            .filter(|line| line.contains(&format!(" step started container={name} ")));
        let begun = begun
            .filter_map(|line| humantime::parse_rfc3339(line.split(' ').next()?).ok())
            .find(|time| *time > noted);
        let took = begun
            .expect("it was tried again")
            .duration_since(noted)
            .expect("it was found so");
        // The time in JSON has no microseconds.
        assert!(
            took + Duration::from_millis(2) >= wait && took <= wait + wait / 20,
            "{name}: {took:?} instead of {wait:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_wants_credentials_is_named_and_given_them() {
    let bed = Testbed::new();
    let registry = Registry::start(&bed, Access::Password, false);
    Image::web().push(&registry, "web:1").await;
    let auth_file = bed.dir.join("auth.json");
    let variables = [
        ("CHAS_REGISTRY_INSECURE", registry.address()),
        ("CHAS_REGISTRY_AUTH_FILE", auth_file.to_str().unwrap()),
    ];
    std::fs::write(&auth_file, "{\"auths\": {}}").unwrap();
    let agent = Agent::start_with(&bed, &variables).await;
    let body = json!({"name": "web", "image": format!("{}/web:1", registry.address()), "stop": {"timeout": "0s"}});
    agent.deploy(&body).await;
    let shown = shows(
        &agent,
        "web",
        Reason::RegistryUnauthorized,
        registry.address(),
    )
    .await;
    assert!(next_attempt(&shown).is_some(), "{shown}");
    let auths = json!({"auths": {registry.address(): {"username": crate::harness::registry::USER, "password": crate::harness::registry::PASSWORD}}});
    std::fs::write(&auth_file, auths.to_string()).unwrap();
    agent.ask("POST", "/containers/web/restart", None).await;
    agent.wait_status("web", "running", SOON).await;
    agent.delete_and_wait("web").await;
    bed.assert_no_container_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_port_is_refused_while_taken_and_found_taken_at_a_start() {
    let stand = Stand::new().await;
    let port = stand.bed.port();
    let body = stand.web(
        "web",
        &json!({"exposed_ports": [{"container": 80, "host": port}]}),
    );
    let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let (status, problem) = stand.agent.deploy(&body).await;
    assert_eq!(status, 409, "{problem}");
    drop(listener);
    stand.agent.deploy_and_wait(&body).await;
    let (status, problem) = stand
        .agent
        .deploy(&stand.web(
            "other",
            &json!({"exposed_ports": [{"container": 80, "host": port}]}),
        ))
        .await;
    assert_eq!(status, 409, "{problem}");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("container web"),
        "{problem}"
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_download_is_refused_and_a_cut_one_goes_on() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let pushed = Image::web()
        .big_layer(crate::harness::image::Packing::Gzip, 3 << 20, 7)
        .push(&registry, "web:1")
        .await;
    let proxy = Proxy::before(registry.address());
    let agent = Agent::start_with(&bed, &[("CHAS_REGISTRY_INSECURE", &proxy.address())]).await;
    let layer = pushed.layers.last().unwrap().clone();
    proxy.inject(&layer, 100, Fault::Corrupt { at_byte: 1 << 20 });
    let body = json!({"name": "web", "image": format!("{}/web:1", proxy.address()), "stop": {"timeout": "0s"}});
    agent.deploy(&body).await;
    shows(&agent, "web", Reason::DigestMismatch, "sha256").await;
    proxy.heal();
    proxy.inject(
        &layer,
        1,
        Fault::Reset {
            after_bytes: 1 << 20,
        },
    );
    agent.ask("POST", "/containers/web/restart", None).await;
    agent.delete_and_wait("web").await;
    agent.deploy(&body).await;
    agent.wait_status("web", "running", SOON).await;
    assert!(
        proxy
            .requests(&layer)
            .iter()
            .any(|request| request.range.is_some()),
        "it went on where it stopped"
    );
    agent.delete_and_wait("web").await;
    bed.assert_no_container_left();
}
