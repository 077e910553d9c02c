//! Ownership over pushes, sets, deletions, stops and starts in any order: no owner loses a
//! container.

mod histories;

use std::collections::BTreeSet;

use super::*;
use crate::desired::RunState;
use crate::desired::applied::AppliedSet;
use crate::ownership::{ChasSet, Order, SetOutcome};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn plenty() -> Limits {
    Limits {
        containers_max: 50,
        capacity: Capacity::ENDLESS,
        new_privileges: false,
        ..limits()
    }
}

fn body(name: usize, image: u8, revision: Option<u64>, running: bool, port: bool) -> Value {
    let ports = if port {
        json!([{"container": 80, "host": 8080}])
    } else {
        json!([])
    };
    let state = if running { "running" } else { "stopped" };
    json!({"name": NAMES[name], "image": format!("x:{image}"), "revision": revision, "state": state, "exposed_ports": ports})
}

fn set(epoch: &str, generation: u64, containers: &[Value], requested_at_seq: u64) -> ChasSet {
    let containers: Vec<_> = containers
        .iter()
        .map(|body| crate::spec::parse::deploy(body).unwrap())
        .collect();
    let (epoch, etag, remove) = (
        epoch.to_owned(),
        Some(format!("{epoch}{generation}")),
        BTreeSet::new(),
    );
    ChasSet {
        epoch,
        generation,
        etag,
        containers,
        remove,
        requested_at_seq,
        ..ChasSet::default()
    }
}

fn apply(store: &Store, set: &ChasSet) -> SetOutcome {
    store.apply_set(set, 1).unwrap()
}

fn named(store: &Store, name: &str) -> Arc<Record> {
    Arc::clone(store.desired().named(&name.parse().unwrap()).unwrap())
}

fn web(image: u8) -> Value {
    body(0, image, None, true, false)
}

#[test]
fn a_pushed_container_that_is_listed_changes_its_owner_and_does_not_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let pushed = deploy(&store, &web(1)).unwrap().record;
    let outcome = apply(&store, &set("e", 1, &[web(1)], 0));
    assert_eq!(
        (outcome.changed.as_slice(), outcome.conflicts.len()),
        (&[pushed.id][..], 0)
    );
    let record = named(&store, "a");
    assert_eq!((record.owner, record.generation), (Owner::Chas, 1));
    assert!(apply(&store, &set("e", 1, &[], 9)).stale);
    assert!(matches!(
        deploy(&store, &web(2)),
        Err(StoreError::Owned(_, 1))
    ));
    assert!(!deploy(&store, &web(1)).unwrap().changed);
    assert_eq!(apply(&store, &set("e", 2, &[], 9)).changed, [pushed.id]);
    assert!(named(&store, "a").removing);
}

#[test]
fn a_push_that_is_younger_than_the_question_stands_until_the_same_set_is_sent_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let requested_at_seq = store.desired().seq();
    let pushed = deploy(&store, &web(1)).unwrap().record;
    let outcome = apply(&store, &set("e", 1, &[web(2)], requested_at_seq));
    assert_eq!(
        (outcome.changed.len(), outcome.conflicts[0].winner),
        (0, Owner::Push)
    );
    assert!(
        !store.desired().marks().applied_set().unwrap().fully_applied,
        "so that it is sent again"
    );
    // What the reconciler notes of it makes it no younger.
    let requested_at_seq = store.desired().seq();
    store
        .set_image_digest(pushed.instance(), Some("sha256:1".to_owned()))
        .unwrap();
    let outcome = apply(&store, &set("e", 1, &[web(2)], requested_at_seq));
    assert_eq!(
        (outcome.changed.len(), outcome.conflicts[0].winner),
        (1, Owner::Chas)
    );
    let pulled = store.desired().marks().applied_set().cloned().unwrap();
    assert_eq!(
        (pulled.fully_applied, pulled.etag.as_deref()),
        (true, Some("e1"))
    );
    assert_eq!(
        (named(&store, "a").owner, named(&store, "a").generation),
        (Owner::Chas, 2)
    );
}

