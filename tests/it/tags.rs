//! A tag that moved is followed when somebody asks for it, and nothing waits for a registry that does not say.

use std::time::Duration;

use chas_node_agent::runtime::RuntimeError;
use serde_json::json;
use state::id::{ContainerId, InstanceName};
use state::ownership::Order;
use state::reason::Reason;
use state::status::Status;

use crate::memory_runtime::Call;
use crate::node::{Node, pass, web};

const TAG: &str = "docker.io/library/nginx:latest";
const TWO: &str = "digest two";

impl Node {
    fn ask_tag(&self, id: ContainerId) {
        self.store.ask_tag(id).unwrap();
        self.handle.ask_now(id);
    }

    fn order(&self, id: ContainerId, order: Order) {
        self.store.order(id, order).unwrap();
        self.handle.wake(id);
    }

    /// State of the last question, and the digest that the running container is made of.
    fn tag(&self, id: ContainerId) -> (&'static str, String) {
        let desired = self.store.desired();
        let check = desired.get(id).unwrap().tag_check.as_ref();
        let running = self.runtime.running();
        let made = running.iter().next();
        let image = made.and_then(|name| self.runtime.image_of(*name));
        (
            check.map_or("none", |check| check.as_str()),
            image.unwrap_or_default(),
        )
    }

    fn counted(&self, result: &str) -> bool {
        let line = format!("chas_image_tag_checks_total{{result=\"{result}\"}} 1");
        self.metrics.text().lines().any(|shown| shown == line)
    }
}

fn one() -> String {
    format!("digest of {TAG}")
}

fn unreachable() -> RuntimeError {
    RuntimeError::failed(Reason::RegistryUnreachable, "no route to host")
}

#[tokio::test(start_paused = true)]
async fn a_container_is_restarted_once_for_a_tag_that_moved_and_not_for_one_that_did_not() {
    let node = Node::start();
    let id = node.deploy(&web());
    pass(Duration::from_secs(5)).await;
    node.ask_tag(id);
    pass(Duration::from_secs(1)).await;
    assert_eq!(node.condition(id).status, Status::Running);
    assert_eq!(node.tag(id), ("pending", one()));
    pass(Duration::from_secs(4)).await;
    assert_eq!(node.tag(id), ("unchanged", one()));
    assert_eq!(
        (
            node.runtime.launches(id),
            node.runtime.began(Call::Stop).len()
        ),
        (1, 0)
    );
    node.runtime.move_tag(TAG, TWO);
    node.deploy(&web());
    pass(Duration::from_secs(5)).await;
    assert_eq!(
        node.runtime.launches(id),
        1,
        "the same body asks for nothing"
    );
    node.ask_tag(id);
    pass(Duration::from_secs(5)).await;
    assert_eq!(node.tag(id), ("moved", TWO.to_owned()));
    assert_eq!(
        (node.runtime.launches(id), node.runtime.most_tasks_of_one()),
        (2, 1)
    );
    assert!(node.settled() && node.counted("unchanged") && node.counted("moved"));
    // The image before stays to go back to, and the sweep leaves both.
    pass(Duration::from_secs(60)).await;
    assert_eq!(node.runtime.launches(id), 2);
}

