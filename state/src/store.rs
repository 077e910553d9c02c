//! The desired state on disk, in copies: sled, two checksummed files (`store/copy.rs`), and, outside of this crate, the labels of
//! what the runtime holds.
//!
//! There is one writer at a time. A change is decided on what is in memory, written in one transaction, synced to the
//! disk, and only then shown to anybody. Every call that changes something blocks for as long as the disk takes
//! (0.5 to 2 ms): not for an executor's threads.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde_json::Value;

use crate::assign::Pool;
use crate::desired::set::{Change, Desired};
use crate::desired::{Finished, Record};
use crate::id::ContainerId;
use crate::memory::{Memory, Remembered};
use files::Files;

mod adopt;
mod batch;
mod copy;
mod disk;
mod error;
mod files;
mod pull;
mod push;
mod quarantine;
mod recover;

pub use error::StoreError;
pub use push::{Answered, Replaced, Replacing};

/// What a deploy came to.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The record as it is (or, on a dry run, would be) stored.
    pub record: Arc<Record>,
    /// It differs from what was stored before.
    pub changed: bool,
}

/// What a node has to give.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Addresses and ports.
    pub pool: Pool,
    /// Containers at once.
    pub containers_max: usize,
    /// Where new ids come from. [`random`], but for simulations.
    pub random: fn() -> u64,
}

