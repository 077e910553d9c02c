//! Containers that would wait for each other in a circle, pushed and listed.

use super::*;
use crate::ownership::ChasSet;

fn body(name: &str, after: &[&str]) -> Value {
    let after: Vec<_> = after.iter().map(|name| json!({"name": name})).collect();
    json!({"name": name, "image": "x", "after": after})
}

fn set(generation: u64, containers: &[Value]) -> ChasSet {
    let containers = containers
        .iter()
        .map(|body| crate::spec::parse::deploy(body).unwrap());
    ChasSet {
        epoch: "e".to_owned(),
        generation,
        containers: containers.collect(),
        requested_at_seq: 99,
        ..ChasSet::default()
    }
}

#[test]
fn a_push_that_closes_a_circle_is_refused_whoever_owns_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.apply_set(&set(1, &[body("a", &["b"])]), 1).unwrap();
    let refused = deploy(&store, &body("b", &["a"])).unwrap_err();
    assert!(refused.to_string().contains("(b -> a -> b)"), "{refused}");
    assert_eq!(store.desired().records().count(), 1);
    deploy(&store, &body("b", &[])).unwrap();
    let dry = crate::spec::parse::deploy(&body("b", &["a"])).unwrap();
    assert!(store.deploy(dry, Owner::Push, true, 1).is_err());
}

#[test]
fn of_a_set_whoever_closes_the_circle_is_rejected_until_it_is_open() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    deploy(&store, &body("p", &["a"])).unwrap();
    let listed = set(1, &[body("a", &["b"]), body("b", &["p"])]);
    let outcome = store.apply_set(&listed, 1).unwrap();
    let [rejected] = outcome.rejected.as_slice() else {
        panic!("{outcome:?}");
    };
    assert_eq!(rejected.name.as_deref(), Some("b"));
    let told = &rejected.errors[0].message;
    assert!(told.contains("(b -> p -> a -> b)"), "{told}");
    let named = |name: &str| store.desired().named(&name.parse().unwrap()).cloned();
    assert!(named("a").is_some() && named("b").is_none());
    // Once the push waits for nobody, the same set is applied, without a newer one.
    deploy(&store, &body("p", &[])).unwrap();
    assert!(store.apply_set(&listed, 1).unwrap().rejected.is_empty());
    assert!(named("b").is_some());
    // A set that turns it round is no circle.
    let turned = set(2, &[body("b", &[]), body("a", &["b"])]);
    assert!(store.apply_set(&turned, 1).unwrap().rejected.is_empty());
    let back = set(3, &[body("b", &["a"]), body("a", &[])]);
    assert!(store.apply_set(&back, 1).unwrap().rejected.is_empty());
}

#[test]
fn a_longer_circle_is_told_from_the_one_that_closes_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    deploy(&store, &body("a", &["b"])).unwrap();
    deploy(&store, &body("b", &["x", "c"])).unwrap();
    let refused = deploy(&store, &body("c", &["y", "a"])).unwrap_err();
    assert!(
        refused.to_string().contains("(c -> a -> b -> c)"),
        "{refused}"
    );
    // The same again is no change, and asks nobody.
    assert!(!deploy(&store, &body("b", &["x", "c"])).unwrap().changed);
}

mod properties {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::ownership::Order;

    /// Whether everybody can be started, one after the other.
    fn has_an_order(store: &Store) -> bool {
        let desired = store.desired();
        let records = desired.records().filter(|record| !record.removing);
        let mut left: BTreeMap<_, _> = records
            .map(|record| (record.name.clone(), record.clone()))
            .collect();
        loop {
            let before = left.len();
            let names: Vec<_> = left.keys().cloned().collect();
            left.retain(|_, record| {
                record
                    .spec
                    .after
                    .iter()
                    .any(|after| names.contains(&after.name))
            });
            if left.len() == before {
                return left.is_empty();
            }
        }
    }

    fn bodies(edges: &[Vec<usize>], image: usize) -> Vec<Value> {
        let one = |(number, after): (usize, &Vec<usize>)| {
            let names: BTreeSet<_> = after
                .iter()
                .filter(|other| **other != number)
                .map(|other| format!("n{other}"))
                .collect();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let mut body = body(&format!("n{number}"), &names);
            body["image"] = json!(format!("x:{}", image + number % 2));
            body
        };
        edges.iter().enumerate().map(one).collect()
    }

    fn edges() -> impl Strategy<Value = Vec<Vec<usize>>> {
        proptest::collection::vec(proptest::collection::vec(0_usize..8, 0..3), 8)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn whatever_is_listed_deferred_pushed_and_removed_everybody_can_be_started(
            sets in proptest::collection::vec((edges(), 0_usize..9, 0_usize..3, 0_usize..8), 1..6),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let plenty = Limits { containers_max: 6, ..limits() };
            let store = Store::open(directory.path(), plenty).unwrap();
            for (generation, (edges, allowance, image, pushed)) in sets.iter().enumerate() {
                let bodies = bodies(edges, *image);
                let _ = deploy(&store, &bodies[*pushed]);
                prop_assert!(has_an_order(&store));
                let set = set(generation as u64 + 1, &bodies);
                let _ = store.apply_set_within(&set, 1, *allowance);
                prop_assert!(has_an_order(&store));
                let desired = store.desired();
                if let Some(record) = desired.records().nth(*pushed) {
                    let _ = store.order(record.id, Order::Remove);
                }
            }
        }
    }
}
