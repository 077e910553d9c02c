//! The policy's file while the agent runs: taken over, refused, gone.

use state::alarm::Alarm;
use state::desired::RunState;
use state::ownership::ChasSet;
use state::policy::{self, Policy};
use tokio::sync::Notify;

use super::*;
use crate::chas::LinkNode as _;
use crate::config::PolicyFile;
use crate::lock::lock;
use crate::node::link::{AgentLink, LinkConfig};
use crate::node::policy_watch::{self, PolicyRead, PolicyWatch};

fn images(image: &str) -> PolicyRead {
    let file = json!({"rules": [{"name": "images", "images": [image]}]});
    read_as(policy::read(&file).unwrap(), &file.to_string())
}

fn read_as(policy: Policy, text: &str) -> PolicyRead {
    let text = text.to_owned();
    Ok(Some(PolicyFile { policy, text }))
}

fn watch(node: &AgentNode, due: Arc<Notify>) -> PolicyWatch {
    PolicyWatch {
        writer: node.writer.clone(),
        handle: node.handle.clone(),
        journal: node.journal.clone(),
        due,
        poll: None,
    }
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
        .deploy(ExpectedTag::Any, deploy("web", "nginx"), false)
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
    let (read, kept) = (
        Arc::clone(&file),
        Arc::new(std::sync::Mutex::new(Vec::new())),
    );
    let keeping = Arc::clone(&kept);
    let keep = move |text: &str| {
        lock(&keeping).push(text.to_owned());
        Ok(())
    };
    let watching = watch(node, Arc::clone(&due)).run(move || lock(&read).clone(), keep);
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
    let denied = async || {
        node.deploy(ExpectedTag::Any, deploy("b", "nginx"), true)
            .await
            .is_err()
    };
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
    assert_eq!(look(read_as(Policy::default(), "")).await, (None, None));
    assert!(!denied().await);
    let kept: Vec<_> = lock(&kept).iter().map(|text| text.len() > 1).collect();
    assert_eq!(kept, [true, true, false], "each of them once");
    assert!(runs(1)(node.container(id).as_ref()));
}

#[tokio::test(start_paused = true)]
async fn what_a_rule_kept_from_starting_starts_when_it_goes() {
    let Agent { node, stop, .. } = &agent().await;
    let store = node.writer.store();
    let id = node
        .deploy(ExpectedTag::Any, deploy("web", "nginx"), false)
        .await
        .unwrap()
        .container
        .record
        .id;
    store.set_policy(images("redis").unwrap().unwrap().policy);
    let is_denied = |view: Option<&ManagedView>| {
        view.is_some_and(|view| view.condition.reason == Some(Reason::PolicyDenied))
    };
    until(node, id, is_denied).await;
    let watching = watch(node, Arc::default()).run(|| images("nginx"), |_| Ok(()));
    let stop = stop.clone();
    TaskTracker::new().spawn(async move { stop.run_until_cancelled(watching).await });
    until(node, id, runs(1)).await;
}

#[test]
fn an_agent_starts_with_the_policy_that_was_in_force_last_whatever_became_of_its_file() {
    let first = |read, last: PolicyRead| policy_watch::first(read, || last, |policy| policy);
    let before = images("nginx").unwrap().unwrap().policy;
    for gone in [Err("line 3".to_owned()), Ok(None)] {
        assert_eq!(first(gone.clone(), images("nginx")), before);
        let unusable = first(gone, Err("the copy".to_owned())).unusable;
        assert!(unusable.unwrap().contains("the copy"));
    }
    let unusable = first(Err("line 3".to_owned()), Ok(None)).unusable;
    assert_eq!(unusable.as_deref(), Some("line 3"));
    assert_eq!(first(Ok(None), Ok(None)), Policy::default());
    let emptied = first(Ok(None), read_as(Policy::default(), ""));
    assert!(emptied.is_own_rules_alone());
    assert_eq!(
        first(images("redis"), images("nginx")),
        images("redis").unwrap().unwrap().policy
    );
}

fn chas_set(generation: u64, names: &[String], image: &str) -> ChasSet {
    ChasSet {
        epoch: "e".to_owned(),
        generation,
        containers: names.iter().map(|name| deploy(name, image)).collect(),
        requested_at_seq: u64::MAX,
        prune_confirm: Some(generation),
        ..ChasSet::default()
    }
}

#[tokio::test(start_paused = true)]
async fn chas_lifts_its_budget_neither_by_dummies_nor_by_a_broken_file() {
    let Agent { node, .. } = &agent_of(40).await;
    let link = AgentLink::new(
        Arc::clone(node),
        Arc::default(),
        LinkConfig {
            node: crate::config::NodeSection {
                id: "n".to_owned(),
                hostname: "n".to_owned(),
                address: None,
                labels: std::collections::BTreeMap::new(),
            },
            port: 1,
            chas_address: None,
        },
    );
    let store = node.writer.store();
    let half = policy::read(&json!({"changes_per_hour": "50%"})).unwrap();
    store.set_policy(half.clone());
    let names = |count: usize| (0..count).map(|n| format!("c{n}")).collect::<Vec<_>>();
    let changed = async |set: ChasSet| link.apply_set(set).await.unwrap().spent.len();
    let running = |image: &str| {
        let desired = store.desired();
        let of = desired
            .records()
            .filter(|record| record.spec.image.to_string().contains(image));
        of.filter(|record| !record.removing).count()
    };
    assert_eq!(changed(chas_set(1, &names(10), "nginx")).await, 0);
    // Ten that have proven to run for more than an hour: five may be changed within one.
    let prove = || {
        let proven: Vec<_> = store
            .desired()
            .records()
            .filter(|record| record.spec.image.to_string().contains("nginx"))
            .map(|record| (record.instance(), record.image_digest.clone()))
            .collect();
        store.note_proven(&proven).unwrap();
    };
    tokio::time::sleep(Duration::from_secs(3700)).await;
    prove();
    let with_dummies = |mut set: ChasSet| {
        let dummy = |n: usize| deploy(&format!("dummy{n}"), "nothing-there");
        set.containers.extend((0..20).map(dummy));
        set
    };
    let more = with_dummies(chas_set(2, &names(10), "nginx"));
    assert_eq!(changed(more).await, 0);
    let other = with_dummies(chas_set(3, &names(10), "other"));
    assert_eq!(changed(other).await, 5);
    assert_eq!(running("nginx"), 5);
    assert_eq!(changed(chas_set(4, &[], "")).await, 0);
    tokio::time::sleep(Duration::from_secs(3700)).await;
    prove();
    // Nobody knows what it permits, so nothing is ended or changed.
    store.set_policy(Policy {
        unusable: Some("line 3".to_owned()),
        ..Policy::default()
    });
    let mut stopped = chas_set(5, &names(10), "nginx");
    stopped
        .containers
        .iter_mut()
        .for_each(|deploy| deploy.run = RunState::Stopped);
    for set in [stopped, chas_set(6, &[], "")] {
        assert_eq!(changed(set).await, 0);
        assert_eq!(running("nginx"), 5);
    }
    let stops = store
        .desired()
        .records()
        .filter(|record| record.run != RunState::Running)
        .count();
    assert_eq!(stops, 0);
}
