//! The desired state on disk, in copies: sled, two checksummed files (`store/copy.rs`), and,
//! outside of this crate, the labels of the containers in the runtime. Beside them stands which
//! change was acknowledged last (`store/last.rs`), by which a start knows an old copy for one
//! (`store/survey.rs`).
//!
//! There is one writer at a time. A change is decided on the state in memory, written in one
//! transaction, synced to the disk, and only then shown to anybody. A call that changes something
//! blocks for as long as the disk takes (0.5 to 2 ms): it is not for an executor's threads.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use serde_json::Value;

use crate::blobs::{BlobTag, Blobs};
use crate::capacity::Capacity;
use crate::desired::set::{Desired, DesiredChange};
use crate::desired::{Record, RunState};
use crate::id::ContainerId;
use crate::policy::Policy;
use crate::seal::KeyPlace;
use files::{FilesState, StoreFiles};
use state_dir::StateDir;

mod adopt;
mod apply;
mod batch;
mod budgeted;
mod chronicle;
mod confirm;
mod copy;
mod cordon;
mod defaults;
mod disk;
mod error;
mod files;
mod glance;
mod histories;
mod jobs;
mod kept;
mod last;
mod limits;
mod notes;
mod policed;
mod private;
mod proven;
mod push;
mod quarantine;
mod recover;
mod reserve;
mod rollback;
mod sealing;
mod secrets;
mod sizes;
mod state_dir;
mod survey;
mod tag_checks;
mod variables;
mod witness;

pub use defaults::{Defaults, has_begun};
pub use error::StoreError;
pub use glance::{StateLock, StoredGlance};
pub use limits::Limits;
pub use push::{ExpectedTag, Idempotent, ReplaceOutcome, ReplaceRequest};
pub use rollback::{RollbackRequest, RollbackTarget};
pub use secrets::{SECRET_BYTES_MAX, SecretChange, SecretEntry};
pub use state_dir::{DiskCall, sound_disk};
pub use witness::{
    AuditVerdict, AuditedArchive, AuditedChange, AuditedExec, AuditedSpec, ChangeCall,
    ChangeWitness,
};

/// Outcome of a deploy.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The record as it is (or, on a dry run, would be) stored.
    pub record: Arc<Record>,
    /// Whether the record differs from the one before, if there was one.
    pub changed: bool,
}

/// The desired state on disk. Readers take a snapshot of it, which never changes under them.
#[derive(Debug)]
pub struct Store {
    dir: StateDir,
    limits: Limits,
    /// The files. A writer holds the lock from its decision until the change is published.
    files: Mutex<StoreFiles>,
    /// Whether a closing of the files does not end.
    stuck: Arc<AtomicBool>,
    /// Last change in each of the two copies; `None`: not known, or the copy is damaged. Whoever
    /// writes a copy holds the lock meanwhile.
    copied: Mutex<[Option<u64>; 2]>,
    desired: RwLock<Arc<Desired>>,
    /// Bounds on what is taken in, and started.
    policy: RwLock<Arc<Policy>>,
    /// Witness of changes before they are stored.
    witness: OnceLock<Arc<dyn ChangeWitness>>,
    /// Key that values are sealed with.
    key: KeyPlace,
    /// Contents beside the records.
    blobs: Blobs,
    /// Contents that past generations use. `None`: to be read.
    past_blobs: Mutex<Option<BTreeSet<BlobTag>>>,
    losses: Mutex<Vec<String>>,
    /// Error for which changes cannot be written; for readers who may not wait for a writer.
    unwritable: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens the store in `directory`, which is created if it is missing.
    ///
    /// Damaged files go into quarantine and are rebuilt from the newest intact copy: see
    /// [`losses`](Self::losses). Files that cannot be opened now are tried again with each change
    /// and each [`tend`](Self::tend); where they may be newer than all that can be opened, the
    /// state [is unknown](Desired::is_unknown) until then.
    ///
    /// # Errors
    /// [`StoreError::InUse`] only.
    pub fn open(directory: &Path, limits: Limits) -> Result<Self, StoreError> {
        let mut files = StoreFiles::new(StateDir::new(directory, limits.disk));
        let (desired, losses) = files
            .recover()
            .map_err(|_| StoreError::InUse(directory.to_owned()))?;
        let _tended_later = files.tend();
        let store = Self {
            dir: files.dir.clone(),
            policy: policed::first(&limits),
            witness: OnceLock::new(),
            key: KeyPlace::default(),
            limits,
            unwritable: Mutex::new(files.disk().is_none().then(|| files.why(&losses))),
            stuck: Arc::clone(&files.stuck),
            files: Mutex::new(files),
            copied: Mutex::default(),
            desired: RwLock::new(Arc::new(desired)),
            blobs: Blobs::of(directory),
            past_blobs: Mutex::default(),
            losses: Mutex::new(losses),
        };
        store.sweep_chronicles();
        Ok(store)
    }

