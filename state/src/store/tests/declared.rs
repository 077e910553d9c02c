//! The set owned by push, replaced as a whole; and requests that come twice.

use std::time::Duration;

use super::*;
use crate::access::NameScope;
use crate::desired::RunState;
use crate::desired::answer::Outcome;
use crate::ownership::answers::Keyed;
use crate::ownership::{ChasSet, Order, etag, etag_of};
use crate::spec::parse::Deploy;
use crate::time::BootTime;

fn bodies(wanted: &[Value]) -> Vec<Deploy> {
    wanted
        .iter()
        .map(|body| crate::spec::parse::deploy(body).unwrap())
        .collect()
}

fn replace(
    store: &Store,
    wanted: &[Value],
    more: impl FnOnce(&mut ReplaceRequest),
) -> Result<Idempotent<ReplaceOutcome>, StoreError> {
    let mut replacing = ReplaceRequest {
        wanted: bodies(wanted),
        ..ReplaceRequest::default()
    };
    more(&mut replacing);
    store.replace(replacing, 1)
}

/// The names that a replacement changed.
#[track_caller]
fn changed(result: Result<Idempotent<ReplaceOutcome>, StoreError>) -> Vec<String> {
    let Idempotent::Now(replaced) = result.unwrap() else {
        panic!("it was not asked before")
    };
    replaced
        .changed
        .iter()
        .map(|record| format!("{}{}", if record.removing { "-" } else { "" }, record.name))
        .collect()
}

fn body(name: &str, image: &str, ports: &[u16]) -> Value {
    let ports: Vec<_> = ports
        .iter()
        .map(|port| json!({"container": port, "host": port}))
        .collect();
    json!({"name": name, "image": image, "exposed_ports": ports})
}

fn apply(store: &Store, generation: u64, containers: &[Value]) {
    let set = ChasSet {
        epoch: "e".to_owned(),
        generation,
        containers: bodies(containers),
        requested_at_seq: store.desired().seq(),
        ..ChasSet::default()
    };
    store.apply_set(&set, 1).unwrap();
}

fn keyed(key: &str, request: &str) -> Keyed {
    let now = BootTime(Duration::from_secs(1));
    Keyed {
        key: key.parse().unwrap(),
        request: request.to_owned(),
        boot_id: "b".to_owned(),
        now,
    }
}

#[test]
fn a_set_is_added_changed_and_pruned_in_one_change() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    assert_eq!(
        changed(replace(
            &store,
            &[body("a", "x", &[]), body("b", "x", &[])],
            |_| ()
        )),
        ["a", "b"]
    );
    let (seq, before) = (store.desired().seq(), etag(&store.desired()));
    assert_eq!(
        changed(replace(
            &store,
            &[body("b", "x", &[]), body("a", "x", &[])],
            |_| ()
        )),
        [""; 0]
    );
    assert_eq!(
        (store.desired().seq(), etag(&store.desired())),
        (seq, before.clone())
    );
    assert_eq!(
        changed(replace(
            &store,
            &[body("a", "y", &[]), body("c", "x", &[])],
            |_| ()
        )),
        ["-b", "a", "c"]
    );
    assert_eq!(store.desired().seq(), seq + 1);
    assert_ne!(etag(&store.desired()), before);
    assert!(
        store
            .desired()
            .records()
            .all(|record| record.seq == seq + 1)
    );
    let store = open_again(store, directory.path());
    assert_eq!(
        store
            .desired()
            .records()
            .filter(|record| record.removing)
            .count(),
        1
    );
    assert_eq!(store.desired().marks().tombstones().len(), 1);
}

#[test]
fn a_dry_run_or_an_old_etag_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    replace(&store, &[body("a", "x", &[])], |_| ()).unwrap();
    let (seq, before) = (store.desired().seq(), etag(&store.desired()));
    let dry = |r: &mut ReplaceRequest| (r.dry_run, r.keyed) = (true, Some(keyed("k", "r")));
    assert_eq!(
        changed(replace(&store, &[body("b", "x", &[])], dry)),
        ["-a", "b"]
    );
    let refused = replace(&store, &[body("b", "x", &[])], |r| {
        r.if_match = Some(vec!["other".to_owned()]);
    })
    .unwrap_err();
    assert!(matches!(refused, StoreError::Unmatched(etag) if etag == before));
    assert_eq!(store.desired().seq(), seq);
    let matching = |r: &mut ReplaceRequest| r.if_match = Some(vec!["other".to_owned(), before]);
    assert_eq!(
        changed(replace(&store, &[body("b", "x", &[])], matching)),
        ["-a", "b"]
    );
}

