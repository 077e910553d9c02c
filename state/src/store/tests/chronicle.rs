//! The chronicle of a container, and the way back by it.

use super::*;
use crate::chronicle::GENERATIONS_MAX;
use crate::desired::chronicle::{Chapter, ChapterResult};
use crate::id::ContainerId;
use crate::ownership::Order;
use crate::seal::{NodeKey, Sealer};

/// Tells who calls.
#[derive(Debug)]
struct Caller;

impl ChangeWitness for Caller {
    fn hear(&self, _: &[AuditedChange]) -> std::io::Result<()> {
        Ok(())
    }

    fn call(&self) -> Option<ChangeCall> {
        let by = "client:ci".to_owned();
        Some(ChangeCall { by, at_ms: 7 })
    }
}

pub(super) fn with_key(path: &Path) -> Store {
    let store = open(path);
    let sealer = Sealer::new(&[1; 32]);
    store.set_key(NodeKey::Present(Arc::new(sealer))).unwrap();
    store.set_witness(Arc::new(Caller));
    store
}

pub(super) fn body(version: u64) -> Value {
    json!({"name": "a", "image": "x", "args": [version.to_string()], "environment": {"V": "secret"}})
}

/// Deploys a version, whose image is there; `proven`: and which runs for long.
pub(super) fn run(store: &Store, body: &Value, proven: bool) -> Arc<Record> {
    let record = deploy(store, body).unwrap().record;
    let digest = Some("sha256:1".to_owned());
    store
        .set_image_digest(record.instance(), digest.clone())
        .unwrap();
    if proven {
        store.note_proven(&[(record.instance(), digest)]).unwrap();
    }
    Arc::clone(store.desired().get(record.id).unwrap())
}

pub(super) fn request(id: ContainerId, generation: Option<u64>) -> RollbackRequest {
    RollbackRequest {
        id,
        generation,
        if_match: None,
        keyed: None,
        by: "root".to_owned(),
    }
}

pub(super) fn back(
    store: &Store,
    id: ContainerId,
    generation: Option<u64>,
) -> Result<Accepted, StoreError> {
    let request = request(id, generation);
    let Idempotent::Now(target) = store.rollback_target(&request)? else {
        panic!("it has no key");
    };
    match store.go_back(&request, &target, false, 9)? {
        Idempotent::Now(accepted) => Ok(accepted),
        Idempotent::Before(_) => panic!("it has no key"),
    }
}

pub(super) fn numbers(chapters: &[Chapter]) -> Vec<u64> {
    chapters.iter().map(|chapter| chapter.generation).collect()
}

#[test]
fn the_last_ten_generations_are_told_over_restarts_with_who_and_what() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_key(directory.path());
    let id = run(&store, &body(1), true).id;
    for version in 2..=12 {
        run(&store, &body(version), false);
    }
    let told = store.chronicle(id).unwrap();
    assert_eq!(numbers(&told), (3..=12).rev().collect::<Vec<_>>());
    assert_eq!(told.len(), GENERATIONS_MAX);
    let (present, before) = (&told[0], &told[1]);
    assert_eq!(present.by.as_deref(), Some("client:ci"));
    assert_eq!((present.at_ms, present.from), (Some(7), Some(11)));
    assert_eq!(present.changes[0].field, "args");
    assert!(present.end.is_none());
    let end = before.end.as_ref().unwrap();
    assert_eq!(end.result, ChapterResult::NotStarted);
    assert_eq!(end.image_digest.as_deref(), Some("sha256:1"));
    let store = open_again(store, directory.path());
    assert_eq!(store.chronicle(id).unwrap(), told);
    for file in walk(directory.path()) {
        let bytes = std::fs::read(&file).unwrap();
        let is_readable = bytes.windows(8).any(|part| part == b"\"secret\"");
        assert!(!is_readable, "a value is readable in {}", file.display());
    }
}

fn walk(path: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn a_removal_ends_the_chronicle_also_of_a_name_that_comes_back_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_key(directory.path());
    let id = run(&store, &body(1), true).id;
    run(&store, &body(2), true);
    store.order(id, Order::Remove).unwrap();
    assert_eq!(numbers(&store.chronicle(id).unwrap()), [2, 1]);
    run(&store, &body(3), true);
    assert_eq!(numbers(&store.chronicle(id).unwrap()), [3]);
    assert!(matches!(
        back(&store, id, None),
        Err(StoreError::NothingBefore(_))
    ));
    assert!(matches!(
        back(&store, id, Some(1)),
        Err(StoreError::UnknownGeneration(_, 1))
    ));
    store.order(id, Order::Remove).unwrap();
    assert!(matches!(
        back(&store, id, None),
        Err(StoreError::Removing(_))
    ));
    store.forget(id).unwrap();
    assert!(matches!(store.chronicle(id), Err(StoreError::NotFound(_))));
    let files = lock(&store.files);
    assert!(files.disk().unwrap().chronicled(None).is_empty());
}

#[test]
fn an_older_store_has_no_chronicle_and_begins_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_key(directory.path());
    let id = run(&store, &body(1), true).id;
    {
        let files = lock(&store.files);
        let chapter = (id, 1, None);
        files
            .disk()
            .unwrap()
            .write_chapters(&files.dir, &[chapter])
            .unwrap();
    }
    assert!(store.chronicle(id).unwrap().is_empty());
    run(&store, &body(2), false);
    let told = store.chronicle(id).unwrap();
    assert_eq!(numbers(&told), [2, 1]);
    assert_eq!(
        (&told[1].by, told[1].at_ms),
        (&None, None),
        "nobody noted it"
    );
    assert_eq!(told[1].end.as_ref().unwrap().result, ChapterResult::RanWell);
    assert_eq!(
        back(&store, id, None).unwrap().record.spec.args,
        Some(vec!["1".to_owned()])
    );
}

