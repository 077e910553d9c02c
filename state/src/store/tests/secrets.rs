//! Secrets and files: kept beside the records, and found by those who name them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::*;
use crate::desired::uncertain::LostChanges;
use crate::ownership::{ChasSet, SetSecret};
use crate::seal::{NodeKey, Sealer};
use crate::spec::{Content, SecretName};

const VALUE: &[u8] = b"unmistakable-word";

fn keyed(directory: &Path) -> Store {
    let store = open(directory);
    let key = NodeKey::Present(Arc::new(Sealer::new(&[1; 32])));
    store.set_key(key).unwrap();
    store
}

fn name(text: &str) -> SecretName {
    text.parse().unwrap()
}

fn body(on_change: &str) -> Value {
    let uses = [json!({"name": "key", "path": "/run/tls/key", "on_change": on_change})];
    json!({"name": "a", "image": "x", "secrets": uses})
}

fn generation(store: &Store) -> (u64, u64) {
    let record = store
        .desired()
        .named(&"a".parse().unwrap())
        .cloned()
        .unwrap();
    (record.generation, record.instance().generation)
}

#[test]
fn another_value_is_another_generation_and_the_same_value_is_nothing() {
    for (on_change, instance) in [("restart", 2), ("replace", 1)] {
        let directory = tempfile::tempdir().unwrap();
        let store = keyed(directory.path());
        let refused = deploy(&store, &body(on_change)).unwrap_err();
        let StoreError::NoSecret(_, faults) = refused else {
            panic!("{refused}");
        };
        assert_eq!(faults[0].field, "secrets[0].name");
        let first = store.put_secret(&name("key"), VALUE, 1).unwrap();
        assert!(first.is_new && first.is_changed && first.records.is_empty());
        deploy(&store, &body(on_change)).unwrap();
        assert!(!deploy(&store, &body(on_change)).unwrap().changed);
        let same = store.put_secret(&name("key"), VALUE, 2).unwrap();
        assert!(!same.is_new && !same.is_changed && same.records.is_empty());
        assert_eq!(generation(&store), (1, 1));
        let other = store.put_secret(&name("key"), b"other", 3).unwrap();
        assert_eq!(other.records.len(), 1);
        assert_eq!(generation(&store), (2, instance), "{on_change}");
        assert!(!deploy(&store, &body(on_change)).unwrap().changed);
        let shown = store.secrets();
        assert_eq!((shown[0].created_ms, shown[0].changed_ms), (1, 3));
        assert_eq!(shown[0].used_by.len(), 1);
        drop(store);
        let store = keyed(directory.path());
        assert_eq!(store.secrets(), shown);
        assert_eq!(generation(&store), (2, instance));
    }
}

#[test]
fn a_secret_is_removed_when_nothing_uses_it_and_its_value_an_hour_later() {
    let directory = tempfile::tempdir().unwrap();
    let store = keyed(directory.path());
    store.put_secret(&name("key"), VALUE, 1).unwrap();
    store.put_secret(&name("other"), b"other", 1).unwrap();
    deploy(&store, &body("restart")).unwrap();
    let used = store.remove_secret(&name("key")).unwrap_err();
    assert!(used.to_string().contains("used by a"), "{used}");
    store.remove_secret(&name("other")).unwrap();
    let gone = store.remove_secret(&name("other"));
    assert!(matches!(gone, Err(StoreError::UnknownSecret(_))));
    let now = SystemTime::now();
    let later = now + Duration::from_hours(2);
    assert_eq!(
        store.sweep_blobs(later).unwrap(),
        0,
        "records may be missing"
    );
    store.adopt(&[]).unwrap();
    assert_eq!(store.sweep_blobs(now).unwrap(), 0);
    assert_eq!(store.sweep_blobs(later).unwrap(), 1);
    assert_eq!(store.sweep_blobs(later).unwrap(), 0, "the other is used");
}