#[test]
fn every_refused_container_is_named_and_nothing_is_changed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    apply(&store, 1, &[body("theirs", "x", &[80])]);
    let wanted = [
        body("theirs", "y", &[]),
        body("a", "x", &[80]),
        body("b", "x", &[109]),
        body("c", "x", &[7]),
    ];
    let StoreError::Several(refused) = replace(&store, &wanted, |_| ()).unwrap_err() else {
        panic!("it is refused")
    };
    let names: Vec<_> = refused.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["theirs", "b", "a"]);
    assert!(
        StoreError::Several(refused)
            .to_string()
            .contains("theirs: theirs is owned by CHaS (generation 1)")
    );
    assert_eq!(store.desired().records().count(), 1);
    // What CHaS owns is left to it: unless it is asked for as it is, not at all.
    assert_eq!(
        changed(replace(
            &store,
            &[body("theirs", "x", &[80]), body("a", "x", &[])],
            |_| ()
        )),
        ["a"]
    );
    assert_eq!(changed(replace(&store, &[], |_| ())), ["-a"]);
    let many: Vec<_> = (0..4).map(|n| body(&format!("m{n}"), "x", &[])).collect();
    assert!(
        matches!(replace(&store, &many, |_| ()), Err(StoreError::Several(all)) if matches!(all[0].1, StoreError::TooMany(3)))
    );
}

#[test]
fn a_port_may_change_hands_within_the_set_and_one_that_is_named_comes_first() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    replace(
        &store,
        &[body("a", "x", &[80]), body("b", "x", &[])],
        |_| (),
    )
    .unwrap();
    assert_eq!(
        changed(replace(
            &store,
            &[body("a", "x", &[80]), body("b", "x", &[81])],
            |_| ()
        )),
        ["b"]
    );
    let chosen = json!({"name": "c", "image": "x", "exposed_ports": [{"container": 1}]});
    let wanted = [chosen, body("b", "x", &[80]), body("a", "x", &[100])];
    replace(&store, &wanted, |_| ()).unwrap();
    let desired = store.desired();
    let port = |name: &str| {
        desired
            .named(&name.parse().unwrap())
            .unwrap()
            .assignment
            .ports[0]
            .host
    };
    assert_eq!((port("a"), port("b"), port("c")), (100, 80, 101));
    let addresses: BTreeSet<_> = desired
        .records()
        .map(|record| record.assignment.address)
        .collect();
    assert_eq!(addresses.len(), 3);
}

#[test]
fn a_request_that_comes_twice_is_done_once_over_deletion_and_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    let web = || bodies(&[body("web", "x", &[])]).remove(0);
    let push = |store: &Store, request: &str| {
        store.deploy_once(&ExpectedTag::Any, web(), &keyed("k", request), 1)
    };
    let Idempotent::Now(first) = push(&store, "r").unwrap() else {
        panic!("it is new")
    };
    let id = first.record.id;
    store.order(id, Order::Remove).unwrap();
    store.forget(id).unwrap();
    for _ in 0..2 {
        let seq = store.desired().seq();
        let Idempotent::Before(answer) = push(&store, "r").unwrap() else {
            panic!("it was asked before")
        };
        assert_eq!(
            answer.outcome,
            Outcome::Container {
                id,
                name: "web".parse().unwrap(),
                generation: 1
            }
        );
        assert_eq!(
            (store.desired().records().count(), store.desired().seq()),
            (0, seq)
        );
        assert!(matches!(push(&store, "other"), Err(StoreError::KeyReused)));
        store = open_again(store, directory.path());
    }
    assert!(matches!(
        store.deploy_once(&ExpectedTag::Any, web(), &keyed("l", "r"), 1),
        Ok(Idempotent::Now(_))
    ));
    assert_eq!(store.desired().records().count(), 1);
}

#[test]
fn a_refused_request_leaves_its_key_and_a_replacement_is_answered_once_too() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let with_key = |r: &mut ReplaceRequest| r.keyed = Some(keyed("k", "r"));
    assert!(replace(&store, &[body("b", "x", &[109])], with_key).is_err());
    assert_eq!(
        changed(replace(&store, &[body("b", "x", &[])], with_key)),
        ["b"]
    );
    let before = etag(&store.desired());
    replace(&store, &[], |_| ()).unwrap();
    // The answer comes before the question whether the set is still the one that was meant.
    let repeated = |r: &mut ReplaceRequest| {
        (r.keyed, r.if_match) = (Some(keyed("k", "r")), Some(vec!["old".to_owned()]));
    };
    let Idempotent::Before(answer) = replace(&store, &[body("b", "x", &[])], repeated).unwrap()
    else {
        panic!("it is known")
    };
    assert_eq!(
        (answer.outcome, answer.changed),
        (Outcome::Set { etag: before }, true)
    );
    assert!(
        store
            .desired()
            .records()
            .all(|record| record.removing && record.run == RunState::Running)
    );
}

