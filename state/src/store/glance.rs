//! A glance at the stored state of an agent that does not run, for whoever looks after the node: nothing
//! is locked, repaired or changed by it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;

use super::copy::{self, CopyState, NAMES};
use super::sound_disk;
use super::state_dir::StateDir;
use crate::desired::Entries;
use crate::desired::set::Desired;
use crate::id::ContainerId;
use crate::reference::ImageReference;

/// Lock of a state directory, by which no agent opens the store in it.
#[derive(Debug)]
pub struct StateLock {
    _directory: File,
}

impl StateLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`]: an agent has it; else the directory cannot be used.
    pub fn take(directory: &Path) -> io::Result<Self> {
        let locked = StateDir::new(directory, sound_disk).lock()?;
        Ok(Self { _directory: locked })
    }
}

/// Content of the newest intact copy beside sled. It may be a moment older than sled's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredGlance {
    /// Containers with a record, readable or not.
    pub ids: BTreeSet<ContainerId>,
    /// Images of the records.
    pub images: Vec<ImageReference>,
}

impl StoredGlance {
    /// The glance at a state directory. `None`: nothing was stored there yet.
    ///
    /// # Errors
    /// There are copies, and none of them can be read; in words.
    pub fn at(directory: &Path) -> Result<Option<Self>, String> {
        let dir = StateDir::new(directory, sound_disk);
        let mut newest: Option<Entries> = None;
        let mut fault = None;
        for name in NAMES {
            match copy::read(&dir, name) {
                CopyState::Missing => {}
                CopyState::Intact(entries) => {
                    let seq = newest.as_ref().map(Desired::seq_of);
                    if seq.is_none_or(|seq| Desired::seq_of(&entries) > seq) {
                        newest = Some(entries);
                    }
                }
                CopyState::Unreadable(error) => fault = Some(format!("{name}: {error}")),
                CopyState::Damaged(why) => fault = Some(format!("{name}: {why}")),
            }
        }
        match (newest, fault) {
            (Some(entries), _) => Ok(Some(Self::of(&Desired::from_entries(entries)))),
            (None, Some(fault)) => Err(fault),
            (None, None) => Ok(None),
        }
    }

    fn of(desired: &Desired) -> Self {
        let mut ids = desired.unreadable_ids();
        ids.extend(desired.records().map(|record| record.id));
        let images = desired.records().map(|record| record.spec.image.clone());
        Self {
            ids,
            images: images.collect(),
        }
    }
}
