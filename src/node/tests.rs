use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use serde_json::{Value, json};
use state::assign::QuietNetwork;
use state::id::ContainerId;
use state::ownership::Order;
use state::ownership::answers::Key;
use state::reach::NodeReach;
use state::reason::Reason;
use state::spec::parse::Deploy;
use state::status::Status;
use state::store::{ExpectedTag, Idempotent, Limits, ReplaceRequest, Store};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::api::{NodeApi as _, Refusal};
use crate::journal::Journal;
use crate::logs::program::LoggerProgram;
use crate::logs::rules::LoggerRules;
use crate::metrics::Metrics;
use crate::reconcile::{Clock, Reconciler};
use crate::view::{AcquaintancesView, ConfinementView, ContainerPlanView, ManagedView};

#[path = "../../tests/support/memory_runtime.rs"]
mod memory_runtime;
#[path = "../../tests/support/script.rs"]
mod script;

mod drain;
mod dry_run;
mod health;
mod hostile;
mod images;
mod life;
mod policy;

use script::ScriptedRuntime;

struct Agent {
    node: Arc<AgentNode>,
    runtime: Arc<ScriptedRuntime>,
    directory: TempDir,
    stop: CancellationToken,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// One that has taken its first whole look, and takes the next in an hour: what happens until then
/// was woken for.
async fn agent() -> Agent {
    agent_of(2).await
}

/// One that takes so many containers.
async fn agent_of(containers_max: usize) -> Agent {
    let directory = tempfile::tempdir().unwrap();
    let addresses = Ipv4Addr::new(10, 0, 0, 2)..=Ipv4Addr::new(10, 0, 0, 99);
    let limits = Limits {
        ports: 100..=199,
        network: Arc::new(QuietNetwork(addresses)),
        containers_max,
        capacity: state::capacity::Capacity::ENDLESS,
        new_privileges: false,
        random: state::store::random,
        disk: state::store::sound_disk,
    };
    let store = Arc::new(Store::open(directory.path(), limits).unwrap());
    let (runtime, tracker, stop) = (
        Arc::new(ScriptedRuntime::default()),
        TaskTracker::new(),
        CancellationToken::new(),
    );
    let journal = Journal::new(Metrics::new());
    let writer = Writer::new(store, journal.clone(), tracker.clone());
    let reconciler = Reconciler::new(
        Arc::clone(&runtime),
        writer.clone(),
        journal.clone(),
        Clock::start(),
        Duration::from_hours(1),
    );
    let monitor = Arc::new(Monitor::new(directory.path().to_owned()).unwrap());
    let loggers = Loggers::new(
        directory.path().join("logs"),
        LoggerProgram::new(directory.path(), "/nowhere".into()),
        LoggerRules::default(),
        "none".to_owned(),
        journal.clone(),
        tracker.clone(),
        stop.clone(),
    );
    let node = AgentNode::new(
        writer,
        reconciler.handle(),
        journal,
        monitor,
        loggers,
        None,
        watch::channel(ConfinementView::default()).1,
    );
    let node = node.with_reach(NodeReach {
        subnet: "10.0.0.0/16".parse().unwrap(),
        open: false,
        name_servers: std::collections::BTreeSet::new(),
    });
    tracker.spawn(reconciler.run(stop.clone(), tracker.clone()));
    while !node.health().containerd {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Agent {
        node: Arc::new(node),
        runtime,
        directory,
        stop,
    }
}

fn deploy(name: &str, image: &str) -> Deploy {
    state::spec::parse::deploy(&json!({"name": name, "image": image})).unwrap()
}

/// Waits for a container to be as `fits` says, in virtual time; the store's thread is let run in
/// between.
async fn until(node: &AgentNode, id: ContainerId, fits: impl Fn(Option<&ManagedView>) -> bool) {
    for _ in 0..2000 {
        if fits(node.container(id).as_ref()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        std::thread::sleep(Duration::from_micros(200));
    }
    panic!("it never came to it: {:?}", node.container(id));
}

fn runs(generation: u64) -> impl Fn(Option<&ManagedView>) -> bool {
    move |view| {
        view.is_some_and(|v| {
            v.condition.status == Status::Running && v.applied_generation == Some(generation)
        })
    }
}

/// Begins `work` and lets it go, as a client does that hangs up.
async fn hang_up(work: impl Future) {
    let mut work = pin!(work);
    poll_fn(|context| {
        // Almost always pending: the disk takes longer.
        let _gone = work.as_mut().poll(context).is_pending();
        Poll::Ready(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_hangs_up_cancels_nothing() {
    let Agent { node, runtime, .. } = &agent().await;
    hang_up(node.deploy(ExpectedTag::Any, deploy("web", "nginx"), false)).await;
    while node.containers().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let id = node.managed_containers().next().unwrap().record.id;
    until(node, id, runs(1)).await;
    hang_up(node.order(id, Order::Remove, ExpectedTag::Any)).await;
    until(node, id, |view| view.is_none()).await;
    assert!(runtime.instances().is_empty());
}

#[tokio::test(start_paused = true)]
async fn changes_come_to_what_they_say() {
    let agent = agent().await;
    let node = &agent.node;
    let first = node
        .deploy(ExpectedTag::Any, deploy("web", "nginx"), false)
        .await
        .unwrap();
    let id = first.container.record.id;
    assert!(first.changed);
    until(node, id, runs(1)).await;
    assert!(
        !node
            .deploy(ExpectedTag::Any, deploy("web", "nginx"), false)
            .await
            .unwrap()
            .changed
    );
    node.order(id, Order::Stop, ExpectedTag::Any).await.unwrap();
    until(node, id, |view| {
        view.unwrap().condition.status == Status::Stopped
    })
    .await;
    node.order(id, Order::Start, ExpectedTag::Any)
        .await
        .unwrap();
    until(node, id, runs(1)).await;
    let launches = agent.runtime.launches(id);
    node.order(id, Order::Restart, ExpectedTag::Any)
        .await
        .unwrap();
    until(node, id, |_| agent.runtime.launches(id) == launches + 1).await;
    assert!(
        node.deploy(ExpectedTag::Any, deploy("web", "nginx:2"), true)
            .await
            .unwrap()
            .changed
    );
    assert_eq!(
        node.container(id).unwrap().record.generation,
        1,
        "a dry run stores nothing"
    );
    node.deploy(ExpectedTag::Any, deploy("web", "nginx:2"), false)
        .await
        .unwrap();
    until(node, id, runs(2)).await;
    assert_eq!((node.health().running, node.health().unsettled), (1, 0));
    assert!(agent.directory.path().join("state").exists());
}

#[tokio::test(start_paused = true)]
async fn what_failed_with_one_generation_is_not_said_of_the_next() {
    let agent = agent().await;
    let node = &agent.node;
    agent
        .runtime
        .fail_next([crate::runtime::RuntimeError::failed(
            Reason::ImageNotFound,
            "no such tag",
        )]);
    let id = node
        .deploy(ExpectedTag::Any, deploy("web", "nginx:no"), false)
        .await
        .unwrap()
        .container
        .record
        .id;
    until(node, id, |view| {
        view.unwrap().condition.status == Status::Failed
    })
    .await;
    let next = node
        .deploy(ExpectedTag::Any, deploy("web", "nginx"), false)
        .await
        .unwrap()
        .container;
    assert_ne!(next.condition.status, Status::Failed, "{next:?}");
    assert_eq!(next.condition.reason, None);
    until(node, id, runs(2)).await;
}

#[tokio::test(start_paused = true)]
async fn refusals_keep_their_kind() {
    let agent = agent().await;
    let node = &agent.node;
    for name in ["a", "b"] {
        node.deploy(ExpectedTag::Any, deploy(name, "nginx"), false)
            .await
            .unwrap();
    }
    assert!(matches!(
        node.deploy(ExpectedTag::Any, deploy("c", "nginx"), false)
            .await,
        Err(Refusal::Full(_))
    ));
    let nobody = ContainerId::from_bits(1);
    assert!(matches!(
        node.order(nobody, Order::Stop, ExpectedTag::Any).await,
        Err(Refusal::NotFound(_))
    ));
}

fn replacing(bodies: &[Value]) -> ReplaceRequest {
    let wanted = state::spec::parse::set(&json!({"containers": bodies})).unwrap();
    ReplaceRequest {
        wanted,
        ..ReplaceRequest::default()
    }
}

fn body(name: &str, image: &str) -> Value {
    json!({"name": name, "image": image})
}

#[track_caller]
fn now<T: std::fmt::Debug>(taken: Result<Idempotent<T>, Refusal>) -> T {
    match taken.unwrap() {
        Idempotent::Now(taken) => taken,
        Idempotent::Before(answer) => panic!("it did not come before: {answer:?}"),
    }
}

fn words(plan: &ContainerPlanView) -> Vec<&'static str> {
    plan.steps.iter().map(|step| step.word).collect()
}

#[tokio::test(start_paused = true)]
async fn a_set_comes_to_run_and_the_plan_that_was_shown_is_what_is_done() {
    let agent = agent().await;
    let node = &agent.node;
    let dry = now(node
        .replace(ReplaceRequest {
            dry_run: true,
            ..replacing(&[body("a", "x"), body("b", "x")])
        })
        .await);
    assert_eq!(
        dry.plan.iter().map(words).collect::<Vec<_>>(),
        [["pull", "launch"], ["pull", "launch"]]
    );
    assert!(node.containers().is_empty());
    let first = now(node
        .replace(replacing(&[body("a", "x"), body("b", "x")]))
        .await);
    assert_eq!(
        (
            &first.etag,
            node.push_set(&state::access::NameScope::All).records.len()
        ),
        (&dry.etag, 2)
    );
    for course in &first.plan {
        until(node, course.id, runs(1)).await;
    }
    let plan = node.plan();
    assert!(
        plan.blocked.is_none()
            && plan.containers.len() == 2
            && plan.containers.iter().all(|c| c.steps.is_empty())
    );
    assert!(
        now(node
            .replace(replacing(&[body("a", "x"), body("b", "x")]))
            .await)
        .plan
        .is_empty()
    );
    let second = now(node.replace(replacing(&[body("a", "y")])).await);
    let planned: Vec<_> = second
        .plan
        .iter()
        .map(|course| (course.name.clone().unwrap().to_string(), words(course)))
        .collect();
    let expected = [
        ("b", vec!["remove", "forget"]),
        ("a", vec!["pull", "remove", "launch"]),
    ];
    assert_eq!(
        planned,
        expected.map(|(name, words)| (name.to_owned(), words))
    );
    until(node, second.plan[0].id, |view| view.is_none()).await;
    until(node, second.plan[1].id, runs(2)).await;
    let stale = node
        .replace(ReplaceRequest {
            if_match: Some(vec![first.etag]),
            ..replacing(&[])
        })
        .await;
    assert!(matches!(stale, Err(Refusal::Unmatched(text)) if text.contains(&second.etag)));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_had_of_a_set_is_refused_by_its_kind() {
    let agent = agent().await;
    let node = &agent.node;
    let full = node
        .replace(replacing(&[body("a", "x"), body("b", "x"), body("c", "x")]))
        .await;
    assert!(matches!(full, Err(Refusal::Full(text)) if text.starts_with("c: ")));
    let port = |name: &str| json!({"name": name, "image": "x", "exposed_ports": [{"container": 1, "host": 7}]});
    let taken = node.replace(replacing(&[port("a"), port("b")])).await;
    assert!(
        matches!(taken, Err(Refusal::Conflict(text)) if text == "b: host port 7/tcp is taken by container a")
    );
    assert!(node.containers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_deploy_that_comes_twice_brings_nothing_back() {
    let agent = agent().await;
    let node = &agent.node;
    let key: Key = "k".parse().unwrap();
    let push = |request: &str| {
        let keyed = node.keyed(key.clone(), request.to_owned());
        node.deploy_once(ExpectedTag::Any, deploy("web", "nginx"), keyed)
    };
    let id = now(push("r").await).container.record.id;
    until(node, id, runs(1)).await;
    node.order(id, Order::Remove, ExpectedTag::Any)
        .await
        .unwrap();
    until(node, id, |view| view.is_none()).await;
    assert!(matches!(push("r").await, Ok(Idempotent::Before(_))));
    assert!(matches!(push("other").await, Err(Refusal::Reused(_))));
    assert!(node.containers().is_empty() && agent.runtime.instances().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_explained_with_what_is_waited_for() {
    let agent = agent().await;
    let node = &agent.node;
    agent
        .runtime
        .fail_next([crate::runtime::RuntimeError::failed(
            Reason::ImageNotFound,
            "no such tag",
        )]);
    let id = node
        .deploy(ExpectedTag::Any, deploy("web", "nginx"), false)
        .await
        .unwrap()
        .container
        .record
        .id;
    until(node, id, |view| {
        view.unwrap().condition.status == Status::Failed
    })
    .await;
    let explanation = node.explain(id).unwrap();
    let next = explanation.next.as_ref().unwrap();
    assert_eq!(
        (next.word, next.why.as_str()),
        ("wait", "ImageNotFound: no such tag")
    );
    assert!(
        next.until.is_some()
            && explanation.container.next_attempt().is_some()
            && explanation.history.attempts == 1
    );
    until(node, id, runs(1)).await;
    assert!(node.explain(id).unwrap().next.is_none());
    assert!(node.explain(ContainerId::from_bits(1)).is_none());
}

#[tokio::test]
async fn an_explanation_names_whom_a_container_reaches_and_who_reaches_it() {
    let agent = agent_of(3).await;
    let node = &agent.node;
    let mut ids = Vec::new();
    let ingress = json!({"allow": {"ingress": [{"group": "shop", "ports": ["tcp/5432"]}]}});
    for (name, network) in [
        ("web", json!({"groups": ["shop"]})),
        ("db", ingress),
        ("plain", json!("bridge")),
    ] {
        let body = json!({"name": name, "image": "x", "network": network});
        let deploy = state::spec::parse::deploy(&body).unwrap();
        let deployed = node.deploy(ExpectedTag::Any, deploy, false).await.unwrap();
        ids.push(deployed.container.record.id);
    }
    let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
    for (id, reaches, reached_by) in [
        (ids[0], &["db"][..], &[][..]),
        (ids[1], &[], &["web"]),
        (ids[2], &[], &[]),
    ] {
        let expected = AcquaintancesView {
            reaches: names(reaches),
            reached_by: names(reached_by),
        };
        assert_eq!(node.explain(id).unwrap().acquaintances, expected);
    }
}
