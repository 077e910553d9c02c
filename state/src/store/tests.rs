mod capacity;
mod chronicle;
mod circles;
mod damage;
mod declared;
mod defaults;
mod glances;
mod guarded;
mod jumps;
mod live;
mod looks;
mod owners;
mod policed;
mod rollback;
mod room;
mod ruled;
mod sealed;
mod secrets;
mod sizes;
mod tag_checks;
mod transient;
mod witnessed;

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::disk::Disk;
use super::*;
use crate::assign::tests::Host;
use crate::desired::{Finished, Owner};
use crate::guard;
use crate::id::InstanceName;
use crate::reason::Reason;

fn limits() -> Limits {
    let network = Host {
        addresses: Ipv4Addr::new(10, 0, 0, 2)..=Ipv4Addr::new(10, 0, 0, 9),
        listening: vec![109],
    };
    Limits {
        ports: 100..=109,
        network: Arc::new(network),
        containers_max: 3,
        capacity: Capacity::ENDLESS,
        new_privileges: false,
        random,
        disk: sound_disk,
    }
}

fn open(path: &Path) -> Store {
    Store::open(path, limits()).unwrap()
}

fn deploy(store: &Store, body: &Value) -> Result<Accepted, StoreError> {
    store.deploy(
        crate::spec::parse::deploy(body).unwrap(),
        Owner::Push,
        false,
        1,
    )
}

#[test]
fn what_was_accepted_is_there_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let first = deploy(
        &open(directory.path()),
        &json!({"name": "a", "image": "x", "exposed_ports": [{"container": 80}]}),
    )
    .unwrap();
    let store = open(directory.path());
    assert_eq!(
        store.desired().records().cloned().collect::<Vec<_>>(),
        [first.record]
    );
}

#[test]
fn the_same_again_changes_nothing_and_another_spec_is_the_next_generation() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let first = deploy(&store, &json!({"name": "a", "image": "x"})).unwrap();
    store
        .set_image_digest(first.record.instance(), Some("sha256:1".to_owned()))
        .unwrap();
    let again = deploy(&store, &json!({"name": "a", "image": "x"})).unwrap();
    assert_eq!((again.changed, again.record.generation), (false, 1));
    let other = deploy(&store, &json!({"name": "a", "image": "y"})).unwrap();
    assert_eq!(
        (
            other.changed,
            other.record.generation,
            &other.record.image_digest
        ),
        (true, 2, &None)
    );
    assert_eq!(
        (other.record.id, &other.record.assignment),
        (first.record.id, &first.record.assignment)
    );
}

#[test]
fn a_dry_run_stores_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let body = crate::spec::parse::deploy(&json!({"name": "a", "image": "x"})).unwrap();
    assert!(store.deploy(body, Owner::Push, true, 1).unwrap().changed);
    assert_eq!(store.desired().records().count(), 0);
}

#[test]
fn a_record_is_forgotten_only_while_it_is_to_be_removed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let id = deploy(&store, &json!({"name": "a", "image": "x"}))
        .unwrap()
        .record
        .id;
    store.forget(id).unwrap();
    assert!(store.desired().get(id).is_some());
    store.change(id, |record| record.removing = true).unwrap();
    let revived = deploy(&store, &json!({"name": "a", "image": "x"}))
        .unwrap()
        .record;
    assert_eq!(
        (revived.id, revived.generation, revived.removing),
        (id, 2, false)
    );
    store.change(id, |record| record.removing = true).unwrap();
    store.forget(id).unwrap();
    assert_eq!(
        open_again(store, directory.path())
            .desired()
            .records()
            .count(),
        0
    );
}

fn open_again(store: Store, path: &Path) -> Store {
    reopened(store, path, &limits())
}