    /// The desired state as it is now.
    #[must_use]
    pub fn desired(&self) -> Arc<Desired> {
        Arc::clone(&self.desired.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Losses that the start found: files lost, damaged or not readable, in sentences. Empty after
    /// a good start.
    #[must_use]
    pub fn losses(&self) -> Vec<String> {
        lock(&self.losses).clone()
    }

    /// Whether the files cannot be written until this process ends, because sled does not let go of
    /// them after a write failed. What was acknowledged is on the disk.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    /// Capacity of the node.
    #[must_use]
    pub const fn capacity(&self) -> Capacity {
        self.limits.capacity
    }

    /// Most containers of the node.
    #[must_use]
    pub const fn containers_max(&self) -> usize {
        self.limits.containers_max
    }

    /// Whether changes can be written, as far as the last change tells.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        lock(&self.unwritable).is_none()
    }

    /// Error for which changes cannot be written. `None`: they can be, as far as the last change
    /// tells.
    #[must_use]
    pub fn unwritable(&self) -> Option<String> {
        lock(&self.unwritable).clone()
    }

    /// Adopts records from the runtime's labels after the state was rebuilt: those that are newer
    /// than the copy it was rebuilt from. Answers the adopted ones, in sentences.
    ///
    /// # Errors
    /// [`StoreError::Disk`].
    pub fn adopt(&self, copies: &[(ContainerId, Value)]) -> Result<Vec<String>, StoreError> {
        self.transact(|desired| {
            let Some(adoption) = desired.adoption() else {
                return Ok((Vec::new(), Vec::new()));
            };
            let (mut changes, told) =
                adopt::adopted(desired, adoption, copies, self.key.get().as_ref());
            changes.push(DesiredChange::Adopt(None));
            Ok((changes, told))
        })
    }

    /// Decides on a change and makes it, in one transaction.
    fn transact<T>(
        &self,
        decide: impl FnOnce(&Desired) -> Result<(Vec<DesiredChange>, T), StoreError>,
    ) -> Result<T, StoreError> {
        let mut files = lock(&self.files);
        // Before the decision, for the state in memory may turn out to be older than the files.
        let opened = self.open_files(&mut files);
        let desired = self.desired();
        if desired.is_unknown() {
            return Err(StoreError::Unknown(self.losses().join("; ")));
        }
        let (changes, answer) = decide(&desired).inspect_err(|error| self.tell_denied(error))?;
        // Files that failed may hold a change that was refused, and tell of it after another start.
        if changes.is_empty() && !matches!(files.state, FilesState::Failed) {
            return Ok(answer);
        }
        opened.map_err(|error| files.refused(error))?;
        let adds_nothing = adds_nothing(&desired, &changes);
        if !adds_nothing {
            reserve::check(&files.dir).map_err(StoreError::Disk)?;
        }
        let announced = self.announce(&desired, &changes)?;
        let next = desired.with(&changes);
        let chapters = self.chapters(files.disk(), (&desired, &next), &changes);
        let mut written = files.write(&changes, &next, &chapters);
        if adds_nothing && written.as_ref().is_err_and(reserve::is_full) {
            written = files.write_by_reserve(&changes, (&desired, &next), &chapters, written);
        }
        if let Err(error) = written {
            *lock(&self.unwritable) = Some(error.to_string());
            // Nobody knows how much of it the disk has: it is brought back to what is in force, or the
            // caller is told.
            files.is_unsure = files.open_again(&desired).is_err();
            self.tell_unstored(announced, !files.is_unsure);
            return Err(files.refused(error));
        }
        self.publish(next);
        *lock(&self.unwritable) = None;
        Ok(answer)
    }

    /// Opens the files if they are not open. What they turn out to hold is the desired state then.
    fn open_files(&self, files: &mut StoreFiles) -> std::io::Result<()> {
        let opened = match files.state {
            FilesState::Open(_) => return Ok(()),
            FilesState::Failed => files.open_again(&self.desired()),
            FilesState::Unread => self.recover_again(files),
        };
        *lock(&self.unwritable) = opened.as_ref().err().map(ToString::to_string);
        opened
    }

    fn recover_again(&self, files: &mut StoreFiles) -> std::io::Result<()> {
        let (desired, losses) = files.recover()?;
        let mut before = lock(&self.losses);
        for loss in losses.iter().filter(|loss| !before.contains(loss)) {
            tracing::error!(%loss, "stored state lost or damaged");
        }
        *before = losses;
        let why = files.why(&before);
        drop(before);
        if desired != *self.desired() {
            self.publish(desired);
        }
        match files.state {
            FilesState::Open(_) => Ok(()),
            FilesState::Failed | FilesState::Unread => Err(std::io::Error::other(why)),
        }
    }

    /// Takes the containers that run, of those whose last change is lost, for as they should be:
    /// a stop or a removal is carried out within seconds, so what runs is most likely to run. It is
    /// an ordinary container then. Answers how many there were.
    ///
    /// # Errors
    /// [`StoreError::Disk`].
    pub fn trust(&self, running: &[ContainerId]) -> Result<usize, StoreError> {
        self.transact(|desired| {
            let seq = desired.seq() + 1;
            let records = running.iter().filter_map(|id| desired.get(*id));
            let trusted = records.filter(|record| {
                record.is_uncertain && !record.removing && record.run == RunState::Running
            });
            let changes: Vec<_> = trusted
                .map(|record| Record {
                    seq,
                    ..Record::clone(record)
                })
                .map(|record| DesiredChange::Put(Box::new(record)))
                .collect();
            let count = changes.len();
            Ok((changes, count))
        })
    }

    /// Tends the files: opens them if they are not open, and makes the reserve if it was given up
    /// and the disk has room again. Answers whether the desired state is another now, because files
    /// could be opened that could not be before.
    pub fn tend(&self) -> bool {
        let mut files = lock(&self.files);
        let before = self.desired();
        if self.open_files(&mut files).is_ok() {
            match files.tend() {
                Err(error) => tracing::debug!(%error, "reserve not made, retrying"),
                // A change that was refused for want of room has left the files open.
                Ok(()) if reserve::check(&files.dir).is_ok() => *lock(&self.unwritable) = None,
                Ok(()) => {}
            }
        }
        self.sweep_chronicles_in(&files);
        drop(files);
        if let Err(error) = self.seal_stored() {
            tracing::warn!(%error, "stored values not sealed, retrying");
        }
        !Arc::ptr_eq(&before, &self.desired())
    }

    fn publish(&self, desired: Desired) {
        *self.desired.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(desired);
    }

    /// Brings the two copies beside sled up to date, one after the other.
    ///
    /// It costs two fsyncs for each copy that is behind, and nothing where both are current.
    ///
    /// # Errors
    /// The disk's.
    pub fn copy(&self) -> std::io::Result<()> {
        let mut copied = lock(&self.copied);
        loop {
            let desired = self.desired();
            if desired.is_unknown() {
                // The copy that would be written over may be the newest.
                return Err(std::io::Error::other(
                    "the newest copy cannot be opened now",
                ));
            }
            let older = usize::from(copied[0] > copied[1]);
            let newest = copied[1 - older];
            // A copy that is damaged is written again even if nothing changed.
            if copied[older].is_some() && newest == Some(desired.seq()) {
                return Ok(());
            }
            copy::write(&self.dir, copy::NAMES[older], &desired)?;
            copied[older] = Some(desired.seq());
        }
    }

    /// A fresh id, which no record has.
    fn new_id(&self, desired: &Desired) -> ContainerId {
        loop {
            let id = ContainerId::from_bits((self.limits.random)());
            if desired.get(id).is_none() && !desired.is_unreadable(id) {
                return id;
            }
        }
    }
}

/// Whether a change brings nothing new to run: then it may have the reserve of a full disk.
fn adds_nothing(desired: &Desired, changes: &[DesiredChange]) -> bool {
    changes.iter().all(|change| match change {
        DesiredChange::Put(record) => desired
            .get(record.id)
            .is_some_and(|before| before.generation == record.generation),
        DesiredChange::KeepUnreadable(..) => false,
        DesiredChange::RemoveRecord(_)
        | DesiredChange::Adopt(_)
        | DesiredChange::Lose(_)
        | DesiredChange::Mark(_) => true,
    })
}

/// A random number from the kernel, whose source is ready by the time a daemon runs.
#[must_use]
pub fn random() -> u64 {
    let mut bits = [0; 8];
    while rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty())
        != Ok(bits.len())
    {}
    u64::from_be_bytes(bits)
}

#[cfg(test)]
mod tests;