#[test]
fn a_full_disk_refuses_a_way_back_as_a_deploy_and_a_nearly_full_one_leaves_a_gap_alone() {
    // As nobody, no file system can be mounted; contrib/test runs as root.
    let Some(disk) = room::SmallDisk::mount(c"size=16m") else {
        assert!(!rustix::process::geteuid().is_root(), "root mounts it");
        return;
    };
    let store = with_key(&disk.path().join("state"));
    store.tend();
    let id = run(&store, &body(1), true).id;
    run(&store, &body(2), false);
    let fill = |bytes: usize| std::fs::write(disk.path().join("fill"), vec![0_u8; bytes]);
    let free = || {
        let disk = rustix::fs::statvfs(disk.path()).unwrap();
        usize::try_from(disk.f_bavail * disk.f_frsize).unwrap()
    };
    fill(free() - (6 << 20)).unwrap();
    run(&store, &body(3), false);
    assert_eq!(numbers(&store.chronicle(id).unwrap()), [2, 1], "a gap");
    fill(16 << 20).unwrap_err();
    // What sled has room for in its log is taken still.
    let refused = (0..1000).find_map(|round| {
        let before = store.desired().get(id).unwrap().generation;
        let refused = match round % 2 {
            0 => back(&store, id, Some(1)).err(),
            _ => deploy(&store, &body(100 + round)).err(),
        };
        let now = store.desired().get(id).unwrap().generation;
        assert_eq!(now, before + u64::from(refused.is_none()));
        refused
    });
    assert!(matches!(refused, Some(StoreError::Disk(_))), "{refused:?}");
    assert!(!store.is_stuck());
    std::fs::remove_file(disk.path().join("fill")).unwrap();
    deploy(&store, &body(5000)).unwrap();
    let record = back(&store, id, Some(1)).unwrap().record;
    assert_eq!(record.spec.args, Some(vec!["1".to_owned()]));
    let told = store.chronicle(id).unwrap();
    assert_eq!(
        (told[0].generation, told[0].back_to),
        (record.generation, Some(1))
    );
    let end = |generation| {
        told.iter()
            .find(|of| of.generation == generation)
            .map(|of| &of.end)
    };
    assert_eq!(end(2), Some(&None), "nobody could note it");
    drop(store);
}

#[test]
fn a_disk_with_little_room_is_given_back_what_a_removal_leaves() {
    let Some(disk) = room::SmallDisk::mount(c"size=16m") else {
        assert!(!rustix::process::geteuid().is_root(), "root mounts it");
        return;
    };
    let store = with_key(&disk.path().join("state"));
    store.tend();
    let id = run(&store, &body(1), true).id;
    run(&store, &body(2), false);
    let left = || {
        let files = lock(&store.files);
        files.disk().unwrap().chronicled(None).len()
    };
    assert_eq!(left(), 2);
    let free = rustix::fs::statvfs(disk.path()).unwrap();
    let free = usize::try_from(free.f_bavail * free.f_frsize).unwrap();
    std::fs::write(disk.path().join("fill"), vec![0_u8; free - (6 << 20)]).unwrap();
    store.order(id, Order::Remove).unwrap();
    let files = store.blobs_of_chronicles();
    store.forget(id).unwrap();
    assert_eq!((left(), files.is_some()), (0, true));
    // What was left by a kill goes without a restart.
    let of = Chapter {
        generation: 1,
        ..Default::default()
    };
    {
        let files = lock(&store.files);
        std::fs::remove_file(disk.path().join("fill")).unwrap();
        let chapter = (ContainerId::from_bits(77), 1, Some(of));
        files
            .disk()
            .unwrap()
            .write_chapters(&files.dir, &[chapter])
            .unwrap();
    }
    assert_eq!(left(), 1);
    store.adopt(&[]).unwrap();
    store.tend();
    assert_eq!(left(), 0);
    drop(store);
}

#[test]
fn chapters_of_a_change_that_was_refused_after_all_are_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_key(directory.path());
    let id = run(&store, &body(1), true).id;
    let stale = {
        // A kill between the two writes: the change is not there, and its chapters are.
        let files = lock(&store.files);
        let disk = files.disk().unwrap();
        let mut own = disk.chapter(id, 1).unwrap();
        let desired = store.desired();
        let record = desired.get(id).unwrap();
        own.end = Some(Box::new(crate::chronicle::ended(
            record, record, None, None,
        )));
        let next = Chapter {
            generation: 2,
            by: Some("nobody".to_owned()),
            ..Chapter::default()
        };
        let chapters = [(id, 1, Some(own)), (id, 2, Some(next))];
        disk.write_chapters(&files.dir, &chapters).unwrap();
        disk.chronicled(Some(id)).len()
    };
    assert_eq!(stale, 2);
    let told = store.chronicle(id).unwrap();
    assert_eq!(numbers(&told), [1]);
    assert!(told[0].end.is_none(), "it is the present one");
    run(&store, &body(2), true);
    let told = store.chronicle(id).unwrap();
    assert_eq!(numbers(&told), [2, 1]);
    assert_eq!(told[0].by.as_deref(), Some("client:ci"));
}