#[test]
fn a_higher_revision_takes_it_from_chas_until_chas_lists_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    apply(&store, &set("e", 1, &[body(0, 1, Some(7), true, false)], 0));
    assert!(
        deploy(&store, &body(0, 2, Some(8), true, false))
            .unwrap()
            .changed
    );
    assert_eq!(named(&store, "a").owner, Owner::Push);
    assert!(!store.desired().marks().applied_set().unwrap().fully_applied);
    // A set from before it neither prunes it nor takes it back.
    for old in [vec![], vec![body(0, 1, Some(7), true, false)]] {
        apply(
            &store,
            &set("e", 2 + u64::try_from(old.len()).unwrap(), &old, 99),
        );
        assert_eq!(
            (named(&store, "a").owner, named(&store, "a").removing),
            (Owner::Push, false)
        );
    }
    apply(
        &store,
        &set("e", 4, &[body(0, 2, Some(8), true, false)], 99),
    );
    assert_eq!(
        (named(&store, "a").owner, named(&store, "a").generation),
        (Owner::Chas, 2)
    );
}

#[test]
fn a_container_that_an_operator_stops_or_deletes_stays_so_until_a_newer_set_lists_it() {
    for order in [Order::Stop, Order::Remove] {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        apply(&store, &set("e", 1, &[web(1)], 0));
        let id = named(&store, "a").id;
        store.order(id, order).unwrap();
        if order == Order::Remove {
            store.forget(id).unwrap();
        }
        let store = open_again(store, directory.path());
        // Something else of the set is open, so that it is sent again.
        deploy(&store, &body(1, 9, Some(9), true, false)).unwrap();
        let listing = [web(1), body(1, 1, Some(1), true, false)];
        assert!(apply(&store, &set("e", 1, &listing, 99)).stale);
        let outcome = apply(&store, &set("e", 2, &listing, 99));
        assert_eq!(outcome.conflicts.len(), 1);
        let record = named(&store, "a");
        assert_eq!((record.run, record.removing), (RunState::Running, false));
        store.order(record.id, order).unwrap();
        assert!(apply(&store, &set("e", 2, &listing, 99)).changed.is_empty());
        let record = named(&store, "a");
        assert!(record.run == RunState::Stopped || record.removing);
    }
}

#[test]
fn a_container_without_a_free_port_is_rejected_until_one_is_free() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mine = deploy(&store, &body(0, 1, None, true, true))
        .unwrap()
        .record;
    let listing = [
        body(1, 1, None, true, true),
        body(2, 1, None, true, false),
        body(2, 2, None, true, false),
    ];
    let outcome = apply(&store, &set("e", 1, &listing, 99));
    assert_eq!(outcome.changed.len(), 1);
    let rejected: Vec<_> = outcome
        .rejected
        .iter()
        .map(|r| format!("{}: {}", r.name.as_deref().unwrap(), r.errors[0].message))
        .collect();
    assert_eq!(
        rejected,
        [
            "c: the name is listed twice",
            "b: host port 8080/tcp is taken by container a"
        ]
    );
    store.order(mine.id, Order::Remove).unwrap();
    store.forget(mine.id).unwrap();
    let outcome = apply(&store, &set("e", 1, &listing[..2], 99));
    assert_eq!((outcome.changed.len(), outcome.rejected.len()), (1, 0));
    let mut both = set("e", 2, &listing[..2], 99);
    both.remove.insert("c".parse().unwrap());
    assert!(
        apply(&store, &both).rejected[0].errors[0]
            .message
            .contains("remove")
    );
    assert!(
        !named(&store, "c").removing,
        "what is not understood is left alone"
    );
}

#[test]
fn a_late_answer_does_not_bring_back_what_was_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let id = deploy(&store, &web(1)).unwrap().record.id;
    let requested_at_seq = store.desired().seq();
    store.order(id, Order::Remove).unwrap();
    store.forget(id).unwrap();
    let outcome = apply(&store, &set("e", 1, &[web(1)], requested_at_seq));
    assert_eq!(
        (outcome.changed.len(), outcome.conflicts[0].winner),
        (0, Owner::Push)
    );
    assert_eq!(
        apply(&store, &set("e", 1, &[web(1)], store.desired().seq()))
            .changed
            .len(),
        1
    );
    store.report_acknowledged(store.desired().seq()).unwrap();
    assert!(store.desired().marks().tombstones().is_empty());
}
