//! A disk that refuses something for a while: nothing that was acknowledged is undone by it.

use std::cell::Cell;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use super::*;
use crate::desired::RunState;
use crate::ownership::Order;

type Fault = (DiskCall, fn() -> io::Error);

thread_local! {
    /// Calls that fail, and how.
    static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
    /// Calls that fail instead once one of them has.
    static THEN: Cell<Option<Option<Fault>>> = const { Cell::new(None) };
}

fn disk(call: DiskCall) -> io::Result<()> {
    match FAULT.get() {
        Some((failing, error)) if failing == call => {
            if let Some(then) = THEN.take() {
                FAULT.set(then);
            }
            Err(error())
        }
        Some(_) | None => Ok(()),
    }
}

fn open(path: &Path) -> Store {
    let limits = Limits { disk, ..limits() };
    loop {
        let store = Store::open(path, limits.clone()).unwrap();
        // Within one process, sled may still hold its files for a moment after it was dropped.
        let is_open = store.is_writable() || FAULT.get().is_some();
        if is_open {
            return store;
        }
    }
}

fn id(store: &Store, name: &str) -> ContainerId {
    store.desired().named(&name.parse().unwrap()).unwrap().id
}

fn run(store: &Store, name: &str) -> Option<RunState> {
    let desired = store.desired();
    desired
        .named(&name.parse().unwrap())
        .map(|record| record.run)
}

/// `web` and `gone` run in both copies; since then, `web` was stopped and `gone` removed.
fn stopped_since_the_copies() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.adopt(&[]).unwrap();
    for name in ["web", "gone", "other"] {
        deploy(&store, &json!({"name": name, "image": "x"})).unwrap();
    }
    store.copy().unwrap();
    store.order(id(&store, "web"), Order::Stop).unwrap();
    let gone = id(&store, "gone");
    store.order(gone, Order::Remove).unwrap();
    store.forget(gone).unwrap();
    directory
}

fn copies(directory: &Path) -> Vec<Vec<u8>> {
    let paths = ["desired.json.a", "desired.json.b", "last-change"];
    paths
        .iter()
        .map(|name| fs::read(directory.join(name)).unwrap())
        .collect()
}

#[track_caller]
fn is_acknowledged(store: &Store) {
    assert!(!store.desired().is_unknown());
    assert_eq!(run(store, "web"), Some(RunState::Stopped));
    assert_eq!(run(store, "gone"), None);
    assert_eq!(run(store, "other"), Some(RunState::Running));
}

#[test]
fn files_that_cannot_be_opened_now_are_waited_for_and_nothing_older_is_gone_by() {
    let errors: [fn() -> io::Error; 7] = [
        || ErrorKind::StorageFull.into(),
        || ErrorKind::PermissionDenied.into(),
        || ErrorKind::ReadOnlyFilesystem.into(),
        || io::Error::from_raw_os_error(5),
        || io::Error::from_raw_os_error(24),
        || io::Error::from_raw_os_error(12),
        || io::Error::other("could not acquire lock on \"db\""),
    ];
    for error in errors {
        let directory = stopped_since_the_copies();
        FAULT.set(Some((DiskCall::Open, error)));
        let store = open(directory.path());
        let before = copies(directory.path());
        assert!(store.desired().is_unknown(), "{}", error());
        assert!(store.losses()[0].contains("cannot be opened now"));
        // What is known of it is shown.
        assert_eq!(store.desired().records().count(), 3);
        let refused = deploy(&store, &json!({"name": "web", "image": "x"}));
        assert!(
            matches!(refused, Err(StoreError::Unknown(_))),
            "{refused:?}"
        );
        store.copy().unwrap_err();
        assert!(!store.tend());
        assert_eq!(copies(directory.path()), before, "nothing is written");
        assert!(!directory.path().join("quarantine").exists());
        FAULT.set(None);
        assert!(store.tend());
        is_acknowledged(&store);
        assert!(store.losses().is_empty(), "{:?}", store.losses());
        deploy(&store, &json!({"name": "web", "image": "y"})).unwrap();
        store.copy().unwrap();
    }
}

