//! What runs is not stopped by a rule that came later; it is not started again either, until the rule goes.

use std::time::Duration;

use serde_json::json;
use state::alarm::Alarm;
use state::desired::tag_check::TagOutcome;
use state::desired::{Record, RunState};
use state::policy::{self, Policy};
use state::reason::Reason;
use state::status::Status;
use state::store::StoreError;

use crate::memory_runtime::Call;
use crate::node::{Node, pass, web};

fn other_images() -> Policy {
    let file = json!({"rules": [{"name": "other-images", "images": ["redis"]}]});
    policy::read(&file).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_rule_holds_for_the_next_start_and_for_no_running_container() {
    let node = Node::start();
    let id = node.deploy(&web());
    pass(Duration::from_secs(5)).await;
    node.store.set_policy(other_images());
    pass(Duration::from_secs(120)).await;
    assert_eq!(node.condition(id).status, Status::Running);
    assert_eq!(node.runtime.launches(id), 1);

    node.runtime.reboot();
    let node = node.restart().await;
    node.store.set_policy(other_images());
    node.handle.start_now(id);
    pass(Duration::from_secs(60)).await;
    let (condition, launches) = (node.condition(id), node.runtime.launches(id));
    assert_eq!(
        condition.reason,
        Some(Reason::PolicyDenied),
        "{condition:?}"
    );
    assert!(condition.message.unwrap().contains("\"other-images\""));
    assert!(node.runtime.running().is_empty());
    node.store.set_policy(Policy::default());
    node.handle.start_now(id);
    pass(Duration::from_secs(5)).await;
    assert_eq!(node.condition(id).status, Status::Running);
    assert_eq!(node.runtime.launches(id), launches + 1);
}

#[tokio::test(start_paused = true)]
async fn a_denied_container_is_stopped_and_removed_as_any_other() {
    let node = Node::start();
    let id = node.deploy(&web());
    pass(Duration::from_secs(5)).await;
    node.store.set_policy(other_images());
    node.store
        .change(id, |record| record.run = RunState::Stopped)
        .unwrap();
    node.handle.wake(id);
    pass(Duration::from_secs(5)).await;
    assert!(node.runtime.running().is_empty());
    node.remove(id);
    pass(Duration::from_secs(5)).await;
    assert!(node.store.desired().get(id).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_question_about_a_tag_ends_for_what_runs_and_is_denied() {
    let node = Node::start();
    let id = node.deploy(&web());
    pass(Duration::from_secs(5)).await;
    node.store.ask_tag(id).unwrap();
    node.store.set_policy(other_images());
    node.handle.ask_now(id);
    pass(Duration::from_secs(5)).await;
    let check = node
        .store
        .desired()
        .get(id)
        .unwrap()
        .tag_check
        .clone()
        .unwrap();
    let outcome = check.answer.unwrap().outcome;
    assert!(
        matches!(&outcome, TagOutcome::Failed { reason: Reason::PolicyDenied, message } if message.contains("other-images")),
        "{outcome:?}"
    );
    let condition = node.condition(id);
    assert_eq!(
        (condition.status, condition.reason),
        (Status::Running, None)
    );
    assert_eq!(node.runtime.began(Call::Stop).len(), 0);
    // Whoever asks now hears it at once.
    assert!(matches!(
        node.store.ask_tag(id),
        Err(StoreError::Denied(..))
    ));
}

#[tokio::test(start_paused = true)]
async fn what_runs_is_not_ended_for_a_successor_that_may_not_start() {
    let node = Node::start();
    let id = node.deploy(&web());
    pass(Duration::from_secs(5)).await;
    let launches = node.runtime.launches(id);
    // Another generation whose image is here, and a restart: each came before the rule.
    let changes: [fn(&mut Record); 2] = [
        |record| {
            record.generation += 1;
            record
                .spec
                .environment
                .get_or_insert_default()
                .insert("A".to_owned(), "b".to_owned());
        },
        |record| record.restart_pending = true,
    ];
    for change in changes {
        node.store.set_policy(other_images());
        node.store.change(id, change).unwrap();
        node.handle.wake(id);
        pass(Duration::from_secs(600)).await;
        assert_eq!(node.runtime.running().len(), 1);
        assert_eq!(node.runtime.launches(id), launches);
        node.store
            .change(id, |record| {
                (record.generation, record.restart_pending) = (1, false);
                record.spec.environment.get_or_insert_default().remove("A");
            })
            .unwrap();
    }
    // A stop waits for no policy.
    node.store
        .change(id, |record| record.restart_pending = true)
        .unwrap();
    node.handle.wake(id);
    pass(Duration::from_secs(60)).await;
    node.store
        .change(id, |record| record.run = RunState::Stopped)
        .unwrap();
    node.handle.wake(id);
    pass(Duration::from_secs(2)).await;
    assert!(node.runtime.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_image_that_was_allowed_once_is_judged_again() {
    let node = Node::start();
    let id = node.deploy(&web());
    pass(Duration::from_secs(30)).await;
    assert!(node.journal.alarms().is_empty());
    // As when the image was not on the node at first, or containerd could not map ids then.
    let judge = |denial: Option<&str>| {
        node.runtime.inner().image_denial = denial.map(str::to_owned);
        pass(Duration::from_mins(6))
    };
    judge(Some("its WORKDIR")).await;
    let [alarm] = &node.journal.alarms()[..] else {
        panic!("{:?}", node.journal.alarms());
    };
    assert_eq!(alarm.alarm, Alarm::PolicyViolated);
    assert_eq!(alarm.message, "images: web: its WORKDIR");
    assert_eq!(node.condition(id).status, Status::Running);
    judge(None).await;
    assert!(node.journal.alarms().is_empty());
}
