//! Progress of an image's pull: bytes, signs of life, and what it waits for.

use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::lock::lock;

/// Interval at which a pull that waits for another one shows that it lives.
const WAIT_SIGN: Duration = Duration::from_secs(60);

/// Progress of an image's pull. Written by the pull, read by the API.
#[derive(Debug, Default)]
pub struct PullProgress {
    fetched_bytes: AtomicU64,
    total_bytes: AtomicU64,
    received_bytes: AtomicU64,
    signs: AtomicU64,
    /// Steps under way that receive nothing and yet work, such as the unpacking of a layer.
    at_work: AtomicU64,
    /// Cause of a wait, for people; the last one counts.
    note: Mutex<Option<String>>,
    /// Failure of the last try, as long as none succeeded since.
    fault: Mutex<Option<String>>,
}

/// Note that stands for as long as this value lives.
#[derive(Debug)]
pub struct PullNote<'a>(&'a PullProgress);

impl Drop for PullNote<'_> {
    fn drop(&mut self) {
        *lock(&self.0.note) = None;
    }
}

impl PullProgress {
    /// Adds to the bytes to fetch in all.
    pub fn add_total(&self, bytes: u64) {
        self.total_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds to the bytes that are on the node.
    pub fn add_fetched(&self, bytes: u64) {
        self.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds to the bytes that came from the registry, stored or not.
    pub fn add_received(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that the pull lives although it receives nothing.
    pub fn add_sign(&self) {
        self.signs.fetch_add(1, Ordering::Relaxed);
    }

    /// Does work on the node, during which the pull counts as one that moves.
    pub async fn while_working<T>(&self, work: impl Future<Output = T> + Send) -> T {
        let _at_work = AtWork::begin(&self.at_work);
        work.await
    }

    /// Whether the pull works on the node just now.
    #[must_use]
    pub fn is_at_work(&self) -> bool {
        self.at_work.load(Ordering::Relaxed) > 0
    }

    /// Tells people what the pull waits for, until the answer is dropped.
    #[must_use]
    pub fn note(&self, text: String) -> PullNote<'_> {
        *lock(&self.note) = Some(text);
        PullNote(self)
    }

    /// Whether the pull waits for another one.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        lock(&self.note).is_some()
    }

    /// Notes that a try failed and will be repeated, or, with `None`, that one succeeded.
    pub fn set_fault(&self, fault: Option<String>) {
        *lock(&self.fault) = fault;
    }

    /// Cause of the present wait, and the last failure; `None`: the pull moves.
    #[must_use]
    pub fn noted(&self) -> Option<String> {
        let (note, fault) = (lock(&self.note).clone(), lock(&self.fault).clone());
        let fault = fault.map(|fault| format!("tries again after: {fault}"));
        match (note, fault) {
            (Some(note), Some(fault)) => Some(format!("{note}; {fault}")),
            (note, fault) => note.or(fault),
        }
    }

    /// Awaits `turn`, for which another pull has to end. The pull that waits counts as alive: the
    /// other one shows by itself whether it is.
    pub async fn while_waiting<T>(&self, turn: impl Future<Output = T> + Send) -> T {
        let mut turn = std::pin::pin!(turn);
        loop {
            tokio::select! {
                biased;
                done = &mut turn => return done,
                () = tokio::time::sleep(WAIT_SIGN) => self.add_sign(),
            }
        }
    }

    /// Number that grows as long as the pull lives.
    #[must_use]
    pub fn signs(&self) -> u64 {
        let (fetched, _) = self.get();
        fetched + self.received_bytes() + self.signs.load(Ordering::Relaxed)
    }

    /// Bytes that came from the registry, those of failed tries included.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Bytes fetched and bytes to fetch in all. Both 0: not known yet.
    #[must_use]
    pub fn get(&self) -> (u64, u64) {
        (
            self.fetched_bytes.load(Ordering::Relaxed),
            self.total_bytes.load(Ordering::Relaxed),
        )
    }
}

/// Count of the work under way, which ends also where that is cancelled.
struct AtWork<'a>(&'a AtomicU64);

impl<'a> AtWork<'a> {
    fn begin(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