#[test]
fn copies_that_cannot_be_read_now_are_waited_for_where_the_files_are_damaged() {
    let directory = stopped_since_the_copies();
    let store = open(directory.path());
    store.copy().unwrap();
    drop(store);
    for call in [DiskCall::ReadCopy, DiskCall::Lock] {
        fs::write(directory.path().join("state/db"), "rubbish").unwrap();
        FAULT.set(Some((call, || io::Error::from_raw_os_error(5))));
        let store = open(directory.path());
        assert!(store.desired().is_unknown(), "{call:?}");
        assert_eq!(
            fs::read(directory.path().join("state/db")).unwrap(),
            b"rubbish",
            "it is not given up"
        );
        FAULT.set(None);
        assert!(store.tend());
        is_acknowledged(&store);
        assert_eq!(store.desired().adoption(), None, "nothing is missing");
    }
}

#[test]
fn a_copy_that_holds_the_last_change_is_gone_by_and_changes_wait() {
    let directory = stopped_since_the_copies();
    let store = open(directory.path());
    store.copy().unwrap();
    drop(store);
    FAULT.set(Some((DiskCall::Open, || {
        ErrorKind::ReadOnlyFilesystem.into()
    })));
    let store = open(directory.path());
    is_acknowledged(&store);
    assert!(!store.is_writable());
    let stop = store.order(id(&store, "other"), Order::Stop);
    assert!(matches!(stop, Err(StoreError::Disk(_))), "{stop:?}");
    FAULT.set(None);
    store.order(id(&store, "other"), Order::Stop).unwrap();
}

#[test]
fn a_change_that_was_refused_is_not_made_whatever_the_disk_has_of_it() {
    for call in [DiskCall::Write, DiskCall::Sync, DiskCall::WriteLast] {
        let directory = stopped_since_the_copies();
        let store = open(directory.path());
        FAULT.set(Some((call, || io::Error::from_raw_os_error(5))));
        let refused = store.order(id(&store, "other"), Order::Stop);
        refused.unwrap_err();
        FAULT.set(None);
        assert!(!store.is_writable());
        store.tend();
        assert!(store.is_writable());
        drop(store);
        let store = open(directory.path());
        is_acknowledged(&store);
        assert!(store.losses().is_empty(), "{:?}", store.losses());
    }
}

#[test]
fn a_change_of_which_the_agent_says_that_it_is_not_made_is_not_on_the_disk() {
    for call in [DiskCall::Write, DiskCall::Sync, DiskCall::WriteLast] {
        let directory = stopped_since_the_copies();
        let store = open(directory.path());
        for change in ["stop", "remove", "deploy"] {
            THEN.set(Some(None));
            FAULT.set(Some((call, || io::Error::from_raw_os_error(5))));
            let other = id(&store, "other");
            let refused = match change {
                "stop" => store.order(other, Order::Stop).map(drop),
                "remove" => store.order(other, Order::Remove).map(drop),
                _ => deploy(&store, &json!({"name": "new", "image": "x"})).map(drop),
            };
            assert!(matches!(refused, Err(StoreError::Disk(_))), "{refused:?}");
            assert!(!store.is_writable(), "that is told");
        }
        // As after a kill: nothing is tended before.
        drop(store);
        let store = open(directory.path());
        is_acknowledged(&store);
        assert_eq!(run(&store, "new"), None);
        assert!(store.losses().is_empty(), "{:?}", store.losses());
    }
}

#[test]
fn a_change_that_the_disk_may_have_is_said_to_be_of_that_kind() {
    for is_tended in [false, true] {
        let directory = stopped_since_the_copies();
        let store = open(directory.path());
        let broken: fn() -> io::Error = || io::Error::from_raw_os_error(5);
        THEN.set(Some(Some((DiskCall::Open, broken))));
        FAULT.set(Some((DiskCall::Sync, broken)));
        let unsure = store.order(id(&store, "other"), Order::Stop).unwrap_err();
        assert!(matches!(unsure, StoreError::Unsure(_)), "{unsure:?}");
        assert!(unsure.to_string().contains("is not known"), "{unsure}");
        is_acknowledged(&store);
        FAULT.set(None);
        if is_tended {
            store.tend();
        }
        drop(store);
        let store = open(directory.path());
        match is_tended {
            true => is_acknowledged(&store),
            false => assert_eq!(run(&store, "other"), Some(RunState::Stopped)),
        }
    }
}

