//! Changes of live parts: a generation of its own that the same instance carries.

use super::*;
use crate::desired::Record;
use crate::desired::tag_check::TagCheck;

fn body(change: &Value) -> Value {
    let mut body = json!({"name": "a", "image": "x", "exposed_ports": [{"container": 80}]});
    let fields = change.as_object().cloned().unwrap_or_default();
    body.as_object_mut().unwrap().extend(fields);
    body
}

fn put(store: &Store, change: &Value) -> Arc<Record> {
    deploy(store, &body(change)).unwrap().record
}

fn numbers(record: &Record) -> (u64, u64) {
    (record.generation, record.instance().generation)
}

/// A container that runs, has proven itself, and is asked to restart.
fn running(store: &Store) -> Arc<Record> {
    let instance = put(store, &json!({})).instance();
    let note = |record: &mut Record| {
        record.image_digest = Some("sha256:1".to_owned());
        (record.is_proven, record.restart_pending) = (true, true);
    };
    store.note(instance, note).unwrap();
    store.desired().get(instance.id).cloned().unwrap()
}

#[test]
fn a_live_change_is_the_next_generation_of_the_same_instance() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let first = running(&store);
    let second = put(&store, &json!({"resources": {"memory": "64m"}}));
    assert_eq!(numbers(&second), (2, 1));
    assert_ne!(second.spec_hash, first.spec_hash);
    assert!(second.seq > first.seq && second.is_proven && second.restart_pending);
    assert_eq!(second.image_digest, first.image_digest);
    assert_eq!(second.assignment, first.assignment);
    assert_eq!(second.tag_check, None);
    // Asked again, stopped and started, it stays so.
    let again = deploy(&store, &body(&json!({"resources": {"memory": "64m"}}))).unwrap();
    assert_eq!((again.changed, numbers(&again.record)), (false, (2, 1)));
    let third = put(&store, &json!({"labels": {"a": "b"}}));
    assert_eq!(numbers(&third), (3, 1));
    let fourth = put(&store, &json!({"environment": {"A": "1"}}));
    assert_eq!(numbers(&fourth), (4, 4));
    assert!(!fourth.is_proven && !fourth.restart_pending && fourth.image_digest.is_none());
    let fifth = put(
        &store,
        &json!({"environment": {"A": "1"}, "stop": {"timeout": "1s"}}),
    );
    assert_eq!(numbers(&fifth), (5, 4));
    drop(store);
    assert_eq!(
        *open(directory.path()).desired().get(fifth.id).unwrap(),
        fifth
    );
}

#[test]
fn a_fact_about_an_instance_counts_for_its_later_generations_and_its_end_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let first = put(&store, &json!({}));
    let second = put(
        &store,
        &json!({"restart": {"policy": "always", "max_retries": 3}}),
    );
    let digest = Some("sha256:1".to_owned());
    store
        .set_image_digest(first.instance(), digest.clone())
        .unwrap();
    let finished = Finished {
        code: 0,
        reason: Reason::Completed,
        at_ms: 0,
    };
    store
        .finish(first.id, first.generation, finished.clone())
        .unwrap();
    let known = store.desired().get(first.id).cloned().unwrap();
    assert_eq!((&known.image_digest, &known.finished), (&digest, &None));
    store.finish(first.id, second.generation, finished).unwrap();
    assert!(store.desired().get(first.id).unwrap().finished.is_some());
    // A change starts it again, as every change does.
    let third = put(&store, &json!({"resources": {"memory": "64m"}}));
    assert_eq!((numbers(&third), &third.finished), ((3, 1), &None));
}

#[test]
fn another_place_on_the_network_or_a_removal_makes_a_new_instance() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    running(&store);
    let ports = json!([{"container": 80, "host": 105}]);
    let moved = put(
        &store,
        &json!({"exposed_ports": ports, "labels": {"a": "b"}}),
    );
    assert_eq!(numbers(&moved), (2, 2));
    store
        .order(moved.id, crate::ownership::Order::Remove)
        .unwrap();
    let anew = put(
        &store,
        &json!({"exposed_ports": ports, "labels": {"a": "c"}}),
    );
    assert_eq!(numbers(&anew), (3, 3));
}

#[test]
fn a_tag_that_is_always_pulled_is_asked_for_with_a_live_change_too() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let always = |label: &str| json!({"image_pull": "always", "labels": {"a": label}});
    let first = put(&store, &always("1"));
    assert_eq!(
        put(&store, &always("2")).tag_check,
        None,
        "asked for anyway"
    );
    let digest = Some("sha256:1".to_owned());
    store.set_image_digest(first.instance(), digest).unwrap();
    let third = put(&store, &always("3"));
    assert_eq!(numbers(&third), (3, 1));
    assert_eq!(third.tag_check, Some(TagCheck::by_change(third.seq)));
}
