//! Values of environments, sealed at the door and where older versions left them readable.

use super::*;
use crate::ownership::ChasSet;
use crate::seal::{NodeKey, Sealer};

const VALUE: &str = "unmistakable-word";

fn key(byte: u8) -> NodeKey {
    NodeKey::Present(Arc::new(Sealer::new(&[byte; 32])))
}

fn body(value: &str) -> Value {
    json!({"name": "a", "image": "x", "environment": {"TOKEN": value}})
}

/// Whether a file of the store holds the value.
fn is_on_disk(directory: &Path) -> bool {
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            if entry.path().is_dir() {
                directories.push(entry.path());
                continue;
            }
            let content = std::fs::read(entry.path()).unwrap();
            let parts = &mut content.windows(VALUE.len());
            if parts.any(|part| part == VALUE.as_bytes()) {
                return true;
            }
        }
    }
    false
}

#[test]
fn no_value_is_written_or_shown_and_the_same_is_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.set_key(key(1)).unwrap();
    let first = deploy(&store, &body(VALUE)).unwrap();
    assert!(first.changed);
    assert!(!deploy(&store, &body(VALUE)).unwrap().changed);
    let other = deploy(&store, &body("another")).unwrap();
    assert_eq!((other.changed, other.record.generation), (true, 2));
    let back = deploy(&store, &body(VALUE)).unwrap().record;
    assert_eq!(back.spec_hash, first.record.spec_hash);
    let set = ChasSet {
        generation: 1,
        containers: vec![crate::spec::parse::deploy(&body(VALUE)).unwrap()],
        ..ChasSet::default()
    };
    let applied = store.apply_set(&set, 1).unwrap();
    assert!(applied.changed.len() <= 1 && applied.rejected.is_empty());
    let now = store.desired().named(&back.name).cloned().unwrap();
    assert_eq!((now.generation, now.owner), (3, Owner::Chas), "no restart");
    store.copy().unwrap();
    store.copy().unwrap();
    assert!(!is_on_disk(directory.path()));
    assert!(!format!("{:?}", store.desired()).contains(VALUE));
    assert_eq!(store.opened(&now).spec.environment.unwrap()["TOKEN"], VALUE);
}

#[test]
fn what_an_older_version_stored_readable_is_sealed_without_another_generation() {
    let directory = tempfile::tempdir().unwrap();
    let before = {
        let store = open(directory.path());
        let before = deploy(&store, &body(VALUE)).unwrap().record;
        store.copy().unwrap();
        before
    };
    assert!(is_on_disk(directory.path()));
    let store = open(directory.path());
    assert_eq!(store.set_key(key(1)).unwrap(), 1);
    let after = store.desired().get(before.id).cloned().unwrap();
    assert_eq!(after.spec.environment, None);
    let kept = |record: &Record| (record.generation, record.seq, record.spec_hash.clone());
    assert_eq!(kept(&after), kept(&before));
    assert!(!deploy(&store, &body(VALUE)).unwrap().changed);
    for name in copy::NAMES {
        let text = std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(text.contains("sealed_environment"), "{name}");
        assert!(!text.contains(VALUE), "{name}");
    }
    drop(store);
    let store = open(directory.path());
    assert_eq!(store.set_key(key(1)).unwrap(), 0);
    assert_eq!(store.desired().get(before.id), Some(&after));
}

#[test]
fn without_the_key_no_value_is_taken_in_and_all_else_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store
        .set_key(NodeKey::Missing("it is gone".to_owned()))
        .unwrap();
    let refused = deploy(&store, &body(VALUE)).unwrap_err();
    assert!(matches!(refused, StoreError::Unsealed(..)), "{refused}");
    assert!(!refused.to_string().contains(VALUE));
    deploy(&store, &json!({"name": "b", "image": "x"})).unwrap();
    let set = ChasSet {
        generation: 1,
        containers: vec![crate::spec::parse::deploy(&body(VALUE)).unwrap()],
        ..ChasSet::default()
    };
    let applied = store.apply_set(&set, 1).unwrap();
    assert_eq!(applied.rejected.len(), 1);
    assert!(!is_on_disk(directory.path()));
}

#[test]
fn records_of_labels_are_sealed_as_they_are_adopted() {
    let mut record = crate::desired::tests::record("a", 1);
    record.seq = 6;
    record
        .spec
        .environment
        .get_or_insert_default()
        .insert("TOKEN".to_owned(), VALUE.to_owned());
    let copies = [(record.id, serde_json::to_value(&record).unwrap())];
    let adoption = crate::desired::set::Adoption {
        above: 0,
        is_new: true,
    };
    let adopted = adopt::adopted(&Desired::default(), adoption, &copies, Some(&key(1)));
    let desired = Desired::default().with(&adopted.0);
    let adopted = desired.get(record.id).unwrap();
    assert_eq!(adopted.spec.environment, None);
    let opened = adopted.spec.opened_environment(&adopted.name, &key(1));
    assert_eq!(opened.ok(), record.spec.environment);
}
