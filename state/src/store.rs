//! The desired state on disk: sled, behind this one file, because 0.34 is no longer kept up.
//!
//! There is one writer at a time. A change is decided on what is in memory, written in one transaction, synced to the
//! disk, and only then shown to anybody. Every call that changes something blocks for as long as the disk takes
//! (0.5 to 2 ms): not for an executor's threads.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::assign::{AssignError, Pool, assign};
use crate::desired::{Finished, Owner, PortBinding, Record, RunState};
use crate::id::{ContainerId, ContainerName};
use crate::spec::parse::Deploy;

/// sled's page cache. The desired state of a thousand containers is some 2 MB.
const CACHE_BYTES: u64 = 4 << 20;
/// sled's own flusher, which also does the true fsync of what lies beside the log.
const FLUSH_EVERY_MS: u64 = 500;
const SEQ: &[u8] = b"seq";
const RECORD: u8 = b'r';

/// Everything desired, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    records: BTreeMap<ContainerId, Arc<Record>>,
    names: BTreeMap<ContainerName, ContainerId>,
    seq: u64,
}

impl Desired {
    /// The record with this id.
    #[must_use]
    pub fn get(&self, id: ContainerId) -> Option<&Arc<Record>> {
        self.records.get(&id)
    }

    /// The record with this name.
    #[must_use]
    pub fn named(&self, name: &ContainerName) -> Option<&Arc<Record>> {
        self.names.get(name).and_then(|id| self.records.get(id))
    }

    /// Every record, by id.
    pub fn records(&self) -> impl Iterator<Item = &Arc<Record>> + Clone {
        self.records.values()
    }

    fn with(&self, record: Record) -> Self {
        let mut next = self.clone();
        next.seq = next.seq.max(record.seq);
        next.names.insert(record.name.clone(), record.id);
        next.records.insert(record.id, Arc::new(record));
        next
    }

    fn without(&self, id: ContainerId) -> Self {
        let mut next = self.clone();
        if let Some(record) = next.records.remove(&id) {
            next.names.remove(&record.name);
        }
        next
    }
}

/// Why a change was not taken.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Its place on the network cannot be had.
    #[error(transparent)]
    Assign(#[from] AssignError),
    /// The name belongs to the control plane.
    #[error("{0} is owned by CHaS (generation {1}); change it there")]
    Owned(ContainerName, u64),
    /// Nothing has this id.
    #[error("no container has the id {0}")]
    NotFound(ContainerId),
    /// The node runs as many as it may.
    #[error("this node is to run {0} containers at most (containers.max)")]
    TooMany(usize),
    /// The disk did not take it; nothing was changed.
    #[error("the state on disk cannot be written")]
    Disk(#[source] std::io::Error),
    /// What is on disk cannot be read.
    #[error("the state in {path} cannot be read: {fault}")]
    Corrupt {
        /// The store's directory.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
}

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
}

/// The store. Readers take a snapshot of what is desired; it never changes under them.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    limits: Limits,
    /// Held by whoever writes. `None` after a write failed: sled then fails for ever, until it is opened anew.
    disk: Mutex<Option<Disk>>,
    desired: RwLock<Arc<Desired>>,
}

/// The open files.
#[derive(Debug)]
struct Disk {
    db: sled::Db,
    tree: sled::Tree,
}

fn disk_error(error: sled::Error) -> StoreError {
    let source = match error {
        // sled passes on a copy, whose text is a dump.
        sled::Error::Io(source) if source.kind() != std::io::ErrorKind::Other => source.kind().into(),
        sled::Error::Io(source) => source,
        other @ (sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::Corruption { .. }) => std::io::Error::other(other),
    };
    StoreError::Disk(source)
}

impl Store {
    /// Opens the store in the directory `path`, making it if it is not there.
    ///
    /// # Errors
    /// [`StoreError::Disk`], also when another agent has it open; [`StoreError::Corrupt`] when a record cannot be read.
    pub fn open(path: &Path, limits: Limits) -> Result<Self, StoreError> {
        // Environment values may be secrets.
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(StoreError::Disk)?;
        let disk = Disk::open(path)?;
        let desired = disk.load(path)?;
        disk.sync(path)?;
        let (disk, desired) = (Mutex::new(Some(disk)), RwLock::new(Arc::new(desired)));
        Ok(Self { path: path.to_owned(), limits, disk, desired })
    }