#[tokio::test(start_paused = true)]
async fn a_restart_follows_the_tag_with_the_policy_always_and_happens_whatever_the_registry_says() {
    let node = Node::start();
    let id = node.deploy(&json!({"name": "web", "image": "nginx", "image_pull": "always"}));
    pass(Duration::from_secs(5)).await;
    node.runtime
        .fail_next_of(Call::EnsureImage, [unreachable()]);
    node.order(id, Order::Restart);
    pass(Duration::from_secs(5)).await;
    assert_eq!(node.tag(id), ("failed", one()));
    assert_eq!(
        (node.runtime.launches(id), node.counted("failed")),
        (2, true)
    );
    assert_eq!(node.condition(id).status, Status::Running);
    node.runtime.move_tag(TAG, TWO);
    node.order(id, Order::Restart);
    pass(Duration::from_secs(5)).await;
    assert_eq!(node.tag(id), ("moved", TWO.to_owned()));
    assert_eq!(node.runtime.launches(id), 3, "one restart for both");
    // A container that was stopped is started from it as well, and once.
    node.order(id, Order::Stop);
    pass(Duration::from_secs(5)).await;
    node.runtime.move_tag(TAG, "digest three");
    node.order(id, Order::Restart);
    pass(Duration::from_secs(5)).await;
    assert_eq!(node.tag(id), ("moved", "digest three".to_owned()));
    assert_eq!(node.runtime.launches(id), 4);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_container_has_its_image_renewed_for_its_next_start_and_a_stop_waits_for_none() {
    let node = Node::start();
    let id = node.deploy(&web());
    pass(Duration::from_secs(5)).await;
    node.runtime.move_tag(TAG, TWO);
    node.ask_tag(id);
    pass(Duration::from_secs(1)).await;
    node.order(id, Order::Stop);
    pass(Duration::from_secs(1)).await;
    assert!(node.runtime.running().is_empty());
    assert_eq!(node.condition(id).status, Status::Stopped);
    assert_eq!(node.tag(id).0, "pending");
    pass(Duration::from_secs(5)).await;
    assert_eq!((node.tag(id).0, node.runtime.launches(id)), ("moved", 1));
    node.order(id, Order::Start);
    pass(Duration::from_secs(5)).await;
    assert_eq!(node.tag(id), ("moved", TWO.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_question_outlives_the_agent_and_the_last_one_counts() {
    let node = Node::start();
    let id = node.deploy(&web());
    pass(Duration::from_secs(5)).await;
    node.runtime.move_tag(TAG, TWO);
    node.ask_tag(id);
    pass(Duration::from_secs(1)).await;
    let node = node.restart().await;
    pass(Duration::from_secs(1)).await;
    assert_eq!(node.tag(id), ("pending", one()));
    node.runtime.move_tag(TAG, "digest three");
    node.ask_tag(id);
    pass(Duration::from_secs(10)).await;
    assert_eq!(node.tag(id), ("moved", "digest three".to_owned()));
    assert_eq!(node.runtime.launches(id), 2);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_waits_for_its_next_attempt_is_asked_about_at_once() {
    let node = Node::start();
    let id = node.deploy(&web());
    pass(Duration::from_secs(5)).await;
    let refused = || RuntimeError::failed(Reason::CommandNotFound, "no such program");
    node.runtime
        .fail_next_of(Call::Launch, (0..6).map(|_| refused()));
    node.order(id, Order::Restart);
    pass(Duration::from_secs(20)).await;
    // An attempt may be under way just now.
    while node.condition(id).status != Status::Failed {
        pass(Duration::from_millis(50)).await;
    }
    let asked = node.runtime.began(Call::EnsureImage).len();
    node.runtime.move_tag(TAG, TWO);
    node.ask_tag(id);
    // The wait in force is of eight seconds or more.
    pass(Duration::from_secs(2)).await;
    assert_eq!(node.runtime.began(Call::EnsureImage).len(), asked + 1);
    pass(Duration::from_secs(120)).await;
    assert_eq!(node.tag(id), ("moved", TWO.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_removed_meanwhile_is_only_removed() {
    let node = Node::start();
    let id = node.deploy(&web());
    pass(Duration::from_secs(5)).await;
    node.runtime.move_tag(TAG, TWO);
    node.ask_tag(id);
    pass(Duration::from_secs(1)).await;
    node.remove(id);
    pass(Duration::from_secs(5)).await;
    assert!(node.runtime.instances().is_empty() && node.store.desired().get(id).is_none());
    assert_eq!(node.runtime.launches(id), 1);
}

#[tokio::test(start_paused = true)]
async fn a_tag_is_followed_at_an_interval_where_its_container_runs_and_says_always() {
    let node = Node::start();
    let body = |name: &str, pull: &str| {
        node.deploy(&json!({"name": name, "image": "nginx", "image_pull": pull}))
    };
    let (follows, stays, stopped) = (
        body("follows", "always"),
        body("stays", "if-not-present"),
        body("stopped", "always"),
    );
    pass(Duration::from_secs(5)).await;
    node.order(stopped, Order::Stop);
    let minute = Duration::from_mins(1);
    node.follow_tags(minute);
    let asked = |id| node.store.desired().get(id).unwrap().tag_check.clone();
    // The questions of a node are spread over the interval, so none has a time of its own.
    let answered = async |with: &str| {
        for _ in 0..180 {
            if asked(follows).is_some_and(|check| check.as_str() == with) {
                return true;
            }
            pass(Duration::from_secs(1)).await;
        }
        false
    };
    assert!(answered("unchanged").await);
    assert_eq!(node.runtime.launches(follows), 1);
    node.runtime.move_tag(TAG, TWO);
    assert!(answered("moved").await);
    pass(Duration::from_secs(5)).await;
    assert_eq!(node.runtime.launches(follows), 2);
    assert_eq!((asked(stays), asked(stopped)), (None, None));
    assert_eq!(node.runtime.launches(stays), 1);
}

#[tokio::test(start_paused = true)]
async fn what_ends_while_its_tag_is_asked_for_is_started_first_and_a_job_runs_no_second_time() {
    let node = Node::start();
    let crashes = node.deploy(&web());
    let job = json!({"name": "job", "image": "nginx", "restart": {"policy": "never"}});
    let job = node.deploy(&job);
    pass(Duration::from_secs(5)).await;
    node.runtime.move_tag(TAG, TWO);
    for id in [crashes, job] {
        node.ask_tag(id);
    }
    pass(Duration::from_secs(1)).await;
    for (id, code) in [(crashes, 1), (job, 0)] {
        let name = InstanceName { id, generation: 1 };
        node.runtime.exit(name, code, false, Duration::ZERO);
    }
    // An answer takes longer than that.
    pass(Duration::from_secs(2)).await;
    assert_eq!(node.runtime.launches(crashes), 2);
    assert_eq!(node.condition(job).status, Status::Stopped);
    pass(Duration::from_secs(20)).await;
    assert_eq!(node.tag(crashes), ("moved", TWO.to_owned()));
    assert_eq!(node.tag(job).0, "moved");
    let launches = [crashes, job].map(|id| node.runtime.launches(id));
    assert_eq!(launches, [3, 1]);
}
