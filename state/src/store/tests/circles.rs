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