#[test]
fn a_start_that_found_a_change_which_is_noted_nowhere_does_not_take_it_back_later() {
    let directory = stopped_since_the_copies();
    let store = open(directory.path());
    store.copy().unwrap();
    let broken: fn() -> io::Error = || io::Error::from_raw_os_error(5);
    THEN.set(Some(Some((DiskCall::Open, broken))));
    FAULT.set(Some((DiskCall::WriteLast, broken)));
    let unsure = store.order(id(&store, "other"), Order::Stop).unwrap_err();
    assert!(matches!(unsure, StoreError::Unsure(_)), "{unsure:?}");
    drop(store);
    FAULT.set(Some((DiskCall::WriteLast, broken)));
    let store = open(directory.path());
    assert!(!store.is_writable());
    assert!(store.unwritable().unwrap().contains("last-change"));
    assert!(store.losses().is_empty(), "{:?}", store.losses());
    // It acts by that now, and the copies are of before.
    assert_eq!(run(&store, "other"), Some(RunState::Stopped));
    for call in [DiskCall::Open, DiskCall::WriteLast] {
        FAULT.set(Some((call, broken)));
        store.tend();
        assert_eq!(run(&store, "other"), Some(RunState::Stopped), "{call:?}");
        assert!(!store.is_writable());
    }
    FAULT.set(None);
    store.tend();
    assert!(store.is_writable());
    let store = open_again(store, directory.path());
    assert_eq!(run(&store, "other"), Some(RunState::Stopped));
    assert_eq!(run(&store, "web"), Some(RunState::Stopped));
}

#[test]
fn an_older_copy_is_known_to_be_one_and_what_it_may_be_wrong_about_is_left_alone() {
    let directory = stopped_since_the_copies();
    let (other, web) = {
        let store = open(directory.path());
        (id(&store, "other"), id(&store, "web"))
    };
    fs::write(directory.path().join("state/db"), "rubbish").unwrap();
    let store = open(directory.path());
    let last = &store.losses()[1];
    assert!(last.contains("are in no copy any more"), "{last}");
    assert!(last.contains(&web.to_string()) && !last.contains(&other.to_string()));
    store.adopt(&[]).unwrap();
    let is_uncertain = |store: &Store, name: &str| {
        let desired = store.desired();
        desired.named(&name.parse().unwrap()).unwrap().is_uncertain
    };
    // Also after another start.
    let store = open_again(store, directory.path());
    let shown = ["web", "gone", "other"].map(|name| is_uncertain(&store, name));
    assert_eq!(shown, [true, true, false]);
    // What runs is taken for right, and what is asked for now counts.
    assert_eq!(store.trust(&[id(&store, "gone"), other]).unwrap(), 1);
    assert_eq!(store.trust(&[id(&store, "gone")]).unwrap(), 0);
    assert!(
        deploy(&store, &json!({"name": "web", "image": "x"}))
            .unwrap()
            .changed
    );
    let shown = ["web", "gone", "other"].map(|name| is_uncertain(&store, name));
    assert_eq!(shown, [false; 3]);
    assert_eq!(store.desired().get(web).unwrap().generation, 1);
    store.copy().unwrap();
    assert!(open_again(store, directory.path()).losses().is_empty());
}

#[test]
fn with_nothing_left_but_the_last_change_whatever_the_labels_say_is_uncertain() {
    let directory = stopped_since_the_copies();
    let labels: Vec<_> = {
        let store = open(directory.path());
        let desired = store.desired();
        let records = desired.records();
        records
            .map(|record| (record.id, serde_json::to_value(&**record).unwrap()))
            .collect()
    };
    for name in ["desired.json.a", "desired.json.b"] {
        fs::remove_file(directory.path().join(name)).unwrap();
    }
    fs::remove_dir_all(directory.path().join("state")).unwrap();
    let store = open(directory.path());
    assert!(store.desired().lost().is_some() && store.desired().adoption().is_some());
    assert_eq!(store.adopt(&labels).unwrap().len(), 2);
    assert!(store.desired().records().all(|record| record.is_uncertain));
}

