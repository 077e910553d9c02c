//! The desired state on disk, in copies: sled, two checksummed files (`store/copy.rs`), and,
//! outside of this crate, the labels of the containers in the runtime.
//!
//! There is one writer at a time. A change is decided on the state in memory, written in one
//! transaction, synced to the disk, and only then shown to anybody. A call that changes something
//! blocks for as long as the disk takes (0.5 to 2 ms): it is not for an executor's threads.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde_json::Value;

use crate::assign::HostNetwork;
use crate::desired::set::{Desired, DesiredChange};
use crate::desired::{Finished, Record};
use crate::history::{History, StoredHistory};
use crate::id::ContainerId;
use files::StoreFiles;

mod adopt;
mod apply;
mod batch;
mod copy;
mod disk;
mod error;
mod files;
mod proven;
mod push;
mod quarantine;
mod recover;

pub use error::StoreError;
pub use push::{Idempotent, ReplaceOutcome, ReplaceRequest};

/// Outcome of a deploy.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The record as it is (or, on a dry run, would be) stored.
    pub record: Arc<Record>,
    /// Whether the record differs from the one before, if there was one.
    pub changed: bool,
}

/// Limits of a node: the network places and containers that it has room for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Host ports for containers that leave the choice to the agent.
    pub ports: RangeInclusive<u16>,
    /// The node's network, which answers addresses.
    pub network: Arc<dyn HostNetwork>,
    /// Most containers that are desired at once.
    pub containers_max: usize,
    /// Whether a container may ask for `security.no_new_privileges: false`.
    pub new_privileges: bool,
    /// Source of new ids. [`random`], but for simulations.
    pub random: fn() -> u64,
}

