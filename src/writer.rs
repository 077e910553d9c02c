//! Access to the store for async code: each change on a thread of its own, to its end even if the
//! caller goes away; and the copies beside the store, brought up to date soon after.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use state::alarm::Alarm;
use state::contact::StoredContact;
use state::event::EventKind;
use state::history::StoredHistory;
use state::id::ContainerId;
use state::store::{Store, StoreError};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::journal::Journal;
use crate::lock::lock;

/// Shortest interval between two copies: a hundred deploys in a second cost ten of them.
const COPY_SPACING: Duration = Duration::from_millis(100);
/// Pause after a copy, in multiples of its duration: copies take at most a tenth of a processor.
const COPY_SHARE: u32 = 10;
/// Wait before a copy that failed is written again.
const COPY_RETRY: Duration = Duration::from_secs(5);

/// Interval between two visits of the store, in which it answers and tends its files.
const TEND_EVERY: Duration = Duration::from_secs(10);
/// Interval while the files cannot be opened or written.
const OPEN_EVERY: Duration = Duration::from_secs(1);
/// Time within which the store answers such a visit, or ends any change. A write takes milliseconds;
/// where a disk lets a thread hang, the kernel itself speaks of it after two minutes. A slow disk, on
/// which changes wait for each other, answers all the time.
const SILENCE_MAX: Duration = Duration::from_mins(3);

/// Threads that read the store's files at once: where a disk does not answer they hang, and no more.
static READERS: Semaphore = Semaphore::const_new(4);
/// Wait for such a read.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The thread on which the store blocks.
#[derive(Clone, Debug)]
enum Place {
    /// A thread for each call, for whose end the tracker waits.
    Thread(TaskTracker),
    /// The caller's thread, with a pause before and after: a disk in a simulation, in which nothing
    /// happens by chance.
    Here(fn() -> Duration),
}

/// The store, for those who change it.
#[derive(Clone, Debug)]
pub struct Writer {
    store: Arc<Store>,
    journal: Journal,
    place: Place,
    copy_due: Arc<Notify>,
    /// The files are to be opened again, after a write that failed.
    opening_due: Arc<Notify>,
    /// The last time that the store answered a visit or a change.
    answered: Arc<Mutex<Instant>>,
}