#[test]
fn a_full_disk_takes_stops_and_removals_by_its_reserve_and_nothing_new() {
    thread_local! {
        static RESERVE: Cell<Option<&'static Path>> = const { Cell::new(None) };
    }
    fn full(call: DiskCall) -> io::Result<()> {
        match RESERVE.get() {
            Some(reserve)
                if matches!(call, DiskCall::Write | DiskCall::Create) && reserve.exists() =>
            {
                Err(ErrorKind::StorageFull.into())
            }
            Some(_) | None => Ok(()),
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let reserve: PathBuf = directory.path().join("reserve");
    let store = Store::open(
        directory.path(),
        Limits {
            disk: full,
            ..limits()
        },
    )
    .unwrap();
    assert_eq!(fs::metadata(&reserve).unwrap().len(), 1 << 20);
    for name in ["web", "gone"] {
        deploy(&store, &json!({"name": name, "image": "x"})).unwrap();
    }
    RESERVE.set(Some(Box::leak(reserve.clone().into_boxed_path())));
    for body in [
        json!({"name": "new", "image": "x"}),
        json!({"name": "web", "image": "y"}),
    ] {
        assert!(matches!(deploy(&store, &body), Err(StoreError::Disk(_))));
    }
    assert!(reserve.exists(), "no deploy takes the reserve");
    store.order(id(&store, "web"), Order::Stop).unwrap();
    assert!(!reserve.exists());
    let gone = id(&store, "gone");
    store.order(gone, Order::Remove).unwrap();
    store.forget(gone).unwrap();
    RESERVE.set(None);
    store.tend();
    assert!(reserve.exists(), "it is made again once there is room");
    let store = open_again(store, directory.path());
    assert_eq!(run(&store, "web"), Some(RunState::Stopped));
    assert_eq!(run(&store, "gone"), None);
}

#[test]
fn a_directory_of_an_older_version_is_read_and_written_on() {
    let directory = stopped_since_the_copies();
    let path = directory.path().join("last-change");
    let behind = fs::read(&path).unwrap();
    for left in [None, Some(&behind)] {
        // An older version wrote on, and left the place as it was, or never knew it.
        let store = open(directory.path());
        for number in 0..3 {
            let body = json!({"name": "other", "image": format!("x:{number}")});
            deploy(&store, &body).unwrap();
        }
        drop(store);
        match left {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        FAULT.set(Some((DiskCall::Open, || ErrorKind::StorageFull.into())));
        assert!(open(directory.path()).desired().is_unknown());
        FAULT.set(None);
        let store = open(directory.path());
        is_acknowledged(&store);
        assert!(store.losses().is_empty(), "{:?}", store.losses());
        assert!(fs::read(&path).unwrap() != behind);
    }
}

#[test]
fn a_newer_format_whose_copy_is_newer_is_counted_right() {
    let directory = stopped_since_the_copies();
    let store = open(directory.path());
    store.copy().unwrap();
    let path = directory.path().join("state");
    drop(store);
    let (mut files, found) = Disk::open(&path).unwrap();
    let dir = StateDir::new(directory.path(), sound_disk);
    let older = Desired::seq_of(&found) - 1;
    let changes = [
        ("format".to_owned(), Some(json!(9))),
        ("seq".to_owned(), Some(json!(older))),
    ];
    files.write(&dir, &changes, &[]).unwrap();
    drop(files);
    let store = open(directory.path());
    is_acknowledged(&store);
    let losses = store.losses();
    assert_eq!(losses.len(), 2, "{losses:?}");
    assert!(
        losses
            .iter()
            .all(|loss| !loss.contains("entries cannot be read"))
    );
}

#[test]
fn a_snapshot_that_an_opening_did_not_finish_is_not_taken_for_one() {
    let directory = stopped_since_the_copies();
    let state = directory.path().join("state");
    // The name that sled gives it, of the newest change that there can be.
    let unfinished = state.join("snap.7FFFFFFFFFFFFFFF.generating");
    for written in [&b""[..], b"the first few bytes of it"] {
        fs::write(&unfinished, written).unwrap();
        let store = open(directory.path());
        is_acknowledged(&store);
        assert!(store.losses().is_empty(), "{:?}", store.losses());
        assert!(!unfinished.exists());
    }
}