#[test]
fn a_set_of_some_names_leaves_all_others_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (db, one, two) = (
        body("db", "x", &[]),
        body("web-1", "x", &[]),
        body("web-2", "x", &[]),
    );
    changed(replace(&store, &[db, one.clone(), two], |_| {}));
    let scope = NameScope::Some(vec!["web-*".parse().unwrap()]);
    let mine = etag_of(&store.desired(), &scope);
    assert_ne!(mine, etag(&store.desired()));
    let within = |tag: &str| {
        let (tag, scope) = (tag.to_owned(), scope.clone());
        replace(&store, std::slice::from_ref(&one), move |request| {
            request.scope = scope;
            request.if_match = Some(vec![tag]);
        })
    };
    // The tag of the whole is none of this part's.
    assert!(
        matches!(within(&etag(&store.desired())), Err(StoreError::Unmatched(tag)) if tag == mine)
    );
    assert_eq!(changed(within(&mine)), ["-web-2"]);
    // What others change changes no part of theirs.
    let mine = etag_of(&store.desired(), &scope);
    deploy(&store, &body("db", "y", &[])).unwrap();
    assert!(changed(within(&mine)).is_empty());
    assert!(store.desired().named(&"db".parse().unwrap()).is_some());
}

#[test]
fn a_deploy_of_a_container_that_is_not_as_expected_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let to = |expected: &ExpectedTag, more: &Value| {
        let mut body = body("web", "x", &[]);
        let more = more.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(more);
        let deploy = bodies(&[body]).remove(0);
        store.deploy_to(expected, deploy, Owner::Push, false, 1)
    };
    let one = |tag: &str| ExpectedTag::OneOf(vec!["other".to_owned(), tag.to_owned()]);
    for expected in [ExpectedTag::There, one("x")] {
        let refused = to(&expected, &json!({}));
        assert!(matches!(refused, Err(StoreError::UnmatchedAbsent(_))));
    }
    let first = to(&ExpectedTag::Absent, &json!({})).unwrap().record;
    let there = |refused: Result<_, StoreError>| matches!(refused, Err(StoreError::UnmatchedPresent(_, tag)) if tag == first.etag());
    assert!(there(to(&ExpectedTag::Absent, &json!({}))), "the same, too");
    // Each of them is a change that somebody made, although no generation follows from most.
    let changes = [
        json!({"priority": 7}),
        json!({"revision": 9}),
        json!({"labels": {"a": "b"}}),
        json!({"state": "stopped"}),
        json!({"args": ["2"]}),
    ];
    let mut before = first.etag();
    for change in &changes {
        let next = to(&one(&before), change).unwrap();
        assert!(next.changed, "{change}");
        let late = to(&one(&before), &json!({"priority": 1}));
        assert!(
            matches!(&late, Err(StoreError::UnmatchedContainer(_, now)) if *now == next.record.etag()),
            "{change}: {late:?}"
        );
        before = next.record.etag();
    }
    for order in [Order::Stop, Order::Start, Order::Restart] {
        let expected = ExpectedTag::OneOf(vec![before.clone()]);
        let ordered = || store.order_to(&expected, first.id, order);
        let next = ordered().unwrap().etag();
        assert!(
            matches!(ordered(), Err(StoreError::UnmatchedContainer(_, now)) if now == next),
            "{order:?} once"
        );
        assert_ne!(
            std::mem::replace(&mut before, next.clone()),
            next,
            "{order:?}"
        );
    }
    // Nothing of what the agent does of itself is a change.
    let record = store.desired().get(first.id).cloned().unwrap();
    let digest = Some("sha256:1".to_owned());
    store.set_image_digest(record.instance(), digest).unwrap();
    let record = store.desired().get(first.id).cloned().unwrap();
    assert_eq!(
        (record.image_digest.is_some(), record.etag()),
        (true, before)
    );
    assert!(to(&ExpectedTag::There, &json!({})).is_ok());
    let keyed = keyed("k", "r");
    let deploy = || bodies(&[body("web", "y", &[])]).remove(0);
    let refused = store.deploy_once(&one("x"), deploy(), &keyed, 1);
    assert!(matches!(refused, Err(StoreError::UnmatchedContainer(..))));
    assert!(
        store
            .deploy_once(
                &one(&store.desired().get(first.id).unwrap().etag()),
                deploy(),
                &keyed,
                1
            )
            .is_ok()
    );
    // A repetition is answered as before, whatever the tag is by now.
    let again = store.deploy_once(&one("x"), deploy(), &keyed, 1);
    assert!(matches!(again, Ok(Idempotent::Before(_))));
}
