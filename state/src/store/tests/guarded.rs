//! Containers that a set may not end without a confirmation, and containers of a cordoned node.

mod restored;

use super::*;
use crate::desired::RunState;
use crate::desired::applied::{Rejected, Unconfirmed};
use crate::ownership::{ChasSet, SetOutcome};

fn body(name: usize) -> Value {
    json!({"name": format!("c{name}"), "image": "x:1"})
}

fn set(epoch: &str, generation: u64, bodies: &[Value]) -> ChasSet {
    let containers = bodies
        .iter()
        .map(|body| crate::spec::parse::deploy(body).unwrap())
        .collect();
    ChasSet {
        epoch: epoch.to_owned(),
        generation,
        containers,
        requested_at_seq: u64::MAX,
        ..ChasSet::default()
    }
}

fn listing(range: std::ops::Range<usize>) -> Vec<Value> {
    range.map(body).collect()
}

fn apply(store: &Store, set: &ChasSet) -> SetOutcome {
    store.apply_set(set, 1).unwrap()
}

/// A node that runs so many of CHaS's containers, by generation 1 of epoch `e`.
fn node(path: &Path, count: usize) -> Store {
    let store = Store::open(
        path,
        Limits {
            containers_max: 50,
            capacity: Capacity::ENDLESS,
            new_privileges: false,
            ..limits()
        },
    )
    .unwrap();
    assert_eq!(
        apply(&store, &set("e", 1, &listing(0..count)))
            .changed
            .len(),
        count
    );
    store
}

fn staying(store: &Store) -> usize {
    store
        .desired()
        .records()
        .filter(|record| !record.removing)
        .count()
}

fn unconfirmed(store: &Store) -> Option<Unconfirmed> {
    store
        .desired()
        .marks()
        .applied_set()
        .and_then(|pulled| pulled.unconfirmed.clone())
}

#[test]
fn a_set_that_leaves_out_too_much_waits_until_it_is_confirmed_by_chas() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 5);
    let empty = set("e", 2, &[body(7)]);
    let outcome = apply(&store, &empty);
    assert_eq!(
        (outcome.changed.len(), staying(&store)),
        (1, 6),
        "what is new is taken"
    );
    assert_eq!(outcome.unconfirmed.map(|held| held.omitted.len()), Some(5));
    let store = reopened(
        store,
        directory.path(),
        &Limits {
            containers_max: 50,
            capacity: Capacity::ENDLESS,
            new_privileges: false,
            ..limits()
        },
    );
    assert_eq!(
        (
            staying(&store),
            unconfirmed(&store).map(|held| held.omitted.len())
        ),
        (6, Some(5))
    );
    // The same again, or confirmed for another generation: nothing.
    for prune_confirm in [None, Some(1)] {
        assert!(
            apply(
                &store,
                &ChasSet {
                    prune_confirm,
                    ..empty.clone()
                }
            )
            .unconfirmed
            .is_some()
        );
        assert_eq!(staying(&store), 6);
    }
    let outcome = apply(
        &store,
        &ChasSet {
            prune_confirm: Some(2),
            ..empty.clone()
        },
    );
    assert_eq!(
        (outcome.changed.len(), outcome.unconfirmed, staying(&store)),
        (5, None, 1)
    );
    assert!(apply(&store, &empty).stale);
}

#[test]
fn an_unconfirmed_container_is_decided_when_it_is_named_or_listed_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 5);
    assert!(apply(&store, &set("e", 2, &[])).unconfirmed.is_some());
    let named = (0..4)
        .map(|name| format!("c{name}").parse().unwrap())
        .collect();
    let outcome = apply(
        &store,
        &ChasSet {
            remove: named,
            ..set("e", 3, &[])
        },
    );
    assert_eq!(
        (outcome.changed.len(), outcome.unconfirmed, staying(&store)),
        (5, None, 0)
    );

    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 5);
    assert!(apply(&store, &set("e", 2, &[])).unconfirmed.is_some());
    assert_eq!(
        apply(&store, &set("e", 3, &listing(0..5))).unconfirmed,
        None
    );
    assert_eq!(staying(&store), 5);
}

#[test]
fn an_operator_confirms_the_unconfirmed_part_and_only_that() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 5);
    assert!(matches!(
        store.confirm(None),
        Err(StoreError::NothingToConfirm)
    ));
    apply(&store, &set("e", 2, &[]));
    assert!(matches!(
        store.confirm(Some(1)),
        Err(StoreError::OtherGeneration(2))
    ));
    assert_eq!(staying(&store), 5);
    assert_eq!(store.confirm(Some(2)).unwrap().len(), 5);
    assert_eq!((staying(&store), unconfirmed(&store)), (0, None));
    assert!(apply(&store, &set("e", 2, &[])).stale);
}

#[test]
fn sets_for_another_name_of_the_node_are_counted_anew_and_guarded() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 2);
    let rename = |name: &'static str| {
        store
            .set_identity(move |link| link.node_id = name.to_owned())
            .unwrap();
    };
    rename("one");
    assert!(
        apply(&store, &set("e", 1, &[])).stale,
        "a name that was not noted is none that was changed"
    );
    rename("two");
    assert_eq!(
        apply(&store, &set("e", 1, &listing(1..2)))
            .unconfirmed
            .map(|held| held.omitted.len()),
        Some(1)
    );
    assert_eq!(staying(&store), 2);
}

#[test]
fn a_set_is_guarded_when_the_mark_of_the_last_one_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store
        .deploy(
            crate::spec::parse::deploy(&body(0)).unwrap(),
            Owner::Chas,
            false,
            1,
        )
        .unwrap();
    assert_eq!(store.desired().marks().applied_set(), None);
    assert!(apply(&store, &set("e", 1, &[])).unconfirmed.is_some());
    assert_eq!(staying(&store), 1);
}

