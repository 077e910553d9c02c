//! Generations far from the one before: nobody makes a node deaf for good with one.

use super::*;
use crate::ownership::ChasSet;

fn set(generation: u64, names: &[&str]) -> ChasSet {
    let bodies = names
        .iter()
        .map(|name| json!({"name": name, "image": "x:1"}));
    ChasSet {
        epoch: "e".to_owned(),
        generation,
        containers: bodies
            .map(|body| crate::spec::parse::deploy(&body).unwrap())
            .collect(),
        requested_at_seq: u64::MAX,
        ..ChasSet::default()
    }
}

fn staying(store: &Store) -> Vec<String> {
    let desired = store.desired();
    let staying = desired.records().filter(|record| !record.removing);
    let mut names: Vec<_> = staying.map(|record| record.name.to_string()).collect();
    names.sort();
    names
}

#[test]
fn a_node_that_took_the_highest_generation_is_deaf_only_until_chas_has_settled_on_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let roomy = Limits {
        containers_max: 9,
        ..limits()
    };
    for highest in [u64::MAX, (1 << 40) + 5, 7] {
        let directory = directory.path().join(highest.to_string());
        let store = Store::open(&directory, roomy.clone()).unwrap();
        store.apply_set(&set(highest, &["a", "b"]), 1).unwrap();
        let mut own = set(5, &["c"]);
        assert!(store.apply_set(&own, 1).unwrap().stale);
        own.is_settled = true;
        // What is new starts; what the set leaves out waits for a person, as after a restore.
        let outcome = store.apply_set(&own, 1).unwrap();
        assert!(!outcome.stale, "{outcome:?}");
        assert_eq!(staying(&store), ["a", "b", "c"]);
        assert_eq!(
            outcome
                .unconfirmed
                .map(|unconfirmed| unconfirmed.omitted.len()),
            Some(2)
        );
        store.confirm(Some(5)).unwrap();
        assert_eq!(staying(&store), ["c"]);
        // From then on it counts as ever.
        store.apply_set(&set(6, &["c", "d"]), 1).unwrap();
        assert_eq!(staying(&store), ["c", "d"]);
        assert!(store.apply_set(&set(5, &[]), 1).unwrap().stale);
    }
}

#[test]
fn a_clock_may_be_a_generation() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (now, year) = (1_800_000_000_000_000_000, 31_556_952_000_000_000);
    for (generation, names) in [(now, &["a"][..]), (now + year, &["b"])] {
        let outcome = store.apply_set(&set(generation, names), 1).unwrap();
        assert!(outcome.unconfirmed.is_none(), "{outcome:?}");
    }
    assert_eq!(staying(&store), ["b"]);
}

#[test]
fn a_signed_set_is_applied_over_unsigned_ones_and_never_again_once_its_epoch_was_left() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let signed = |epoch: &str, generation, names: &[&str]| ChasSet {
        epoch: epoch.to_owned(),
        is_signed: true,
        prune_confirm: Some(generation),
        ..set(generation, names)
    };
    let applied = || store.desired().marks().applied_set().cloned().unwrap();
    store.apply_set(&set(7, &["theirs"]), 1).unwrap();
    assert!(!applied().is_signed);
    // The same version with another content; and a count that nobody with a key reached.
    store
        .apply_set(&signed("e", 7, &["theirs", "a"]), 1)
        .unwrap();
    assert_eq!((staying(&store).len(), applied().is_signed), (2, true));
    assert!(store.apply_set(&signed("e", 6, &[]), 1).unwrap().stale);
    store.apply_set(&set(u64::MAX, &["theirs"]), 1).unwrap();
    let outcome = store.apply_set(&signed("e", 8, &["a"]), 1).unwrap();
    assert!(
        !outcome.stale && applied().version.generation == 8,
        "{outcome:?}"
    );
    // Another epoch; the sets of the one before are kept by somebody.
    store.apply_set(&signed("f", 1, &["a", "b"]), 1).unwrap();
    assert_eq!(applied().left_epochs, ["e"]);
    let before = store.desired();
    let replayed = store.apply_set(&signed("e", 9, &[]), 1).unwrap();
    assert!(replayed.is_of_left_epoch && replayed.changed.is_empty());
    assert_eq!(store.desired(), before);
    // Of many the newest are remembered, also over a start.
    for n in 0..20 {
        store
            .apply_set(&signed(&format!("g{n}"), 1, &["a"]), 1)
            .unwrap();
    }
    let left = applied().left_epochs;
    assert_eq!((left.len(), left[15].as_str()), (16, "g18"));
    drop(store);
    let again = open(directory.path());
    assert!(
        again
            .apply_set(&signed("g18", 5, &[]), 1)
            .unwrap()
            .is_of_left_epoch
    );
}
