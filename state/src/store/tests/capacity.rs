//! Admission by what containers reserve.

use super::*;
use crate::capacity::Amounts;
use crate::quantity::{ByteCount, CpuMillis};

/// A store of a node with so much memory for containers, in MiB, and four CPUs.
fn node(path: &Path, memory: u64) -> Store {
    let total = Amounts {
        cpu: CpuMillis(4000),
        memory: ByteCount(memory << 20),
    };
    let capacity = Capacity {
        total,
        system: Amounts::NONE,
    };
    loop {
        let limits = Limits {
            capacity,
            containers_max: 50,
            ..limits()
        };
        let store = Store::open(path, limits).unwrap();
        if store.is_writable() {
            return store;
        }
    }
}

fn body(name: &str, memory: u64) -> Value {
    json!({"name": name, "image": "x", "resources": {"memory_reservation": format!("{memory}m")}})
}

#[test]
fn what_does_not_fit_is_refused_and_what_was_taken_in_stays() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 100);
    let first = deploy(&store, &body("a", 60)).unwrap().record.id;
    let refused = deploy(&store, &body("b", 41)).unwrap_err();
    assert!(
        matches!(&refused, StoreError::NoCapacity(name, short) if name.as_str() == "b" && short.len() == 1),
        "{refused}"
    );
    assert!(refused.to_string().contains("40m are free"), "{refused}");
    deploy(&store, &body("b", 40)).unwrap();
    deploy(
        &store,
        &json!({"name": "unreserved", "image": "x", "resources": {"memory": "1g"}}),
    )
    .unwrap();
    // More for one that is there, and its present part again.
    deploy(&store, &body("a", 61)).unwrap_err();
    deploy(
        &store,
        &json!({"name": "a", "image": "y", "resources": {"memory_reservation": "60m"}}),
    )
    .unwrap();
    // A finished one keeps no room, and the same body again takes none.
    let finish = |record: &mut Record| {
        record.finished = Some(Finished {
            code: 0,
            reason: Reason::Completed,
            at_ms: 1,
        });
    };
    store.change(first, finish).unwrap();
    deploy(&store, &body("c", 60)).unwrap();
    let again = json!({"name": "a", "image": "y", "resources": {"memory_reservation": "60m"}});
    deploy(&store, &again).unwrap();
    deploy(&store, &body("d", 6)).unwrap_err();
    for id in [
        first,
        store.desired().named(&"c".parse().unwrap()).unwrap().id,
    ] {
        store.change(id, |record| record.removing = true).unwrap();
    }
    deploy(&store, &body("c", 60)).unwrap();
    drop(store);

    // On less than it was, nothing ends, and nobody gets more.
    let store = node(directory.path(), 50);
    assert!(store.desired().named(&"b".parse().unwrap()).is_some());
    deploy(
        &store,
        &json!({"name": "b", "image": "z", "resources": {"memory_reservation": "39m"}}),
    )
    .unwrap();
    deploy(&store, &body("b", 40)).unwrap_err();
}

#[test]
fn an_update_holds_what_either_generation_reserves() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 100);
    let updated = |memory: u64| {
        let mut body = body("a", memory);
        body["environment"] = json!({"V": memory.to_string()});
        body["update"] = json!({"strategy": "start-first"});
        body
    };
    let id = deploy(&store, &updated(60)).unwrap().record.id;
    let resolve = |record: &mut Record| record.image_digest = Some("sha256:1".to_owned());
    store.change(id, resolve).unwrap();
    let next = deploy(&store, &updated(10)).unwrap().record;
    assert!(next.update.is_some());
    deploy(&store, &body("b", 41)).unwrap_err();
    // What is held is there for the generation after it.
    deploy(&store, &body("b", 40)).unwrap();
    deploy(&store, &updated(61)).unwrap_err();
    deploy(&store, &updated(60)).unwrap();
    deploy(&store, &updated(10)).unwrap();
    store.change(id, |record| record.update = None).unwrap();
    deploy(&store, &body("c", 50)).unwrap();
}

#[test]
fn in_a_set_room_that_one_gives_up_is_anothers() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 100);
    let wanted = |bodies: [Value; 2]| ReplaceRequest {
        wanted: bodies
            .iter()
            .map(|body| crate::spec::parse::deploy(body).unwrap())
            .collect(),
        ..ReplaceRequest::default()
    };
    store
        .replace(wanted([body("a", 10), body("b", 90)]), 1)
        .unwrap();
    store
        .replace(wanted([body("a", 90), body("b", 10)]), 1)
        .unwrap();
    let refused = store
        .replace(wanted([body("a", 90), body("b", 11)]), 1)
        .unwrap_err();
    assert!(refused.to_string().contains("b does not fit"), "{refused}");
}