#[test]
fn an_entry_that_is_not_understood_ends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 3);
    let bad = |name: Option<&str>| Rejected {
        name: name.map(str::to_owned),
        index: Some(0),
        errors: Vec::new(),
    };
    let with = |generation, rejected| ChasSet {
        rejected: vec![rejected],
        ..set("e", generation, &listing(0..1))
    };
    let outcome = apply(&store, &with(2, bad(None)));
    assert_eq!(
        (
            outcome.changed.len(),
            staying(&store),
            outcome.rejected.len()
        ),
        (0, 3, 1)
    );
    apply(&store, &with(3, bad(Some("c1"))));
    assert_eq!(staying(&store), 2, "c2 is left out, c1 is not");
    assert!(
        store.desired().marks().applied_set().unwrap().fully_applied,
        "it would be no better the next time"
    );
}

#[test]
fn new_containers_of_a_cordoned_node_wait_and_the_others_stay() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 1);
    let cordoned = ChasSet {
        cordon: true,
        ..set("e", 2, &listing(0..2))
    };
    apply(&store, &cordoned);
    let pushed = deploy(&store, &body(2)).unwrap().record;
    let waiting = |store: &Store| {
        let desired = store.desired();
        let mut names: Vec<_> = desired
            .records()
            .filter(|r| r.cordoned)
            .map(|r| r.name.to_string())
            .collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(
        (waiting(&store).as_str(), pushed.cordoned, pushed.run),
        ("c1 c2", true, RunState::Running)
    );
    // A change of what is there is no new container; one of what waits is waited with.
    let changed = json!({"name": "c0", "image": "x:2"});
    apply(
        &store,
        &ChasSet {
            cordon: true,
            ..set("e", 3, &[changed.clone(), body(1)])
        },
    );
    assert!(
        deploy(&store, &json!({"name": "c2", "image": "x:3"}))
            .unwrap()
            .record
            .cordoned
    );
    let store = reopened(
        store,
        directory.path(),
        &Limits {
            containers_max: 50,
            capacity: Capacity::ENDLESS,
            new_privileges: false,
            ..limits()
        },
    );
    assert!(store.desired().marks().cordoned());
    assert_eq!(waiting(&store), "c1 c2");
    // Lifted, also by the same generation.
    let outcome = apply(&store, &set("e", 3, &[changed, body(1)]));
    assert!(outcome.stale && outcome.changed.len() == 2);
    assert_eq!(
        (waiting(&store).as_str(), store.desired().marks().cordoned()),
        ("", false)
    );
}

/// Rewrites every record, as if an agent of another version had stored it.
fn stored_by_another_version(store: &Store, change: impl Fn(&mut Record)) {
    let desired = store.desired();
    for record in desired.records() {
        store.note(record.instance(), &change).unwrap();
    }
}

#[test]
fn a_fingerprint_that_another_version_computed_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 5);
    stored_by_another_version(&store, |record| {
        record.spec_hash = "sha256:other".to_owned();
    });
    let outcome = apply(&store, &set("e", 2, &listing(0..5)));
    assert_eq!((outcome.changed, outcome.unconfirmed), (Vec::new(), None));
    let generations: Vec<_> = store
        .desired()
        .records()
        .map(|record| record.generation)
        .collect();
    assert_eq!(generations, [1; 5]);
    assert!(
        !deploy(&store, &body(0)).unwrap().changed,
        "the push asks for what is there"
    );
}

#[test]
fn changes_that_only_an_upgrade_makes_of_the_same_bodies_wait_for_a_confirmation() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 5);
    stored_by_another_version(&store, |record| record.spec.resources.pids = 99);
    let generations = || -> Vec<u64> {
        store
            .desired()
            .records()
            .map(|record| record.generation)
            .collect()
    };
    let outcome = apply(&store, &set("e", 2, &listing(0..5)));
    assert_eq!(outcome.changed, Vec::new());
    assert_eq!(outcome.unconfirmed.unwrap().changed.len(), 5);
    assert_eq!(generations(), [1; 5]);
    assert_eq!(store.confirm(Some(2)).unwrap(), Vec::new());
    assert_eq!(apply(&store, &set("e", 2, &listing(0..5))).changed.len(), 5);
    assert_eq!((generations(), unconfirmed(&store)), (vec![2; 5], None));
}

#[test]
fn unexplained_changes_of_an_earlier_set_are_confirmed_by_its_generation() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 5);
    stored_by_another_version(&store, |record| record.spec.resources.pids = 99);
    apply(&store, &set("e", 2, &listing(0..5)));
    let confirmed = ChasSet {
        prune_confirm: Some(2),
        ..set("e", 3, &listing(0..5))
    };
    assert_eq!(apply(&store, &confirmed).changed.len(), 5);
    assert_eq!(unconfirmed(&store), None);
}

#[test]
fn bodies_that_an_older_agent_applied_are_noted_when_the_set_is_sent_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 5);
    stored_by_another_version(&store, |record| record.listed_hash = None);
    let before = store.desired();
    let outcome = apply(&store, &set("e", 1, &listing(0..5)));
    assert!(outcome.stale);
    let after = store.desired();
    assert!(after.records().all(|record| record.listed_hash.is_some()));
    let seqs = |desired: &Desired| {
        desired
            .records()
            .map(|record| record.seq)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        seqs(&before),
        seqs(&after),
        "it is no change of what is desired"
    );
}