impl Writer {
    /// A writer whose changes `tracker` waits for.
    #[must_use]
    pub fn new(store: Arc<Store>, journal: Journal, tracker: TaskTracker) -> Self {
        Self {
            store,
            journal,
            place: Place::Thread(tracker),
            copy_due: Arc::default(),
            opening_due: Arc::default(),
            answered: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// A writer for simulations: it writes on the caller's thread, and every change takes two
    /// `pause`s.
    #[must_use]
    pub fn simulated(store: Arc<Store>, journal: Journal, pause: fn() -> Duration) -> Self {
        Self {
            store,
            journal,
            place: Place::Here(pause),
            copy_due: Arc::default(),
            opening_due: Arc::default(),
            answered: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// The store, to read.
    #[must_use]
    pub const fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Changes the store. Whoever is to hear of the change is told inside of it, since the caller
    /// may be gone by then.
    ///
    /// # Errors
    /// The change's own.
    pub async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (journal, copy_due) = (self.journal.clone(), Arc::clone(&self.copy_due));
        let answered = Arc::clone(&self.answered);
        let opening_due = Arc::clone(&self.opening_due);
        let timed = move |store: &Store| {
            let began = Instant::now();
            let written = change(store);
            *lock(&answered) = Instant::now();
            journal.record(EventKind::StoreWritten {
                took: began.elapsed(),
            });
            set_alarms(&journal, store);
            copy_due.notify_one();
            if written.is_err() && store.awaits_opening() {
                opening_due.notify_one();
            }
            written
        };
        self.run(timed)
            .await
            .unwrap_or_else(|error| Err(StoreError::Unsure(error)))
    }

    /// Reads what only the store's files hold.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> std::io::Result<T> {
        let reading = async {
            let place = READERS.acquire().await.map_err(std::io::Error::other)?;
            // Held as long as the thread is, and not only while somebody waits for it.
            let held = move |store: &Store| {
                let _place = place;
                read(store)
            };
            self.run(held).await
        };
        let answer = tokio::time::timeout(READ_TIMEOUT, reading).await;
        answer.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }

    /// Saves a container's history over a restart of the agent, without a sync: it may be lost. `newest`
    /// is asked for it in the write, so that of two writes the later one has the newer.
    pub async fn remember(
        &self,
        id: ContainerId,
        newest: impl FnOnce() -> Option<StoredHistory> + Send + 'static,
    ) {
        let _lost_with_the_thread = self
            .run(move |store| store.save_newest_history(id, newest))
            .await;
    }

    /// Saves the contact with CHaS over a restart of the agent, as a history; `None` deletes it.
    pub async fn note_contact(&self, contact: Option<StoredContact>) {
        let save = move |store: &Store| store.save_contact(contact.as_ref());
        let _lost_with_the_thread = self.run(save).await;
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> std::io::Result<T> {
        match &self.place {
            Place::Thread(tracker) => {
                let store = Arc::clone(&self.store);
                tracker
                    .spawn_blocking(move || work(&store))
                    .await
                    .map_err(std::io::Error::other)
            }
            Place::Here(pause) => {
                tokio::time::sleep(pause()).await;
                let done = work(&self.store);
                tokio::time::sleep(pause()).await;
                Ok(done)
            }
        }
    }

    /// The name of the store, if it is stuck: it does not answer any more, or has no thread to
    /// answer on.
    #[must_use]
    pub fn stalled(&self) -> Option<&'static str> {
        let silence = lock(&self.answered).elapsed();
        (silence > SILENCE_MAX).then_some("the store does not answer")
    }

    /// Visits the store at an interval, until `stop`: it answers, and opens the files that could
    /// not be opened before.
    pub async fn keep_tending(self, stop: CancellationToken) {
        let tending = async {
            loop {
                self.tend().await;
                let wait = if self.store.is_writable() {
                    TEND_EVERY
                } else {
                    OPEN_EVERY
                };
                let opening = async {
                    self.opening_due.notified().await;
                    tokio::time::sleep(OPEN_EVERY).await;
                };
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(wait) => {}
                    () = opening => {}
                }
            }
        };
        stop.run_until_cancelled(tending).await;
        // What was refused is not left to the next agent, which would carry it out.
        let last = self.run(|store| store.awaits_opening() && store.tend());
        let _given_up = tokio::time::timeout(READ_TIMEOUT, last).await;
    }

    async fn tend(&self) {
        let journal = self.journal.clone();
        let tended = self.run(move |store| {
            let has_changed = store.tend();
            set_alarms(&journal, store);
            has_changed
        });
        if let Ok(has_changed) = tended.await {
            *lock(&self.answered) = Instant::now();
            if has_changed {
                self.copy_due.notify_one();
            }
        }
    }

    /// Keeps the copies beside the store up to date until `stop`, and then once more.
    pub async fn keep_copies(self, stop: CancellationToken) {
        let mut failed = false;
        loop {
            let began = Instant::now();
            let wait = match self.run(Store::copy).await.flatten() {
                Ok(()) => {
                    failed = false;
                    COPY_SPACING.max(began.elapsed() * COPY_SHARE)
                }
                Err(error) => {
                    if !std::mem::replace(&mut failed, true) {
                        tracing::warn!(%error, "copy of the desired state not written, retrying");
                    }
                    self.copy_due.notify_one();
                    COPY_RETRY
                }
            };
            if stop.is_cancelled() {
                return;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = async { tokio::time::sleep(wait).await; self.copy_due.notified().await } => {}
            }
        }
    }
}

/// Tells whether the stored state is known and can be written.
fn set_alarms(journal: &Journal, store: &Store) {
    let unwritable = store.unwritable();
    let is_unknown = store.desired().is_unknown();
    let unknown = unwritable.clone().filter(|_| is_unknown);
    journal.set_alarm(Alarm::StateUnknown, "", unknown);
    let unwritable = unwritable.filter(|_| !is_unknown);
    journal.set_alarm(Alarm::StateUnwritable, "", unwritable);
}

#[cfg(test)]
mod tests;