    /// What is desired now.
    #[must_use]
    pub fn desired(&self) -> Arc<Desired> {
        Arc::clone(&self.desired.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes in a deploy. On a `dry_run`, answers what it would come to and stores nothing.
    ///
    /// `listening` says whether a process of this host listens on a binding; `now_ms` is the wall time, for showing.
    ///
    /// # Errors
    /// As [`StoreError`] has them; nothing is stored then.
    pub fn deploy(
        &self,
        deploy: Deploy,
        owner: Owner,
        dry_run: bool,
        now_ms: u64,
        listening: impl Fn(&PortBinding) -> bool,
    ) -> Result<Accepted, StoreError> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let desired = self.desired();
        let before = desired.named(&deploy.name).cloned();
        if let Some(before) = before.as_ref().filter(|before| before.owner != owner && owner == Owner::Push) {
            return Err(StoreError::Owned(before.name.clone(), before.generation));
        }
        if before.is_none() && desired.records.len() >= self.limits.containers_max {
            return Err(StoreError::TooMany(self.limits.containers_max));
        }
        let record = self.decide(&desired, before.as_deref(), deploy, owner, now_ms, listening)?;
        if let Some(before) = before.filter(|before| Record { seq: before.seq, ..record.clone() } == **before) {
            return Ok(Accepted { record: before, changed: false });
        }
        if !dry_run {
            self.commit(&mut disk, &desired, record.clone())?;
        }
        Ok(Accepted { record: Arc::new(record), changed: true })
    }

    fn decide(
        &self,
        desired: &Desired,
        before: Option<&Record>,
        deploy: Deploy,
        owner: Owner,
        now_ms: u64,
        listening: impl Fn(&PortBinding) -> bool,
    ) -> Result<Record, StoreError> {
        let id = before.map_or_else(|| new_id(desired), |before| before.id);
        let records = desired.records.values().map(AsRef::as_ref);
        let assignment = assign(id, &deploy.spec.ports, records, &self.limits.pool, listening)?;
        let spec_hash = deploy.spec.hash();
        // What is being taken away is not taken back: its successor is a generation of its own.
        let same = before.filter(|before| before.spec_hash == spec_hash && !before.removing && before.assignment == assignment);
        let started = deploy.run == RunState::Running && before.is_some_and(|before| before.run == RunState::Stopped);
        Ok(Record {
            id,
            name: deploy.name,
            spec: deploy.spec,
            spec_hash,
            owner,
            generation: same.map_or_else(|| before.map_or(1, |before| before.generation + 1), |same| same.generation),
            revision: deploy.revision,
            seq: desired.seq + 1,
            run: deploy.run,
            priority: deploy.priority,
            removing: false,
            restart_pending: same.is_some_and(|same| same.restart_pending),
            finished: same.filter(|_| !started).and_then(|same| same.finished.clone()),
            assignment,
            image_digest: same.and_then(|same| same.image_digest.clone()),
            created_ms: before.filter(|before| !before.removing).map_or(now_ms, |before| before.created_ms),
        })
    }

    /// Changes one record. Answers it as it is stored now; a change that changes nothing costs nothing.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Disk`].
    pub fn change(&self, id: ContainerId, change: impl FnOnce(&mut Record)) -> Result<Arc<Record>, StoreError> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let desired = self.desired();
        let before = desired.get(id).ok_or(StoreError::NotFound(id))?;
        let mut record = Record::clone(before);
        change(&mut record);
        if record == **before {
            return Ok(Arc::clone(before));
        }
        record.seq = desired.seq + 1;
        self.commit(&mut disk, &desired, record.clone())?;
        Ok(Arc::new(record))
    }

    /// Notes what the image of this generation resolved to, or that it is not known (any more).
    ///
    /// # Errors
    /// As [`Store::change`]. A record that has moved on to another generation is left alone.
    pub fn set_image_digest(&self, id: ContainerId, generation: u64, digest: Option<String>) -> Result<(), StoreError> {
        self.change(id, |record| {
            if record.generation == generation {
                record.image_digest = digest;
            }
        })?;
        Ok(())
    }

    /// Notes that this generation ended and is to stay so.
    ///
    /// # Errors
    /// As [`Store::set_image_digest`].
    pub fn finish(&self, id: ContainerId, generation: u64, finished: Finished) -> Result<(), StoreError> {
        self.change(id, |record| {
            if record.generation == generation {
                record.finished = Some(finished);
            }
        })?;
        Ok(())
    }

