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