/// The desired state on disk. Readers take a snapshot of it, which never changes under them.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    limits: Limits,
    /// sled's files. A writer holds the lock from its decision until the change is published.
    files: Mutex<StoreFiles>,
    /// Last change in each of the two copies; `None`: not known, or the copy is damaged. Whoever
    /// writes a copy holds the lock meanwhile.
    copied: Mutex<[Option<u64>; 2]>,
    desired: RwLock<Arc<Desired>>,
    losses: Vec<String>,
    /// Whether the last change could be written; for readers who may not wait for a writer.
    writable: AtomicBool,
    /// The state directory, locked as long as this value lives: no second agent writes here.
    _lock: Option<File>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens the store in `directory`, which is created if it is missing.
    ///
    /// Damaged files go into quarantine and are rebuilt from the newest intact copy: see
    /// [`losses`](Self::losses). Files that cannot be opened now are tried again with each change.
    ///
    /// # Errors
    /// [`StoreError::InUse`] only.
    pub fn open(directory: &Path, limits: Limits) -> Result<Self, StoreError> {
        // Without a directory nothing is stored, until a later change can create it.
        let _created = files::create_directory(directory);
        let lock = File::open(directory).ok();
        if let Some(opened) = &lock {
            files::take_lock(opened).map_err(|_| StoreError::InUse(directory.to_owned()))?;
        }
        let recover::Recovered {
            disk,
            desired,
            losses,
        } = recover::recover(directory);
        let writable = AtomicBool::new(disk.is_some());
        let files = disk.map_or(StoreFiles::Unread, |disk| StoreFiles::Open(Box::new(disk)));
        let store = Self {
            directory: directory.to_owned(),
            limits,
            files: Mutex::new(files),
            copied: Mutex::default(),
            desired: RwLock::new(Arc::new(desired)),
            losses,
            writable,
            _lock: lock,
        };
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
    pub fn losses(&self) -> &[String] {
        &self.losses
    }

    /// Whether changes can be written, as far as the last change tells.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    /// Changes one record, and answers it as it is stored then. A change that alters nothing is not
    /// written.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Disk`].
    pub fn change(
        &self,
        id: ContainerId,
        change: impl FnOnce(&mut Record),
    ) -> Result<Arc<Record>, StoreError> {
        self.transact(|desired| {
            let before = desired.get(id).ok_or(StoreError::NotFound(id))?;
            let mut record = Record::clone(before);
            change(&mut record);
            if record == **before {
                return Ok((Vec::new(), Arc::clone(before)));
            }
            record.seq = desired.seq() + 1;
            Ok((
                vec![DesiredChange::Put(Box::new(record.clone()))],
                Arc::new(record),
            ))
        })
    }

    /// Notes the digest that the image of this generation resolved to. `None`: it is not known (any
    /// more).
    ///
    /// # Errors
    /// As [`Store::note`].
    pub fn set_image_digest(
        &self,
        id: ContainerId,
        generation: u64,
        digest: Option<String>,
    ) -> Result<(), StoreError> {
        self.note(id, generation, |record| record.image_digest = digest)
    }

    /// Notes that this generation ended, and that its restart policy leaves it so.
    ///
    /// # Errors
    /// As [`Store::note`].
    pub fn finish(
        &self,
        id: ContainerId,
        generation: u64,
        finished: Finished,
    ) -> Result<(), StoreError> {
        self.note(id, generation, |record| record.finished = Some(finished))
    }

    /// Notes a fact about this generation in its record.
    ///
    /// A fact is no change of what is desired: `seq` stays, and the record counts as no newer than
    /// a poll that was sent meanwhile. A record that has moved on to another generation stays as it
    /// is.
    ///
    /// # Errors
    /// As [`Store::change`].
    pub fn note(
        &self,
        id: ContainerId,
        generation: u64,
        note: impl FnOnce(&mut Record),
    ) -> Result<(), StoreError> {
        self.transact(|desired| {
            let before = desired.get(id).ok_or(StoreError::NotFound(id))?;
            let mut record = Record::clone(before);
            if record.generation == generation {
                note(&mut record);
            }
            let is_news = record != **before;
            Ok((
                if is_news {
                    vec![DesiredChange::Put(Box::new(record))]
                } else {
                    Vec::new()
                },
                (),
            ))
        })
    }

    /// Drops the record of a removed container, once nothing of the container is left. A record
    /// that was deployed again meanwhile stays.
    ///
    /// # Errors
    /// [`StoreError::Disk`].
    pub fn forget(&self, id: ContainerId) -> Result<(), StoreError> {
        self.transact(|desired| {
            let gone = desired.get(id).is_some_and(|record| record.removing);
            Ok((
                if gone {
                    vec![DesiredChange::RemoveRecord(id)]
                } else {
                    Vec::new()
                },
                (),
            ))
        })?;
        self.save_history(id, None);
        Ok(())
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
            let (mut changes, told) = adopt::adopted(desired, adoption, copies);
            changes.push(DesiredChange::Adopt(None));
            Ok((changes, told))
        })
    }

    /// Answers the counter of changes once no change is under way: a sign that the next one would
    /// be heard.
    pub fn ping(&self) -> u64 {
        let _no_change_is_under_way = lock(&self.files);
        self.desired().seq()
    }

    /// Decides on a change and makes it, in one transaction.
    fn transact<T>(
        &self,
        decide: impl FnOnce(&Desired) -> Result<(Vec<DesiredChange>, T), StoreError>,
    ) -> Result<T, StoreError> {
        let mut files = lock(&self.files);
        // Before the decision, for the state in memory may turn out to be older than the files.
        let opened = files.open(&self.directory, &self.desired());
        self.writable.store(opened.is_ok(), Ordering::Relaxed);
        let unopened = opened
            .map(|better| better.into_iter().for_each(|desired| self.publish(desired)))
            .err();
        let desired = self.desired();
        let (changes, answer) = decide(&desired)?;
        if changes.is_empty() {
            return Ok(answer);
        }
        if let Some(error) = unopened {
            return Err(StoreError::Disk(error));
        }
        let next = desired.with(&changes);
        let mut entries: Vec<_> = changes.iter().map(DesiredChange::entry).collect();
        entries.push(next.seq_entry());
        if let Err(error) = files.write(&self.directory, &entries) {
            self.writable.store(false, Ordering::Relaxed);
            return Err(StoreError::Disk(error));
        }
        self.publish(next);
        Ok(answer)
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
            let older = usize::from(copied[0] > copied[1]);
            let newest = copied[1 - older];
            // A copy that is damaged is written again even if nothing changed.
            if copied[older].is_some() && newest == Some(desired.seq()) {
                return Ok(());
            }
            copy::write(&self.directory.join(copy::NAMES[older]), &desired)?;
            copied[older] = Some(desired.seq());
        }
    }

    /// Syncs the [saved histories](Self::save_history) to the disk. An orderly end of the agent
    /// does so by itself.
    pub fn flush(&self) {
        if let StoreFiles::Open(disk) = &*lock(&self.files) {
            disk.flush();
        }
    }

    /// Saves the history of a container over a restart of the agent. `None`: deletes it.
    ///
    /// A history is no promise: it reaches the disk within half a second, and is lost with the
    /// files.
    pub fn save_history(&self, id: ContainerId, history: Option<&StoredHistory>) {
        let value = history.map(serde_json::to_vec).and_then(Result::ok);
        if let StoreFiles::Open(disk) = &*lock(&self.files)
            && let Err(error) = disk.save_history(&id.to_string(), value)
        {
            tracing::debug!(%id, %error, "history not saved");
        }
    }

    /// Saved histories of the desired containers, with times as they are in the boot with this id.
    #[must_use]
    pub fn histories(&self, boot_id: &str) -> BTreeMap<ContainerId, History> {
        let StoreFiles::Open(disk) = &*lock(&self.files) else {
            return BTreeMap::new();
        };
        let read = |(key, value): (String, Vec<u8>)| {
            let stored: StoredHistory = serde_json::from_slice(&value).ok()?;
            Some((key.parse().ok()?, stored.in_boot(boot_id)))
        };
        // A kill may have come between the end of a record and that of its history.
        let desired = self.desired();
        disk.histories()
            .into_iter()
            .filter_map(read)
            .filter(|(id, _)| desired.get(*id).is_some())
            .collect()
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
