//! The store is visited, is found to hang, and takes back what it refused.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};

use state::assign::QuietNetwork;
use state::desired::Owner;
use state::store::{DiskCall, Limits};
use tokio::task::JoinSet;

use super::*;
use crate::metrics::Metrics;

/// Whether the disk lets a thread that writes hang.
static HANGS: AtomicBool = AtomicBool::new(false);
/// Whether a thread hangs there.
static IS_HANGING: AtomicBool = AtomicBool::new(false);

fn hanging_disk(call: DiskCall) -> std::io::Result<()> {
    while call == DiskCall::Write && HANGS.load(Ordering::Relaxed) {
        IS_HANGING.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Whether the disk takes nothing.
static DENIED: AtomicBool = AtomicBool::new(false);

fn denying_disk(_: DiskCall) -> std::io::Result<()> {
    match DENIED.load(Ordering::Relaxed) {
        true => Err(ErrorKind::PermissionDenied.into()),
        false => Ok(()),
    }
}

fn store(directory: &std::path::Path, disk: fn(DiskCall) -> std::io::Result<()>) -> Arc<Store> {
    let addresses = Ipv4Addr::new(10, 0, 0, 2)..=Ipv4Addr::new(10, 0, 0, 9);
    let limits = Limits {
        ports: 100..=199,
        network: Arc::new(QuietNetwork(addresses)),
        containers_max: 1,
        capacity: state::capacity::Capacity::ENDLESS,
        new_privileges: false,
        random: state::store::random,
        disk,
    };
    Arc::new(Store::open(directory, limits).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_in_a_write_makes_the_store_stuck_until_it_answers() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), hanging_disk);
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let writer = Writer::new(store, Journal::new(Metrics::new()), tracker);
    let mut tasks = JoinSet::new();
    HANGS.store(true, Ordering::Relaxed);
    let writing = writer.clone();
    tasks.spawn(async move {
        let named = |link: &mut state::desired::marks::NodeIdentity| link.node_id = "n".to_owned();
        let _written = writing.write(move |store| store.set_identity(named)).await;
    });
    while !IS_HANGING.load(Ordering::Relaxed) {
        tokio::task::yield_now().await;
    }
    tasks.spawn(writer.clone().keep_tending(stop.clone()));
    // Time passes by hand alone, since threads are busy.
    for _ in 0..SILENCE_MAX.as_secs() {
        assert_eq!(writer.stalled(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(writer.stalled(), Some("the store does not answer"));
    HANGS.store(false, Ordering::Relaxed);
    tasks.join_next().await.unwrap().unwrap();
    assert_eq!(writer.stalled(), None, "a change that ends is an answer");
    stop.cancel();
    while tasks.join_next().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn a_refused_change_is_taken_back_within_two_seconds_and_before_an_orderly_end() {
    let directory = tempfile::tempdir().unwrap();
    let (store, stop) = (
        store(directory.path(), denying_disk),
        CancellationToken::new(),
    );
    let journal = Journal::new(Metrics::new());
    let writer = Writer::simulated(store, journal, || Duration::from_millis(1));
    let refused = async || {
        DENIED.store(true, Ordering::Relaxed);
        let body = serde_json::json!({"name": "a", "image": "x"});
        let deploy = state::spec::parse::deploy(&body).unwrap();
        let deployed = writer.write(|store| store.deploy(deploy, Owner::Push, false, 0));
        let error = deployed.await.unwrap_err();
        assert!(matches!(error, StoreError::Unsure(_)), "{error}");
        assert!(writer.store().awaits_opening());
        DENIED.store(false, Ordering::Relaxed);
    };
    let requests = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        refused().await;
        tokio::time::sleep(OPEN_EVERY * 2).await;
        assert!(!writer.store().awaits_opening());
        refused().await;
        stop.cancel();
    };
    tokio::join!(writer.clone().keep_tending(stop.clone()), requests);
    assert!(!writer.store().awaits_opening());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_not_heard_of_is_stuck_and_one_that_answers_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), state::store::sound_disk);
    let journal = Journal::new(Metrics::new());
    let writer = Writer::simulated(store, journal, || Duration::from_secs(1));
    let stop = CancellationToken::new();
    let end = async {
        tokio::time::sleep(SILENCE_MAX * 3).await;
        assert_eq!(writer.stalled(), None);
        stop.cancel();
    };
    tokio::join!(writer.clone().keep_tending(stop.clone()), end);
    tokio::time::sleep(SILENCE_MAX * 2).await;
    assert_eq!(writer.stalled(), Some("the store does not answer"));
}