#[test]
fn contents_of_files_are_beside_the_record_and_equal_ones_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = keyed(directory.path());
    let body = |content: &str| json!({"name": "a", "image": "x", "files": [{"path": "/etc/a", "content": content}]});
    let first = deploy(&store, &body("one")).unwrap().record;
    assert!(first.spec.files[0].content.bytes().is_none());
    assert!(!deploy(&store, &body("one")).unwrap().changed);
    assert_eq!(
        store.opened(&first).spec.files[0].content.bytes(),
        Some(&b"one"[..])
    );
    let second = deploy(&store, &body("unmistakable")).unwrap().record;
    assert_eq!(second.generation, 2);
    assert!(!format!("{second:?}").contains("unmistakable"));
    drop(store);
    let store = keyed(directory.path());
    let kept = store.desired().get(second.id).cloned().unwrap();
    assert_eq!(kept.spec, second.spec);
    assert!(!deploy(&store, &body("unmistakable")).unwrap().changed);
}

#[test]
fn the_secrets_of_a_set_come_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = keyed(directory.path());
    let mut pushed = body("restart");
    pushed["name"] = json!("pushed");
    let set = |generation: u64, value: Option<&[u8]>| ChasSet {
        generation,
        containers: vec![crate::spec::parse::deploy(&body("restart")).unwrap()],
        secrets: value
            .map(|value| {
                let value = Content::readable(value.to_vec());
                (name("key"), SetSecret { value, tag: None })
            })
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
        ..ChasSet::default()
    };
    let without = store.apply_set(&set(1, None), 1).unwrap();
    assert_eq!(without.rejected.len(), 1);
    store.put_secret(&name("key"), VALUE, 1).unwrap();
    let again = store.apply_set(&set(1, None), 1).unwrap();
    assert_eq!(
        (again.rejected.len(), again.changed.len()),
        (0, 1),
        "applied again"
    );
    deploy(&store, &pushed).unwrap();
    store.apply_set(&set(2, Some(b"other")), 1).unwrap();
    assert_eq!(generation(&store).0, 2);
    let desired = store.desired();
    let pushed = desired.named(&"pushed".parse().unwrap()).unwrap();
    assert_eq!(
        pushed.generation, 1,
        "a set changes nothing that was pushed"
    );
}

fn set(generation: u64, value: &[u8]) -> ChasSet {
    let value = Content::readable(value.to_vec());
    ChasSet {
        generation,
        containers: vec![crate::spec::parse::deploy(&body("restart")).unwrap()],
        secrets: BTreeMap::from([(name("key"), SetSecret { value, tag: None })]),
        ..ChasSet::default()
    }
}

fn is_applied(store: &Store) -> bool {
    let desired = store.desired();
    desired.marks().applied_set().unwrap().fully_applied
}

#[test]
fn secrets_of_a_set_that_came_without_the_key_are_applied_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = keyed(directory.path());
    store.apply_set(&set(1, VALUE), 1).unwrap();
    assert!(is_applied(&store));
    drop(store);
    let store = open(directory.path());
    store.set_key(NodeKey::Missing("gone".to_owned())).unwrap();
    let kept = store.apply_set(&set(2, b"other"), 2).unwrap();
    assert!(kept.rejected.is_empty() && kept.changed.is_empty());
    assert_eq!(
        (is_applied(&store), generation(&store).0),
        (false, 1),
        "it runs on"
    );
    let key = NodeKey::Present(Arc::new(Sealer::new(&[1; 32])));
    store.set_key(key).unwrap();
    store.apply_set(&set(2, b"other"), 3).unwrap();
    assert_eq!((is_applied(&store), generation(&store).0), (true, 2));
}

#[test]
fn a_disk_that_takes_no_content_holds_up_nothing_else_of_a_set() {
    let directory = tempfile::tempdir().unwrap();
    let store = keyed(directory.path());
    store.apply_set(&set(1, VALUE), 1).unwrap();
    let blobs = directory.path().join("blobs");
    let aside = directory.path().join("aside");
    std::fs::rename(&blobs, &aside).unwrap();
    std::fs::write(&blobs, "no directory").unwrap();
    let mut full = set(2, b"other");
    let filed = json!({"name": "b", "image": "x", "files": [{"path": "/f", "content": "c"}]});
    let plain = json!({"name": "c", "image": "x"});
    for body in [filed, plain] {
        full.containers
            .push(crate::spec::parse::deploy(&body).unwrap());
    }
    let outcome = store.apply_set(&full, 2).unwrap();
    assert_eq!((outcome.changed.len(), outcome.rejected.len()), (1, 1));
    assert_eq!(outcome.rejected[0].name.as_deref(), Some("b"));
    assert_eq!((is_applied(&store), generation(&store).0), (false, 1));
    std::fs::remove_file(&blobs).unwrap();
    std::fs::rename(&aside, &blobs).unwrap();
    store.apply_set(&full, 3).unwrap();
    assert_eq!((is_applied(&store), generation(&store).0), (true, 2));
}