/// Within one process, sled may still hold its files for a moment after it was dropped.
fn reopened(store: Store, path: &Path, limits: &Limits) -> Store {
    drop(store);
    loop {
        let store = Store::open(path, limits.clone()).unwrap();
        if store.is_writable() {
            return store;
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_note_about_an_older_generation_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let first = deploy(&store, &json!({"name": "a", "image": "x"})).unwrap();
    let id = first.record.id;
    deploy(&store, &json!({"name": "a", "image": "y"})).unwrap();
    store
        .set_image_digest(first.record.instance(), Some("sha256:1".to_owned()))
        .unwrap();
    store
        .finish(
            id,
            1,
            Finished {
                code: 0,
                reason: Reason::Completed,
                at_ms: 0,
            },
        )
        .unwrap();
    let desired = store.desired();
    let record = desired.get(id).unwrap();
    assert_eq!((&record.image_digest, &record.finished), (&None, &None));
}

#[test]
fn the_image_of_the_last_proven_generation_is_the_one_to_go_back_to() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let version = |image: &str, proven: bool| {
        let accepted = deploy(&store, &json!({"name": "a", "image": image})).unwrap();
        let record = accepted.record;
        let digest = Some(format!("sha256:{image}"));
        store
            .set_image_digest(record.instance(), digest.clone())
            .unwrap();
        if proven {
            store.note_proven(&[(record.instance(), digest)]).unwrap();
        }
        let former = record.former_image.clone();
        former.map(|image| (image.reference.to_string(), image.digest))
    };
    let of = |image: &str| {
        let reference = format!("docker.io/library/{image}:latest");
        Some((reference, format!("sha256:{image}")))
    };
    assert_eq!(version("one", false), None);
    assert_eq!(version("two", false), of("one"), "there is no better one");
    assert_eq!(version("three", true), of("one"), "two was not proven");
    assert_eq!(version("four", false), of("three"));
    assert_eq!(version("five", false), of("three"), "four was not proven");
    let more = json!({"name": "a", "image": "five", "args": ["x"]});
    let same_image = deploy(&store, &more).unwrap().record;
    assert_eq!(
        same_image.former_image.as_ref().unwrap().digest,
        "sha256:three"
    );
    let note = InstanceName {
        generation: 1,
        ..same_image.instance()
    };
    let digest = Some("sha256:five".to_owned());
    store.note_proven(&[(note, digest)]).unwrap();
    assert!(
        !store.desired().get(note.id).unwrap().is_proven,
        "it has moved on"
    );
}

#[test]
fn new_privileges_are_taken_only_where_the_node_permits_them() {
    let body = json!({"name": "a", "image": "x", "security": {"no_new_privileges": false}});
    let directory = tempfile::tempdir().unwrap();
    let refused = deploy(&open(directory.path()), &body)
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("containers.allow_new_privileges"),
        "{refused}"
    );
    let permitting = Limits {
        capacity: Capacity::ENDLESS,
        new_privileges: true,
        ..limits()
    };
    let store = Store::open(directory.path(), permitting).unwrap();
    let record = deploy(&store, &body).unwrap().record;
    assert!(!record.spec.security.no_new_privileges);
}

#[test]
fn the_limit_on_containers_and_the_owner_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for name in ["a", "b", "c"] {
        deploy(&store, &json!({"name": name, "image": "x"})).unwrap();
    }
    assert!(matches!(
        deploy(&store, &json!({"name": "d", "image": "x"})),
        Err(StoreError::TooMany(3))
    ));
    let id = store.desired().named(&"a".parse().unwrap()).unwrap().id;
    store
        .change(id, |record| record.owner = Owner::Chas)
        .unwrap();
    assert!(matches!(
        deploy(&store, &json!({"name": "a", "image": "y"})),
        Err(StoreError::Owned(_, 1))
    ));
}

#[test]
fn a_second_agent_cannot_open_the_same_store() {
    let directory = tempfile::tempdir().unwrap();
    let _first = open(directory.path());
    assert!(matches!(
        Store::open(directory.path(), limits()),
        Err(StoreError::InUse(_))
    ));
}

#[test]
fn after_a_failed_write_the_files_are_opened_anew_and_say_what_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let kept = deploy(&store, &json!({"name": "kept", "image": "x"}))
        .unwrap()
        .record;
    let gone = deploy(&store, &json!({"name": "gone", "image": "x"}))
        .unwrap()
        .record;
    // As a failed write leaves it: closed, and on disk neither all nor only what was acknowledged.
    let mut files = lock(&store.files);
    files.state = FilesState::Failed;
    let path = directory.path().join("state");
    let (mut disk, _) = Disk::open(&path).unwrap();
    let stray = Record {
        name: "stray".parse().unwrap(),
        id: ContainerId::from_bits(7),
        ..Record::clone(&gone)
    };
    let entries = [
        (DesiredChange::RemoveRecord(kept.id)).entry(),
        DesiredChange::Put(Box::new(stray)).entry(),
    ];
    disk.write(&files.dir, &entries, &[]).unwrap();
    drop((disk, files));
    store
        .change(gone.id, |record| record.removing = true)
        .unwrap();
    store.forget(gone.id).unwrap();
    let store = open_again(store, directory.path());
    assert_eq!(
        store.desired().records().cloned().collect::<Vec<_>>(),
        [kept]
    );
}
