//! The policy at the door of the store: for push and CHaS alike, and for sets that ask for too much.

use super::*;
use crate::ownership::{ChasSet, Order, SetOutcome};
use crate::policy::{self, Policy};
use crate::store::{Idempotent, ReplaceOutcome, ReplaceRequest};

fn policy(file: &Value) -> Policy {
    policy::read(file).unwrap()
}

fn memory_needed() -> Policy {
    policy(&json!({"rules": [{"name": "memory-needed", "memory": "1g"}]}))
}

fn node(path: &Path) -> Store {
    let network = Host {
        addresses: Ipv4Addr::new(10, 0, 0, 2)..=Ipv4Addr::new(10, 0, 0, 99),
        listening: Vec::new(),
    };
    let limits = Limits {
        containers_max: 50,
        network: Arc::new(network),
        ..limits()
    };
    Store::open(path, limits).unwrap()
}

fn set(generation: u64, bodies: &[Value]) -> ChasSet {
    let parsed = bodies.iter().map(crate::spec::parse::deploy);
    ChasSet {
        epoch: "e".to_owned(),
        generation,
        containers: parsed.map(Result::unwrap).collect(),
        requested_at_seq: u64::MAX,
        ..ChasSet::default()
    }
}

fn bodies(count: usize, image: &str) -> Vec<Value> {
    let body = |n| json!({"name": format!("c{n}"), "image": image});
    (0..count).map(body).collect()
}

#[test]
fn a_denied_body_changes_nothing_whoever_sends_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path());
    deploy(&store, &json!({"name": "before", "image": "x"})).unwrap();
    store.set_policy(memory_needed());
    let before = store.desired();
    let (bad, good) = (
        json!({"name": "b", "image": "x"}),
        json!({"name": "g", "image": "x", "resources": {"memory": "1g"}}),
    );
    let refused = deploy(&store, &bad).unwrap_err();
    assert!(matches!(&refused, StoreError::Denied(name, denials)
        if name.as_str() == "b" && denials[0].rule == "memory-needed" && denials[0].field == "resources.memory"));
    let wanted = [&good, &bad].map(|body| crate::spec::parse::deploy(body).unwrap());
    let request = ReplaceRequest {
        wanted: wanted.into(),
        ..ReplaceRequest::default()
    };
    assert!(
        matches!(store.replace(request, 1), Err(StoreError::Several(refused)) if refused.len() == 1)
    );
    assert_eq!(store.desired(), before);

    let outcome = store.apply_set(&set(1, &[good, bad]), 1).unwrap();
    assert_eq!(outcome.changed.len(), 1);
    let rejected = &outcome.rejected[0];
    assert_eq!(
        (outcome.rejected.len(), rejected.name.as_deref()),
        (1, Some("b"))
    );
    assert!(
        rejected.errors[0].message.contains("\"memory-needed\""),
        "{rejected:?}"
    );
    assert!(store.desired().named(&"b".parse().unwrap()).is_none());
    assert!(!store.desired().marks().applied_set().unwrap().fully_applied);
}

#[test]
fn what_was_taken_in_before_a_rule_stays_and_is_not_restarted_into_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path());
    let body = json!({"name": "a", "image": "x"});
    let record = deploy(&store, &body).unwrap().record;
    store.set_policy(memory_needed());
    assert!(!deploy(&store, &body).unwrap().changed);
    let failure = store.judge_start(&record).unwrap_err();
    assert_eq!(failure.reason, Reason::PolicyDenied);
    assert!(
        failure.message.contains("\"memory-needed\""),
        "{}",
        failure.message
    );
    assert!(matches!(
        store.order(record.id, Order::Restart),
        Err(StoreError::Denied(..))
    ));
    // It is to run, and stays so.
    store.order(record.id, Order::Start).unwrap();
    assert_eq!(store.desired().get(record.id), Some(&record));
    store.order(record.id, Order::Stop).unwrap();
    assert!(matches!(
        store.order(record.id, Order::Start),
        Err(StoreError::Denied(..))
    ));
    store.order(record.id, Order::Remove).unwrap();
}

/// What a set did: containers changed, deferred ones, and whether it is to come again.
fn shown(store: &Store, outcome: &SetOutcome) -> (usize, usize, usize, bool) {
    let applied = store.desired().marks().applied_set().unwrap().clone();
    (
        outcome.changed.len(),
        outcome.spent.len(),
        outcome.rejected.len(),
        applied.fully_applied,
    )
}