#[test]
fn a_value_that_cannot_be_a_variable_is_refused_before_anything_ends_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = keyed(directory.path());
    let uses = |name: &str| json!([{"name": name, "env": "A"}]);
    let body = |name: &str| json!({"name": "a", "image": "x", "secrets": uses(name)});
    store.put_secret(&name("key"), VALUE, 1).unwrap();
    deploy(&store, &body("key")).unwrap();
    for unfit in [&b"text\0"[..], &[0xff, b'a']] {
        let refused = store.put_secret(&name("key"), unfit, 2).unwrap_err();
        let StoreError::SecretUnfit(_, users) = &refused else {
            panic!("{refused}");
        };
        assert_eq!(users.len(), 1);
        assert_eq!(generation(&store).0, 1);
        store.put_secret(&name("other"), unfit, 2).unwrap();
        let refused = deploy(&store, &body("other")).unwrap_err();
        let StoreError::NoSecret(_, faults) = refused else {
            panic!("{refused}");
        };
        assert_eq!(faults[0].field, "secrets[0].env");
    }
    // 30 of these fit, and 31 do not.
    store.put_secret(&name("key"), b"small", 3).unwrap();
    let many = |number: usize| {
        let uses = (0..number).map(|n| json!({"name": "key", "env": format!("A{n}")}));
        json!({"name": "a", "image": "x", "secrets": uses.collect::<Vec<_>>()})
    };
    deploy(&store, &many(30)).unwrap();
    let large = [b'x'; SECRET_BYTES_MAX];
    store.put_secret(&name("key"), &large[..60_000], 4).unwrap();
    assert_eq!(generation(&store).0, 4);
    let refused = deploy(&store, &many(40)).unwrap_err();
    assert!(matches!(refused, StoreError::NoSecret(..)), "{refused}");
    let refused = store.put_secret(&name("key"), &large, 5);
    assert!(matches!(refused, Err(StoreError::SecretUnfit(..))));
}

#[test]
fn what_has_ended_for_good_is_not_run_again_for_another_value() {
    let directory = tempfile::tempdir().unwrap();
    let store = keyed(directory.path());
    store.apply_set(&set(1, VALUE), 1).unwrap();
    let record = || store.desired().named(&"a".parse().unwrap()).cloned();
    let finished = Finished {
        code: 0,
        reason: Reason::Completed,
        at_ms: 1,
    };
    let id = record().unwrap().id;
    store.finish(id, 1, finished.clone()).unwrap();
    store.put_secret(&name("key"), b"other", 2).unwrap();
    store.apply_set(&set(2, b"third"), 3).unwrap();
    let ended = record().unwrap();
    assert_eq!((ended.generation, &ended.finished), (3, &Some(finished)));
    let mut changed = set(3, b"third");
    changed.containers[0].spec.image = "y".parse().unwrap();
    store.apply_set(&changed, 4).unwrap();
    assert_eq!(record().unwrap().finished, None, "it was changed");
}

#[test]
fn what_is_uncertain_has_another_value_once_it_is_certain() {
    let directory = tempfile::tempdir().unwrap();
    let store = keyed(directory.path());
    store.put_secret(&name("key"), VALUE, 1).unwrap();
    let id = deploy(&store, &body("restart")).unwrap().record.id;
    let lost = LostChanges {
        until: 9,
        containers: None,
    };
    let lose = |_: &Desired| Ok((vec![DesiredChange::Lose(lost)], ()));
    store.transact(lose).unwrap();
    let is_uncertain = || store.desired().get(id).unwrap().is_uncertain;
    assert!(is_uncertain());
    let change = store.put_secret(&name("key"), b"other", 2).unwrap();
    assert!(change.is_changed && change.records.is_empty());
    assert!(is_uncertain(), "as it was");
    store.trust(&[id]).unwrap();
    let change = store.put_secret(&name("key"), b"other", 3).unwrap();
    assert!(!change.is_changed);
    assert_eq!(change.records.len(), 1, "those that were left out");
    assert_eq!(generation(&store).0, 2);
}
