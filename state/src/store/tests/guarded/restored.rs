//! The guard and a database that was restored.

use super::*;

#[test]
fn a_restored_database_ends_and_changes_nothing_until_confirmed() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 4);
    let changed = json!({"name": "c0", "image": "x:0"});
    let stopped = json!({"name": "c1", "image": "x:1", "state": "stopped"});
    let old = set("f", 9, &[changed, stopped, body(2), body(8)]);
    let outcome = apply(&store, &old);
    assert_eq!(outcome.changed.len(), 1, "what is new is taken");
    let names = |held: &Unconfirmed| {
        held.names()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        outcome.unconfirmed.as_ref().map(names).as_deref(),
        Some("c0 c1 c3")
    );
    let runs = |store: &Store| {
        store
            .desired()
            .records()
            .filter(|record| guard::runs(record) && record.generation == 1)
            .count()
    };
    assert_eq!(runs(&store), 5);
    // The guard stays up for the epoch's next sets, however little they end.
    let listed = |bodies: &[usize]| bodies.iter().map(|&name| body(name)).collect::<Vec<_>>();
    assert_eq!(
        apply(&store, &set("f", 10, &listed(&[0, 1, 2, 8])))
            .unconfirmed
            .as_ref()
            .map(names)
            .as_deref(),
        Some("c3")
    );
    assert_eq!(runs(&store), 5);
    // An operator's word counts for what is left out at once, and for the rest with the next
    // answer.
    let next = ChasSet {
        generation: 11,
        ..old
    };
    assert!(apply(&store, &next).unconfirmed.is_some());
    assert_eq!(store.confirm(Some(11)).unwrap().len(), 1);
    assert_eq!(runs(&store), 4);
    let pulled = store.desired().marks().applied_set().cloned().unwrap();
    assert!(
        !pulled.fully_applied && pulled.etag.is_none(),
        "so that it is asked for again, at once"
    );
    assert_eq!(apply(&store, &next).unconfirmed, None);
    assert_eq!(runs(&store), 2);
    // From then on it is an epoch like any other.
    assert_eq!(
        apply(&store, &set("f", 12, &listed(&[0, 1, 2]))).unconfirmed,
        None
    );
}

#[test]
fn what_a_restored_database_said_before_is_no_word_of_today() {
    let named = |names: &[usize]| {
        names
            .iter()
            .map(|name| format!("c{name}").parse().unwrap())
            .collect()
    };
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 3);
    // Both were said in last week's generation 9.
    let old = ChasSet {
        remove: named(&[0]),
        prune_confirm: Some(9),
        ..set("f", 9, &listing(2..3))
    };
    for _ in 0..3 {
        assert_eq!(apply(&store, &old).unconfirmed.unwrap().omitted.len(), 2);
        assert_eq!(staying(&store), 3);
    }
    // It is kept with the rest, and said again with what is new.
    let next = ChasSet {
        generation: 10,
        ..old.clone()
    };
    assert_eq!(apply(&store, &next).unconfirmed.unwrap().omitted.len(), 2);
    // What is named only now is meant, and so is a confirmation of what was held, though it counts
    // as another generation.
    assert_eq!(
        apply(
            &store,
            &ChasSet {
                generation: 11,
                remove: named(&[0, 1]),
                ..old.clone()
            }
        )
        .changed
        .len(),
        1
    );
    let confirmed = ChasSet {
        generation: 12,
        prune_confirm: Some(11),
        ..old
    };
    assert_eq!(
        (apply(&store, &confirmed).unconfirmed, staying(&store)),
        (None, 1)
    );
    // From then on, it is an epoch like any other.
    assert_eq!(
        apply(
            &store,
            &ChasSet {
                remove: named(&[2]),
                ..set("f", 13, &[])
            }
        )
        .changed
        .len(),
        1
    );
}

#[test]
fn a_restored_database_is_one_until_all_that_it_lists_was_understood() {
    let bad = |name: Option<&str>| Rejected {
        name: name.map(str::to_owned),
        index: Some(0),
        errors: Vec::new(),
    };
    for name in [None, Some("c0")] {
        let directory = tempfile::tempdir().unwrap();
        let store = node(directory.path(), 3);
        let half = ChasSet {
            rejected: vec![bad(name)],
            ..set("f", 1, &listing(1..3))
        };
        assert_eq!(
            (apply(&store, &half).unconfirmed, staying(&store)),
            (None, 3),
            "{name:?}"
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
        let changed = json!({"name": "c1", "image": "x:0"});
        let outcome = apply(&store, &set("f", 2, &[changed, body(2)]));
        assert_eq!(outcome.unconfirmed.unwrap().names().count(), 2, "{name:?}");
        assert_eq!((staying(&store), outcome.changed.len()), (3, 0));
        assert_eq!(
            apply(&store, &set("f", 3, &listing(0..3))).unconfirmed,
            None
        );
        assert_eq!(
            apply(&store, &set("f", 4, &listing(0..2))).changed.len(),
            1,
            "it is an epoch like any other now"
        );
    }
}

#[test]
fn what_is_pushed_while_a_restored_database_is_asked_is_not_overruled_without_asking() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 1);
    let requested_at_seq = store.desired().seq();
    let pushed = deploy(&store, &json!({"name": "c5", "image": "x:today"}))
        .unwrap()
        .record;
    let old = [body(0), json!({"name": "c5", "image": "x:last-week"})];
    let outcome = apply(
        &store,
        &ChasSet {
            requested_at_seq,
            ..set("f", 1, &old)
        },
    );
    assert_eq!(
        (outcome.conflicts[0].winner, outcome.unconfirmed),
        (Owner::Push, None)
    );
    // It is sent again, asked for after the push.
    assert_eq!(
        apply(&store, &set("f", 1, &old))
            .unconfirmed
            .map(|held| held.changed.len()),
        Some(1)
    );
    assert_eq!(
        store.desired().get(pushed.id).unwrap().generation,
        pushed.generation
    );
}

#[test]
fn an_operators_word_makes_a_restored_database_one_like_any_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 4);
    let bad = Rejected {
        name: Some("never".to_owned()),
        index: Some(0),
        errors: Vec::new(),
    };
    let first = ChasSet {
        rejected: vec![bad],
        ..set("f", 1, &listing(0..3))
    };
    assert!(apply(&store, &first).unconfirmed.is_some());
    assert_eq!(store.confirm(Some(1)).unwrap().len(), 1);
    assert!(apply(&store, &first).stale);
    assert_eq!(
        apply(&store, &set("f", 2, &listing(0..2))).unconfirmed,
        None
    );
    assert_eq!(staying(&store), 2);
}
