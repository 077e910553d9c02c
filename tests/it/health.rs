//! Probes of containers: a verdict follows from the answers, a restart from the verdict, and nothing of it from a
//! restart of the agent.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chas_node_agent::probe::{Asker, ProbeOrder, ProbeResult};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use state::desired::{Owner, RunState};
use state::health::Verdict;
use state::id::ContainerId;
use state::reason::Reason;
use state::status::Status;
use tokio::time::Instant;

use crate::memory_runtime::Call;
use crate::node::{Node, pass};

/// What a container does that is asked.
#[derive(Clone, Debug)]
enum Manner {
    Answers(ProbeResult),
    FailsOnly(ContainerId),
    Hangs,
    HangsFor(Duration),
    Panics,
}

/// Container that is asked as a test says.
#[derive(Debug)]
struct Script {
    manner: Mutex<Manner>,
    asked: Mutex<Vec<(ContainerId, Instant)>>,
    under_way: Arc<AtomicUsize>,
}

struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Script {
    fn new(manner: Manner) -> Arc<Self> {
        Arc::new(Self {
            manner: Mutex::new(manner),
            asked: Mutex::default(),
            under_way: Arc::default(),
        })
    }

    fn now(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    fn fail_only(&self, id: ContainerId) {
        *self.manner.lock().unwrap() = Manner::FailsOnly(id);
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

impl Asker for Script {
    fn ask(&self, wanted: ProbeOrder) -> BoxFuture<'static, ProbeResult> {
        let asked = (wanted.instance.id, Instant::now());
        self.asked.lock().unwrap().push(asked);
        let manner = self.manner.lock().unwrap().clone();
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let under_way = UnderWay(Arc::clone(&self.under_way));
        async move {
            let _under_way = under_way;
            match manner {
                Manner::Answers(said) => said,
                Manner::FailsOnly(id) if id == wanted.instance.id => Some(Err("no".to_owned())),
                Manner::FailsOnly(_) => Some(Ok("HTTP 200".to_owned())),
                Manner::Hangs => std::future::pending().await,
                Manner::HangsFor(time) => {
                    tokio::time::sleep(time).await;
                    Some(Err("hung".to_owned()))
                }
                Manner::Panics => panic!("on purpose"),
            }
        }
        .boxed()
    }
}

fn works() -> Manner {
    Manner::Answers(Some(Ok("HTTP 200".to_owned())))
}

fn fails() -> Manner {
    Manner::Answers(Some(Err("HTTP 503".to_owned())))
}

fn web(health: &Value, more: &Value) -> Value {
    let mut body = json!({"name": "web", "image": "nginx", "health": health});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body
}

fn tcp() -> Value {
    json!({"tcp": {"port": 80}})
}

fn verdict(node: &Node, id: ContainerId) -> Option<Verdict> {
    let history = node.handle.board().known(id).history;
    history.health.map(|health| health.verdict)
}

fn counted(node: &Node, line: &str) -> bool {
    node.metrics.text().lines().any(|known| known == line)
}

async fn seconds(seconds: u64) {
    pass(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_is_ready_once_its_probe_says_so_and_unhealthy_after_so_many_failures() {
    let (node, asker) = (Node::start(), Script::new(fails()));
    node.probe(Arc::clone(&asker) as _);
    let body = web(
        &json!({"tcp": {"port": 80}, "start_period": "30s"}),
        &json!({}),
    );
    let id = node.deploy(&body);
    seconds(20).await;
    let history = node.handle.board().known(id).history;
    assert_eq!(history.ready_since(), None);
    assert_eq!(node.condition(id).status, Status::Running);
    assert!((14..=20).contains(&asker.asked()), "{}", asker.asked());
    asker.now(works());
    seconds(3).await;
    assert_eq!(verdict(&node, id), Some(Verdict::Ready));
    let before = asker.asked();
    asker.now(fails());
    seconds(18).await;
    assert!(asker.asked() <= before + 2);
    assert_eq!(node.condition(id).status, Status::Running);
    seconds(13).await;
    let shown = node.condition(id);
    assert_eq!(
        (shown.status, shown.reason),
        (Status::Unhealthy, Some(Reason::Unhealthy))
    );
    assert_eq!(
        shown.message.unwrap(),
        "its probe failed 3 times in a row: HTTP 503"
    );
    asker.now(works());
    seconds(11).await;
    assert_eq!(node.condition(id).status, Status::Running);
    assert_eq!(
        node.runtime.launches(id),
        1,
        "it is told, and not restarted"
    );
    for line in ["ready\"} 2", "unhealthy\"} 1"] {
        let line = format!("chas_health_changes_total{{verdict=\"{line}");
        assert!(counted(&node, &line), "{line} of {}", node.metrics.text());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_unhealthy_is_restarted_with_growing_waits_and_within_its_policy() {
    for (restart, launches, end) in [
        (
            json!({"policy": "on-failure", "max_retries": 2}),
            3,
            Some(Reason::RetriesExhausted),
        ),
        (json!({"policy": "always"}), 5, None),
    ] {
        let (node, asker) = (Node::start(), Script::new(fails()));
        node.probe(Arc::clone(&asker) as _);
        let health = json!({"tcp": {"port": 80}, "interval": "1s", "on_failure": "restart"});
        let id = node.deploy(&web(&health, &json!({"restart": restart})));
        let (mut found, began) = (Vec::new(), Instant::now());
        while node.runtime.launches(id) < launches {
            assert!(
                began.elapsed() < Duration::from_secs(90),
                "{:?}",
                node.condition(id)
            );
            let shown = node.condition(id);
            found.extend(shown.reason.filter(|_| shown.status == Status::Restarting));
            pass(Duration::from_millis(200)).await;
        }
        seconds(6).await;
        assert!(node.runtime.launches(id) >= launches);
        assert!(found.contains(&Reason::Unhealthy), "{found:?}");
        let shown = node.condition(id);
        match end {
            Some(reason) => {
                assert_eq!((shown.status, shown.reason), (Status::Failed, Some(reason)));
                let message = shown.message.unwrap();
                assert!(
                    message.starts_with("was stopped since its probe failed"),
                    "{message}"
                );
                assert_eq!(node.runtime.launches(id), launches);
            }
            None => assert_ne!(shown.status, Status::Failed),
        }
        assert_eq!(node.runtime.most_tasks_of_one(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_agent_changes_no_verdict_and_forgets_no_failure() {
    let (node, asker) = (Node::start(), Script::new(works()));
    node.probe(Arc::clone(&asker) as _);
    let id = node.deploy(&web(&tcp(), &json!({})));
    seconds(20).await;
    let since = node.handle.board().known(id).history.ready_since();
    assert!(since.is_some());
    asker.now(fails());
    seconds(21).await;
    let failures = |node: &Node| node.handle.board().known(id).history.health.unwrap().streak;
    assert_eq!(failures(&node), 2);
    let mut node = node.restart().await;
    for _ in 0..5 {
        seconds(2).await;
        assert_eq!(node.handle.board().known(id).history.ready_since(), since);
        assert_eq!(failures(&node), 2, "nobody has asked since");
        node = node.restart().await;
    }
    node.probe(Arc::clone(&asker) as _);
    seconds(12).await;
    assert_eq!(node.condition(id).status, Status::Unhealthy);
    assert_eq!(node.runtime.launches(id), 1);
}

#[tokio::test(start_paused = true)]
async fn a_probe_ends_with_its_container_and_one_that_hangs_or_panics_costs_no_other() {
    let (node, asker) = (Node::start(), Script::new(Manner::Hangs));
    node.probe(Arc::clone(&asker) as _);
    let id = node.deploy(&web(&tcp(), &json!({})));
    seconds(10).await;
    assert_eq!(asker.under_way.load(Ordering::Relaxed), 1);
    asker.now(works());
    let other = json!({"name": "other", "image": "nginx", "health": tcp()});
    let other = node.deploy(&other);
    seconds(20).await;
    assert_eq!(verdict(&node, other), Some(Verdict::Ready));
    assert_eq!(verdict(&node, id), Some(Verdict::Starting));
    node.store
        .change(id, |record| record.run = RunState::Stopped)
        .unwrap();
    node.handle.wake(id);
    seconds(1).await;
    assert_eq!(asker.under_way.load(Ordering::Relaxed), 0);
    asker.now(Manner::Panics);
    seconds(15).await;
    asker.now(fails());
    seconds(40).await;
    assert_eq!(verdict(&node, other), Some(Verdict::Unhealthy));
    let last = asker.asked();
    node.remove(other);
    seconds(30).await;
    assert!(asker.asked() <= last + 1);
    assert_eq!(asker.under_way.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_probe_alone_restarts_nothing_and_begins_the_verdict_anew() {
    let (node, asker) = (Node::start(), Script::new(works()));
    node.probe(Arc::clone(&asker) as _);
    let id = node.deploy(&web(&tcp(), &json!({})));
    seconds(10).await;
    assert_eq!(verdict(&node, id), Some(Verdict::Ready));
    asker.now(fails());
    node.deploy(&web(&json!({"tcp": {"port": 81}}), &json!({})));
    seconds(2).await;
    assert_eq!(verdict(&node, id), Some(Verdict::Starting));
    node.deploy(&web(&json!("none"), &json!({})));
    seconds(2).await;
    assert_eq!(verdict(&node, id), None);
    assert!(
        node.handle
            .board()
            .known(id)
            .history
            .ready_since()
            .is_some()
    );
    let asked = asker.asked();
    seconds(60).await;
    assert_eq!(asker.asked(), asked);
    assert_eq!(node.runtime.launches(id), 1);
}

#[tokio::test(start_paused = true)]
async fn programs_that_hang_take_no_turn_of_others_and_nothing_is_lost_where_many_change_at_once() {
    let (node, asker) = (
        Node::start(),
        Script::new(Manner::HangsFor(Duration::from_secs(60))),
    );
    node.probe(Arc::clone(&asker) as _);
    let deploy = |name: String| {
        let health = json!({"exec": {"command": ["a"]}, "interval": "1s", "timeout": "1m"});
        node.deploy(&json!({"name": name, "image": "nginx", "health": health}))
    };
    for n in 0..20 {
        deploy(format!("hung{n}"));
    }
    seconds(30).await;
    assert_eq!(asker.under_way.load(Ordering::Relaxed), 16);
    asker.now(works());
    let good: Vec<_> = (0..20).map(|n| deploy(format!("good{n}"))).collect();
    seconds(50).await;
    for id in &good {
        assert_eq!(verdict(&node, *id), Some(Verdict::Ready));
    }
    let node = node.restart().await;
    for id in good {
        assert_eq!(verdict(&node, id), Some(Verdict::Ready));
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_who_could_ask_is_no_failure_and_the_verdict_only_grows_old() {
    let (node, asker) = (Node::start(), Script::new(works()));
    node.probe(Arc::clone(&asker) as _);
    let id = node.deploy(&web(&tcp(), &json!({})));
    seconds(10).await;
    asker.now(Manner::Answers(None));
    seconds(120).await;
    assert_eq!(verdict(&node, id), Some(Verdict::Ready));
    let history = node.handle.board().known(id).history;
    let (health, started) = (history.health.unwrap(), history.started.unwrap());
    let desired = node.store.desired();
    let check = desired.get(id).unwrap().spec.health.clone().unwrap();
    let now = node.handle.board().clock.now();
    assert!(health.is_stale(check.check().unwrap(), started, now));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_asked_costs_no_turn_while_its_verdict_stands() {
    let (node, asker) = (Node::start(), Script::new(works()));
    node.probe(Arc::clone(&asker) as _);
    for name in 0..40 {
        let body = json!({"name": format!("c{name}"), "image": "nginx", "health": {"tcp": {"port": 80}, "interval": "1s"}});
        let deploy = state::spec::parse::deploy(&body).unwrap();
        let deployed = node.store.deploy(deploy, Owner::Push, false, 0).unwrap();
        node.handle.wake(deployed.record.id);
    }
    seconds(20).await;
    let (changes, asked) = (*node.handle.board().changes().borrow(), asker.asked());
    // Between two looks at everything.
    seconds(8).await;
    assert!(asker.asked() >= asked + 7 * 40);
    assert!(*node.handle.board().changes().borrow() <= changes + 1);
    assert!(node.runtime.began(Call::Launch).len() == 40);
}

#[tokio::test(start_paused = true)]
async fn where_most_fail_at_once_none_is_ended_and_one_alone_is() {
    let (node, asker) = (Node::start(), Script::new(works()));
    node.probe(Arc::clone(&asker) as _);
    let body = |name: &str| json!({"name": name, "image": "nginx", "health": {"tcp": {"port": 80}, "interval": "5s", "on_failure": "restart"}});
    let ids: Vec<_> = ["a", "b", "c", "d", "e"]
        .iter()
        .map(|name| node.deploy(&body(name)))
        .collect();
    seconds(20).await;
    asker.now(fails());
    seconds(120).await;
    for id in &ids {
        assert_eq!(node.runtime.launches(*id), 1);
        assert_eq!(node.condition(*id).status, Status::Unhealthy);
    }
    let standing = |node: &Node| {
        let alarms = node.journal.alarms();
        alarms
            .iter()
            .any(|alarm| alarm.alarm == state::alarm::Alarm::MostUnhealthy)
    };
    assert!(standing(&node));
    asker.now(works());
    seconds(20).await;
    assert!(!standing(&node));
    // Of six, one that goes alone is ended.
    asker.fail_only(ids[0]);
    seconds(30).await;
    assert!(node.runtime.launches(ids[0]) > 1);
    let others = ids[1..].iter().map(|id| node.runtime.launches(*id));
    assert_eq!(others.max(), Some(1));
    assert!(!standing(&node));
}

#[tokio::test(start_paused = true)]
async fn a_verdict_that_alternates_fills_no_log() {
    let (node, asker) = (Node::start(), Script::new(works()));
    node.probe(Arc::clone(&asker) as _);
    let health = json!({"tcp": {"port": 80}, "interval": "1s", "retries": 1});
    let id = node.deploy(&web(&health, &json!({})));
    seconds(5).await;
    for _ in 0..25 {
        asker.now(fails());
        seconds(1).await;
        asker.now(works());
        seconds(1).await;
    }
    let told = node.journal.errors();
    let told = told.iter().find(|error| error.code == "Unhealthy").unwrap();
    assert!((1..=4).contains(&told.count), "{}", told.count);
    assert_eq!(node.runtime.launches(id), 1);
    let text = node.metrics.text();
    let line = text
        .lines()
        .find(|line| line.contains("verdict=\"unhealthy\""));
    let count: u64 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(count > 15, "{count}");
}