#[test]
fn no_set_changes_or_ends_more_than_the_allowance_by_whatever_means() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path());
    let apply = |set: &ChasSet, allowance| {
        let outcome = store.apply_set_within(set, 1, allowance).unwrap();
        shown(&store, &outcome)
    };
    // What is new costs nothing.
    assert_eq!(apply(&set(1, &bodies(10, "x")), 0), (10, 0, 0, true));
    let other = set(2, &bodies(10, "y"));
    assert_eq!(apply(&other, 4), (4, 4, 6, false));
    assert_eq!(apply(&other, 0), (0, 0, 6, false));
    assert_eq!(apply(&other, 100), (6, 6, 0, true));
    // Removed by name, confirmed, or stopped: it is all the same.
    let named = ChasSet {
        remove: (0..10).map(|n| format!("c{n}").parse().unwrap()).collect(),
        prune_confirm: Some(3),
        ..set(3, &[])
    };
    assert_eq!(apply(&named, 3), (3, 3, 7, false));
    let mut stopped = bodies(10, "y");
    stopped
        .iter_mut()
        .for_each(|body| body["state"] = json!("stopped"));
    // The three that are gone come again, stopped; of the others, two.
    assert_eq!(apply(&set(4, &stopped), 2), (5, 2, 5, false));
    // What is stopped costs nothing.
    let mut mixed = bodies(10, "y");
    for body in &mut mixed[..5] {
        (body["state"], body["image"]) = (json!("stopped"), json!("z"));
    }
    assert_eq!(apply(&set(5, &mixed), 0), (5, 0, 0, true));
}

#[test]
fn a_container_that_fails_leaves_its_place_in_the_budget_to_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path());
    store.apply_set(&set(1, &bodies(3, "x")), 1).unwrap();
    store.set_policy(policy(
        &json!({"rules": [{"name": "r", "containers": ["c0"], "images": ["x"]}]}),
    ));
    let outcome = store
        .apply_set_within(&set(2, &bodies(3, "y")), 1, 1)
        .unwrap();
    assert_eq!(shown(&store, &outcome), (1, 1, 2, false));
    assert!(outcome.rejected[0].errors[0].message.contains("\"r\""));
    assert!(
        outcome.rejected[1].errors[0]
            .message
            .contains("changes-per-hour")
    );
    let image = |name: &str| {
        store
            .desired()
            .named(&name.parse().unwrap())
            .unwrap()
            .spec
            .image
            .to_string()
    };
    assert_eq!(
        ["c0", "c1", "c2"].map(|name| image(name).contains("/y")),
        [false, true, false]
    );
}

fn replaced(
    store: &Store,
    names: &[usize],
    confirm: Option<usize>,
    dry_run: bool,
) -> Result<ReplaceOutcome, StoreError> {
    let all = bodies(20, "x");
    let wanted = names
        .iter()
        .map(|&n| crate::spec::parse::deploy(&all[n]).unwrap())
        .collect();
    let request = ReplaceRequest {
        wanted,
        confirm,
        dry_run,
        ..ReplaceRequest::default()
    };
    match store.replace(request, 1)? {
        Idempotent::Now(outcome) => Ok(outcome),
        Idempotent::Before(_) => unreachable!("it has no key"),
    }
}

#[test]
fn a_pushed_set_that_leaves_out_too_much_names_how_many_may_go() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path());
    let ten: Vec<_> = (0..10).collect();
    replaced(&store, &ten, None, false).unwrap();
    // Three of ten are 30 %.
    let before = replaced(&store, &ten[3..], None, false).unwrap();
    assert_eq!(before.changed.len(), 3);
    let tried = replaced(&store, &[], None, true).unwrap();
    assert_eq!((tried.unconfirmed, tried.changed.len()), (Some(7), 7));
    for confirm in [None, Some(0), Some(6)] {
        let refused = replaced(&store, &[], confirm, false).unwrap_err();
        assert!(matches!(&refused, StoreError::Unconfirmed(names) if names.len() == 7));
        assert!(refused.to_string().contains("?confirm=7"), "{refused}");
    }
    // Two always may, and what does not run counts for nothing.
    let id = |n: usize| {
        store
            .desired()
            .named(&format!("c{n}").parse().unwrap())
            .unwrap()
            .id
    };
    for n in 3..8 {
        store.order(id(n), Order::Stop).unwrap();
    }
    assert_eq!(replaced(&store, &[], None, false).unwrap().changed.len(), 7);
    replaced(&store, &ten, None, false).unwrap();
    assert_eq!(
        replaced(&store, &[], Some(10), false)
            .unwrap()
            .changed
            .len(),
        10
    );
}

#[test]
fn a_sum_looks_at_a_set_once_all_of_it_is_decided_whatever_its_order() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path());
    store.set_policy(policy(
        &json!({"rules": [{"name": "all", "memory_total": "3g"}]}),
    ));
    let sized = |name: &str, memory: &str| json!({"name": name, "image": "x", "resources": {"memory": memory}});
    let put = |bodies: [Value; 2]| {
        let wanted = bodies.map(|body| crate::spec::parse::deploy(&body).unwrap());
        let request = ReplaceRequest {
            wanted: wanted.into(),
            ..ReplaceRequest::default()
        };
        store.replace(request, 1)
    };
    put([sized("a", "1g"), sized("b", "2g")]).unwrap();
    for set in [
        [sized("a", "2g"), sized("b", "1g")],
        [sized("a", "1g"), sized("b", "2g")],
        [sized("b", "1g"), sized("a", "2g")],
    ] {
        put(set).unwrap();
    }
    for set in [
        [sized("a", "2g"), sized("b", "1025m")],
        [sized("b", "1025m"), sized("a", "2g")],
    ] {
        assert!(matches!(put(set), Err(StoreError::Several(refused)) if refused.len() == 1));
    }
    store.apply_set(&set(1, &[sized("c", "1g")]), 1).unwrap();
    assert!(store.desired().named(&"c".parse().unwrap()).is_none());
}