/// The store. Readers take a snapshot of what is desired; it never changes under them.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    limits: Limits,
    /// Held by whoever writes.
    files: Mutex<Files>,
    /// How far each of the two files is; `None`: not known, or not whole. Held by whoever writes one.
    copied: Mutex<[Option<u64>; 2]>,
    desired: RwLock<Arc<Desired>>,
    losses: Vec<String>,
    /// For those who may not wait for a writer.
    writable: AtomicBool,
    /// Locked as long as this value lives, so that no second agent writes here.
    _lock: Option<File>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens the store in `directory`, making it if it is not there. Damaged files are moved aside and rebuilt from the
    /// newest copy that is whole, and files that cannot be written are waited for: see [`losses`](Self::losses).
    ///
    /// # Errors
    /// [`StoreError::InUse`], and no other.
    pub fn open(directory: &Path, limits: Limits) -> Result<Self, StoreError> {
        // Where it cannot be made, nothing is stored until it can.
        let _made = files::make(directory);
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
        let files = disk.map_or(Files::Unread, |disk| Files::Open(Box::new(disk)));
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

    /// What is desired now.
    #[must_use]
    pub fn desired(&self) -> Arc<Desired> {
        Arc::clone(&self.desired.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the start found lost, damaged or not understood, in sentences. Empty after a good one.
    #[must_use]
    pub fn losses(&self) -> &[String] {
        &self.losses
    }

    /// Whether changes can be written, as far as the last one tells.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    /// Changes one record. Answers it as it is stored now; a change that changes nothing costs nothing.
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
                vec![Change::Put(Box::new(record.clone()))],
                Arc::new(record),
            ))
        })
    }

    /// Notes what the image of this generation resolved to, or that it is not known (any more).
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

    /// Notes that this generation ended and is to stay so.
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

    /// Notes something of this generation that nobody asked for: it is no change of what is desired, and so not younger than
    /// a request that was sent after the last one.
    ///
    /// # Errors
    /// As [`Store::change`]. A record that has moved on to another generation is left alone.
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
                    vec![Change::Put(Box::new(record))]
                } else {
                    Vec::new()
                },
                (),
            ))
        })
    }

    /// Drops a record that is to be removed, once nothing of it is left. One that was deployed again meanwhile stays.
    ///
    /// # Errors
    /// [`StoreError::Disk`].
    pub fn forget(&self, id: ContainerId) -> Result<(), StoreError> {
        self.transact(|desired| {
            let gone = desired.get(id).is_some_and(|record| record.removing);
            Ok((
                if gone {
                    vec![Change::Forget(id)]
                } else {
                    Vec::new()
                },
                (),
            ))
        })?;
        self.remember(id, None);
        Ok(())
    }

    /// Takes in the copies of records that the runtime holds, after the state was rebuilt: those that are newer than what it
    /// was rebuilt from. Answers what was taken, in sentences.
    ///
    /// # Errors
    /// [`StoreError::Disk`].
    pub fn adopt(&self, copies: &[(ContainerId, Value)]) -> Result<Vec<String>, StoreError> {
        self.transact(|desired| {
            let Some(adoption) = desired.adoption() else {
                return Ok((Vec::new(), Vec::new()));
            };
            let (mut changes, told) = adopt::taken(desired, adoption, copies);
            changes.push(Change::Adopt(None));
            Ok((changes, told))
        })
    }

    /// Answers the counter of changes once no change is under way: a sign that the next one would be heard.
    pub fn ping(&self) -> u64 {
        let _no_change_is_under_way = lock(&self.files);
        self.desired().seq()
    }

    /// Decides on a change and makes it, in one transaction.
    fn transact<T>(
        &self,
        decide: impl FnOnce(&Desired) -> Result<(Vec<Change>, T), StoreError>,
    ) -> Result<T, StoreError> {
        let mut files = lock(&self.files);
        // Before the decision, for what is in memory may turn out to be older than the files.
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
        let mut entries: Vec<_> = changes.iter().map(Change::entry).collect();
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

    /// Brings the two files beside sled up to date, of which one at a time is written. Costs two fsyncs where something
    /// changed, and nothing else.
    ///
    /// # Errors
    /// The disk's.
    pub fn copy(&self) -> std::io::Result<()> {
        let mut copied = lock(&self.copied);
        loop {
            let desired = self.desired();
            let older = usize::from(copied[0] > copied[1]);
            let newest = copied[1 - older];
            // A file that is not whole is made so even if nothing changed.
            if copied[older].is_some() && newest == Some(desired.seq()) {
                return Ok(());
            }
            copy::write(&self.directory.join(copy::NAMES[older]), &desired)?;
            copied[older] = Some(desired.seq());
        }
    }

    /// Brings to the disk what is [remembered](Self::remember) as well. An orderly end does so by itself.
    pub fn flush(&self) {
        if let Files::Open(disk) = &*lock(&self.files) {
            disk.flush();
        }
    }

    /// Keeps what is remembered of a container (`None`: nothing any more) over a restart of the agent. It is no promise: it
    /// reaches the disk within half a second, and is lost with the files.
    pub fn remember(&self, id: ContainerId, memory: Option<&Remembered>) {
        let value = memory.map(serde_json::to_vec).and_then(Result::ok);
        if let Files::Open(disk) = &*lock(&self.files)
            && let Err(fault) = disk.remember(&id.to_string(), value)
        {
            tracing::debug!(%id, ?fault, "what is remembered of it is not kept");
        }
    }

    /// What was remembered when the agent ended of what is desired, as it is true in the boot with this id.
    #[must_use]
    pub fn memories(&self, boot_id: &str) -> BTreeMap<ContainerId, Memory> {
        let Files::Open(disk) = &*lock(&self.files) else {
            return BTreeMap::new();
        };
        let read = |(key, value): (String, Vec<u8>)| {
            let remembered: Remembered = serde_json::from_slice(&value).ok()?;
            Some((key.parse().ok()?, remembered.in_boot(boot_id)))
        };
        // A kill may have come between the end of a record and that of its memory.
        let desired = self.desired();
        disk.remembered()
            .into_iter()
            .filter_map(read)
            .filter(|(id, _)| desired.get(*id).is_some())
            .collect()
    }

    /// An id that nothing has.
    fn new_id(&self, desired: &Desired) -> ContainerId {
        loop {
            let id = ContainerId::from_bits((self.limits.random)());
            if desired.get(id).is_none() && !desired.holds(id) {
                return id;
            }
        }
    }
}

/// A number that nobody can guess. The kernel's are always there by the time a daemon runs.
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