    /// Drops a record that is to be removed, once nothing of it is left. One that was deployed again meanwhile stays.
    ///
    /// # Errors
    /// [`StoreError::Disk`].
    pub fn forget(&self, id: ContainerId) -> Result<(), StoreError> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let desired = self.desired();
        if desired.get(id).is_none_or(|record| !record.removing) {
            return Ok(());
        }
        let mut batch = sled::Batch::default();
        batch.remove(key(id));
        self.write(&mut disk, &desired, batch)?;
        self.publish(desired.without(id));
        Ok(())
    }

    fn commit(&self, disk: &mut Option<Disk>, desired: &Desired, record: Record) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        batch.insert(key(record.id), json(&record)?);
        batch.insert(SEQ, &record.seq.to_be_bytes());
        self.write(disk, desired, batch)?;
        self.publish(desired.with(record));
        Ok(())
    }

    /// Writes and syncs a change. `desired` is what is on disk before it.
    fn write(&self, disk: &mut Option<Disk>, desired: &Desired, batch: sled::Batch) -> Result<(), StoreError> {
        let open = match disk.take() {
            Some(open) => open,
            None => self.open_anew(desired)?,
        };
        open.tree.apply_batch(batch).map_err(disk_error)?;
        open.sync(&self.path)?;
        *disk = Some(open);
        Ok(())
    }

    /// Opens the files after a write failed, and makes them say what was acknowledged: no less, and no more.
    fn open_anew(&self, desired: &Desired) -> Result<Disk, StoreError> {
        let disk = Disk::open(&self.path)?;
        let found = disk.load(&self.path)?;
        let mut batch = sled::Batch::default();
        found.records.keys().filter(|id| !desired.records.contains_key(id)).for_each(|id| batch.remove(key(*id)));
        for record in desired.records.values().filter(|record| found.records.get(&record.id) != Some(record)) {
            batch.insert(key(record.id), json(record)?);
        }
        disk.tree.apply_batch(batch).map_err(disk_error)?;
        Ok(disk)
    }

    fn publish(&self, desired: Desired) {
        *self.desired.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(desired);
    }
}

impl Disk {
    fn open(path: &Path) -> Result<Self, StoreError> {
        let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(Some(FLUSH_EVERY_MS));
        let db = config.open().map_err(disk_error)?;
        let tree = db.open_tree("desired").map_err(disk_error)?;
        Ok(Self { db, tree })
    }

    /// sled's `flush` is only `sync_file_range` on Linux, which outlives a kill but not a power cut.
    fn sync(&self, path: &Path) -> Result<(), StoreError> {
        self.db.flush().map_err(disk_error)?;
        File::open(path.join("db")).and_then(|file| file.sync_data()).map_err(StoreError::Disk)?;
        // Values too large for the log are files of their own.
        let blobs = path.join("blobs");
        let large = std::fs::read_dir(&blobs).is_ok_and(|mut entries| entries.next().is_some());
        if large {
            let directory = File::open(&blobs).map_err(StoreError::Disk)?;
            rustix::fs::syncfs(&directory).map_err(|error| StoreError::Disk(error.into()))?;
        }
        Ok(())
    }

    fn load(&self, path: &Path) -> Result<Desired, StoreError> {
        let corrupt = |fault: String| StoreError::Corrupt { path: path.to_owned(), fault };
        let mut desired = Desired::default();
        for entry in self.tree.scan_prefix([RECORD]) {
            let (key, value) = entry.map_err(disk_error)?;
            let record: Record = serde_json::from_slice(&value)
                .map_err(|error| corrupt(format!("record {}: {error}", String::from_utf8_lossy(&key))))?;
            desired = desired.with(record);
        }
        let seq = self.tree.get(SEQ).map_err(disk_error)?;
        let seq = seq.and_then(|bytes| bytes.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes);
        desired.seq = desired.seq.max(seq);
        Ok(desired)
    }
}

fn json(record: &Record) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record).map_err(|error| StoreError::Disk(error.into()))
}

fn key(id: ContainerId) -> Vec<u8> {
    let mut key = vec![RECORD];
    key.extend(id.to_string().bytes());
    key
}

/// An id that nothing has. The kernel's random numbers are always there by the time a daemon runs.
fn new_id(desired: &Desired) -> ContainerId {
    loop {
        let mut bits = [0; 8];
        if rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty()) != Ok(bits.len()) {
            continue;
        }
        let id = ContainerId::from_bits(u64::from_be_bytes(bits));
        if !desired.records.contains_key(&id) {
            return id;
        }
    }
}

#[cfg(test)]
mod tests;
