//! The policy's file while the agent runs: taken over, refused, gone.

use state::alarm::Alarm;
use state::policy::{self, Policy};
use tokio::sync::Notify;

use super::*;
use crate::lock::lock;
use crate::node::policy_watch::{self, PolicyRead, PolicyWatch};

fn images(image: &str) -> PolicyRead {
    let file = json!({"rules": [{"name": "images", "images": [image]}]});
    Ok(Some(policy::read(&file).unwrap()))
}

/// The faults of these alarms that stand.
fn alarms(node: &AgentNode) -> (Option<String>, Option<String>) {
    let standing = node.journal.alarms();
    let told = |alarm| {
        standing
            .iter()
            .find(|kept| kept.alarm == alarm)
            .map(|kept| kept.message.clone())
    };
    (told(Alarm::PolicyUnusable), told(Alarm::PolicyViolated))
}

#[tokio::test(start_paused = true)]
async fn a_file_is_taken_over_when_it_changes_and_kept_when_it_cannot_be_used() {
    let Agent { node, stop, .. } = &agent().await;
    let id = node
        .deploy(deploy("web", "nginx"), false)
        .await
        .unwrap()
        .container
        .record
        .id;
    until(node, id, runs(1)).await;
    let (file, due) = (
        Arc::new(std::sync::Mutex::new(images("nginx"))),
        Arc::new(Notify::new()),
    );
    let watch = PolicyWatch {
        writer: node.writer.clone(),
        handle: node.handle.clone(),
        journal: node.journal.clone(),
        due: Arc::clone(&due),
    };
    let read = Arc::clone(&file);
    let watching = watch.run(move || lock(&read).clone());
    let stop = stop.clone();
    TaskTracker::new().spawn(async move { stop.run_until_cancelled(watching).await });
    let look = async |now: PolicyRead| {
        *lock(&file) = now;
        due.notify_one();
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            std::thread::sleep(Duration::from_micros(200));
        }
        alarms(node)
    };
    assert_eq!(look(images("nginx")).await, (None, None));
    let denied = async || node.deploy(deploy("b", "nginx"), true).await.is_err();
    assert!(!denied().await);
    let (unusable, violated) = look(images("redis")).await;
    assert!(unusable.is_none() && violated.unwrap().starts_with("web: policy rule \"images\""));
    assert!(denied().await);
    // What cannot be used, or is gone, takes nothing back.
    let (unusable, violated) = look(Err("line 3".to_owned())).await;
    assert_eq!(unusable.as_deref(), Some("line 3"));
    assert!(violated.is_some() && denied().await);
    let (unusable, _) = look(Ok(None)).await;
    assert!(unusable.unwrap().contains("gone") && denied().await);
    assert_eq!(look(Ok(Some(Policy::default()))).await, (None, None));
    assert!(!denied().await);
    assert!(runs(1)(node.container(id).as_ref()));
}

#[tokio::test(start_paused = true)]
async fn what_a_rule_kept_from_starting_starts_when_it_goes() {
    let Agent { node, stop, .. } = &agent().await;
    let store = node.writer.store();
    let id = node
        .deploy(deploy("web", "nginx"), false)
        .await
        .unwrap()
        .container
        .record
        .id;
    store.set_policy(images("redis").unwrap().unwrap());
    let is_denied = |view: Option<&ManagedView>| {
        view.is_some_and(|view| view.condition.reason == Some(Reason::PolicyDenied))
    };
    until(node, id, is_denied).await;
    let watch = PolicyWatch {
        writer: node.writer.clone(),
        handle: node.handle.clone(),
        journal: node.journal.clone(),
        due: Arc::default(),
    };
    let watching = watch.run(|| images("nginx"));
    let stop = stop.clone();
    TaskTracker::new().spawn(async move { stop.run_until_cancelled(watching).await });
    until(node, id, runs(1)).await;
}

#[test]
fn an_agent_that_starts_with_a_file_it_cannot_use_takes_in_nothing_new() {
    let first = policy_watch::first(Err("line 3".to_owned()), |policy| policy);
    assert_eq!(first.unusable.as_deref(), Some("line 3"));
    assert_eq!(
        policy_watch::first(Ok(None), |policy| policy),
        Policy::default()
    );
}
