//! Damage to the files: a start succeeds, and tells everything that it lost.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::history::{History, StoredHistory};

/// Three containers, both copies current, the agent ended.
fn stored() -> (tempfile::TempDir, Desired) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.adopt(&[]).unwrap();
    for change in 0..60 {
        let name = ["a", "b", "c"][change % 3];
        deploy(&store, &json!({"name": name, "image": format!("x:{change}"), "environment": {"LONG": "x".repeat(3000)}}))
            .unwrap();
    }
    store.copy().unwrap();
    let desired = Desired::clone(&store.desired());
    (directory, desired)
}

fn records(store: &Store) -> Vec<Arc<Record>> {
    store.desired().records().cloned().collect()
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file under a directory, by its path in it.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

const BLOCK: usize = 512;

/// Damages one block of a file: turns its bits over, makes it zero, or cuts the file there.
fn damage(path: &Path, block: usize, how: usize) {
    let mut bytes = fs::read(path).unwrap();
    let (start, end) = (block * BLOCK, ((block + 1) * BLOCK).min(bytes.len()));
    match how {
        0 => bytes[start..end].iter_mut().for_each(|byte| *byte = !*byte),
        1 => bytes[start..end].fill(0),
        _ => bytes.truncate(start),
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn no_damaged_block_of_any_file_loses_anything() {
    let (whole, desired) = stored();
    let expected: Vec<_> = desired.records().cloned().collect();
    // All blocks where it is asked for (a minute or two); else every so many, beginning elsewhere
    // in each file.
    let stride = if std::env::var_os("CHAS_TEST_EVERY_BLOCK").is_some() {
        1
    } else {
        23
    };
    let (mut tried, mut said) = (0, 0);
    let mut files = files(whole.path());
    files.retain(|path| path.file_name() != Some("reserve".as_ref()));
    for (offset, path) in files.into_iter().enumerate() {
        let blocks = usize::try_from(fs::metadata(&path).unwrap().len())
            .unwrap()
            .div_ceil(BLOCK);
        for block in (0..blocks)
            .skip(offset % stride.min(blocks.max(1)))
            .step_by(stride)
        {
            for how in 0..3 {
                let directory = tempfile::tempdir().unwrap();
                let copy = directory.path().join("copy");
                copy_tree(whole.path(), &copy);
                let relative = path.strip_prefix(whole.path()).unwrap();
                damage(&copy.join(relative), block, how);
                let store = open(&copy);
                assert_eq!(
                    records(&store),
                    expected,
                    "{} block {block} damage {how}: {:?}",
                    relative.display(),
                    store.losses()
                );
                store.adopt(&[]).unwrap();
                deploy(&store, &json!({"name": "a", "image": "y"})).unwrap();
                tried += 1;
                said += usize::from(!store.losses().is_empty());
            }
        }
    }
    assert!(
        tried > 30 && said > 10,
        "{tried} damages, {said} of them seen"
    );
}

#[test]
fn with_every_copy_damaged_the_runtimes_own_are_asked_for_and_nothing_new_is_taken_before() {
    let (directory, desired) = stored();
    for name in [
        "state/db",
        "desired.json.a",
        "desired.json.b",
        "last-change",
    ] {
        fs::write(directory.path().join(name), "rubbish").unwrap();
    }
    let store = open(directory.path());
    assert_eq!(store.losses().len(), 4, "{:?}", store.losses());
    // The start after it finds nothing damaged any more, and still knows that it knows nothing.
    let store = open_again(store, directory.path());
    assert!(matches!(
        deploy(&store, &json!({"name": "new", "image": "x"})),
        Err(StoreError::Rebuilding)
    ));
    let labels: Vec<_> = desired
        .records()
        .map(|record| (record.id, serde_json::to_value(&**record).unwrap()))
        .collect();
    assert_eq!(store.adopt(&labels).unwrap().len(), 3);
    assert_eq!(
        records(&open_again(store, directory.path())),
        desired.records().cloned().collect::<Vec<_>>()
    );
}

#[test]
fn a_new_node_takes_deploys_before_the_runtime_answers() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    assert!(store.losses().is_empty() && store.desired().adoption().is_some());
    deploy(&store, &json!({"name": "new", "image": "x"})).unwrap();
}

#[test]
fn a_store_that_lost_its_end_is_caught_up_from_the_copy() {
    let (directory, _) = stored();
    let older = tempfile::tempdir().unwrap();
    copy_tree(&directory.path().join("state"), &older.path().join("state"));
    let store = open(directory.path());
    let last = deploy(&store, &json!({"name": "a", "image": "y"}))
        .unwrap()
        .record;
    store.copy().unwrap();
    drop(store);
    fs::remove_dir_all(directory.path().join("state")).unwrap();
    copy_tree(&older.path().join("state"), &directory.path().join("state"));
    let store = open(directory.path());
    assert_eq!(store.desired().get(last.id), Some(&last));
    assert!(
        store.losses()[0].contains("had lost changes"),
        "{:?}",
        store.losses()
    );
}

#[test]
fn an_opening_that_keeps_ending_the_agent_is_not_tried_for_ever() {
    let (directory, desired) = stored();
    fs::write(directory.path().join("opening"), "3\n").unwrap();
    let store = open(directory.path());
    assert_eq!(
        records(&store),
        desired.records().cloned().collect::<Vec<_>>()
    );
    assert!(
        store.losses()[0].contains("3 times in a row"),
        "{:?}",
        store.losses()
    );
    assert!(directory.path().join("quarantine/1-state.reason").exists());
    assert!(open_again(store, directory.path()).losses().is_empty());
}

#[test]
fn entries_of_a_newer_version_survive_reading_and_writing() {
    let (directory, desired) = stored();
    let path = directory.path().join("state");
    let (mut disk, _) = Disk::open(&path).unwrap();
    let newer = json!({"id": "00000000000f", "name": "future", "shape": {"unheard": "of"}});
    let entries = [
        ("format".to_owned(), Some(json!(9))),
        ("record/00000000000f".to_owned(), Some(newer.clone())),
        ("odd".to_owned(), Some(json!(1))),
    ];
    let dir = StateDir::new(directory.path(), sound_disk);
    disk.write(&dir, &entries, &[]).unwrap();
    drop(disk);
    let store = open(directory.path());
    assert_eq!(
        records(&store),
        desired.records().cloned().collect::<Vec<_>>()
    );
    assert_eq!(store.losses().len(), 2, "{:?}", store.losses());
    assert!(matches!(
        deploy(&store, &json!({"name": "future", "image": "x"})),
        Err(StoreError::UnreadableRecord(_))
    ));
    deploy(&store, &json!({"name": "a", "image": "y"})).unwrap();
    let store = open_again(store, directory.path());
    assert_eq!(store.desired().entries()["record/00000000000f"], newer);
    assert!(
        directory
            .path()
            .join("quarantine/newer-format-9.json")
            .exists()
    );
}

#[test]
fn a_history_outlives_the_agent_and_its_waits_end_with_the_boot() {
    use crate::history::Cause;
    use crate::time::BootTime;
    let (directory, desired) = stored();
    let id = desired.records().next().unwrap().id;
    let mut history = History::default();
    history.record_failure(
        Cause::Start,
        Reason::CreateFailed,
        String::new(),
        BootTime(Duration::from_secs(9)),
        Duration::from_secs(5),
    );
    history.started = Some(BootTime(Duration::from_secs(3)));
    let store = open(directory.path());
    store.save_history(
        id,
        Some(&StoredHistory {
            boot_id: "x".to_owned(),
            history: history.clone(),
        }),
    );
    let store = open_again(store, directory.path());
    assert_eq!(store.histories("x")[&id], history);
    let after = &store.histories("y")[&id];
    assert_eq!((after.attempts, after.started), (1, None));
    assert_eq!(
        after.backoff.as_ref().unwrap().retry_at,
        BootTime::default()
    );
}

#[test]
fn a_directory_that_cannot_be_written_is_read_and_waited_for() {
    // Root writes everywhere; a file where the directory should be stops it too.
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("state-dir");
    fs::write(&path, "").unwrap();
    let store = open(&path);
    assert!(!store.is_writable() && !store.losses().is_empty());
    assert!(matches!(
        deploy(&store, &json!({"name": "a", "image": "x"})),
        Err(StoreError::Unknown(_))
    ));
    fs::remove_file(&path).unwrap();
    store.adopt(&[]).unwrap();
    deploy(&store, &json!({"name": "a", "image": "x"})).unwrap();
    assert!(store.is_writable());
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o700
    );
}
