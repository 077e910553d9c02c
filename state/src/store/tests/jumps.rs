//! Generations that no count gets to: nobody makes a node deaf with one.

use proptest::prelude::*;

use super::*;
use crate::ownership::{ChasSet, GENERATIONS_MAX};

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
fn a_node_that_took_the_highest_generation_hears_of_the_next_true_set() {
    let directory = tempfile::tempdir().unwrap();
    let roomy = Limits {
        containers_max: 9,
        ..limits()
    };
    let store = Store::open(directory.path(), roomy).unwrap();
    store.apply_set(&set(u64::MAX, &["a", "b"]), 1).unwrap();
    // What is new starts; what the set leaves out waits for a person, as after a restore.
    let outcome = store.apply_set(&set(5, &["c"]), 1).unwrap();
    assert!(!outcome.stale && !outcome.implausible, "{outcome:?}");
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn no_jump_is_applied_and_the_set_after_it_is(
        generation in 1..1_u64 << 50,
        beyond in 1..u64::MAX - (1 << 51),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        store.apply_set(&set(generation, &["a"]), 1).unwrap();
        let jump = generation + GENERATIONS_MAX + beyond;
        let outcome = store.apply_set(&set(jump, &["evil"]), 1).unwrap();
        prop_assert!(outcome.implausible && outcome.changed.is_empty());
        prop_assert_eq!(staying(&store), ["a"]);
        store.apply_set(&set(generation + 1, &["a", "b"]), 1).unwrap();
        prop_assert_eq!(staying(&store), ["a", "b"]);
    }
}
