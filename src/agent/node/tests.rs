use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::task::Poll;

use serde_json::json;
use state::assign::Pool;
use state::store::Limits;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::metrics::Metrics;
use crate::reconcile::{Clock, Reconciler};
use crate::runtime::memory::MemoryRuntime;

struct Agent {
    node: AgentNode,
    runtime: Arc<MemoryRuntime>,
    directory: TempDir,
    stop: CancellationToken,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// One that has taken its first whole look, and takes the next in an hour: what happens until then was woken for.
async fn agent() -> Agent {
    let directory = tempfile::tempdir().unwrap();
    let addresses = Ipv4Addr::new(10, 0, 0, 2)..=Ipv4Addr::new(10, 0, 0, 9);
    let limits = Limits { pool: Pool { addresses, ports: 100..=199 }, containers_max: 2, random: state::store::random };
    let store = Arc::new(Store::open(directory.path(), limits).unwrap());
    let (runtime, tracker, stop) = (Arc::new(MemoryRuntime::default()), TaskTracker::new(), CancellationToken::new());
    let writer = Writer::new(store, Metrics::new(), tracker.clone());
    let reconciler = Reconciler::new(Arc::clone(&runtime), writer.clone(), Clock::start(), Duration::from_hours(1));
    let monitor = Arc::new(Monitor::new(directory.path().to_owned(), "none".to_owned()).unwrap());
    let node = AgentNode::new(writer, reconciler.handle(), monitor, directory.path().join("logs"));
    tracker.spawn(reconciler.run(stop.clone(), tracker.clone()));
    while !node.health().containerd {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Agent { node, runtime, directory, stop }
}

fn deploy(name: &str, image: &str) -> Deploy {
    state::spec::parse::deploy(&json!({"name": name, "image": image})).unwrap()
}

/// Waits for a container to be as `fits` says, in virtual time; the store's thread is let run in between.
async fn until(node: &AgentNode, id: ContainerId, fits: impl Fn(Option<&View>) -> bool) {
    for _ in 0..2000 {
        if fits(node.container(id).as_ref()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        std::thread::sleep(Duration::from_micros(200));
    }
    panic!("it never came to it: {:?}", node.container(id));
}

fn runs(generation: u64) -> impl Fn(Option<&View>) -> bool {
    move |view| view.is_some_and(|v| v.condition.status == Status::Running && v.applied_generation == Some(generation))
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
    hang_up(node.deploy(deploy("web", "nginx"), false)).await;
    while node.containers().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let id = node.containers()[0].record.as_ref().unwrap().id;
    until(node, id, runs(1)).await;
    hang_up(node.change(id, Change::Remove)).await;
    until(node, id, |view| view.is_none()).await;
    assert!(runtime.instances().is_empty());
}

#[tokio::test(start_paused = true)]
async fn changes_come_to_what_they_say() {
    let agent = agent().await;
    let node = &agent.node;
    let first = node.deploy(deploy("web", "nginx"), false).await.unwrap();
    let id = first.view.record.unwrap().id;
    assert!(first.changed);
    until(node, id, runs(1)).await;
    assert!(!node.deploy(deploy("web", "nginx"), false).await.unwrap().changed);
    node.change(id, Change::Stop).await.unwrap();
    until(node, id, |view| view.unwrap().condition.status == Status::Stopped).await;
    node.change(id, Change::Start).await.unwrap();
    until(node, id, runs(1)).await;
    let launches = agent.runtime.launches(id);
    node.change(id, Change::Restart).await.unwrap();
    until(node, id, |_| agent.runtime.launches(id) == launches + 1).await;
    assert!(node.deploy(deploy("web", "nginx:2"), true).await.unwrap().changed);
    assert_eq!(node.container(id).unwrap().record.unwrap().generation, 1, "a dry run stores nothing");
    node.deploy(deploy("web", "nginx:2"), false).await.unwrap();
    until(node, id, runs(2)).await;
    assert_eq!((node.health().running, node.health().unsettled), (1, 0));
    assert!(agent.directory.path().join("state").exists());
}

#[tokio::test(start_paused = true)]
async fn what_failed_with_one_generation_is_not_said_of_the_next() {
    let agent = agent().await;
    let node = &agent.node;
    agent.runtime.fail_next([crate::runtime::RuntimeError::failed(state::reason::Reason::ImageNotFound, "no such tag")]);
    let id = node.deploy(deploy("web", "nginx:no"), false).await.unwrap().view.record.unwrap().id;
    until(node, id, |view| view.unwrap().condition.status == Status::Failed).await;
    let next = node.deploy(deploy("web", "nginx"), false).await.unwrap().view;
    assert_ne!(next.condition.status, Status::Failed, "{next:?}");
    assert_eq!(next.condition.reason, None);
    until(node, id, runs(2)).await;
}

#[tokio::test(start_paused = true)]
async fn refusals_keep_their_kind() {
    let agent = agent().await;
    let node = &agent.node;
    for name in ["a", "b"] {
        node.deploy(deploy(name, "nginx"), false).await.unwrap();
    }
    assert!(matches!(node.deploy(deploy("c", "nginx"), false).await, Err(Refusal::Full(_))));
    let nobody = ContainerId::from_bits(1);
    assert!(matches!(node.change(nobody, Change::Stop).await, Err(Refusal::NotFound(_))));
}
