//! Volumes with names, as an operator sees them: which there are, their archives under way, and their
//! removal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use state::spec::VolumeName;
use state::time::unix_ms;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::key::VolumeKey;
use super::shelf::{Shelf, VolumeNote, VolumePresence};
use super::{BoundedUse, Volumes, mounted, quota};
use crate::lock::lock;

/// Wait for the turn of a removed volume, whose empty place goes last. Longer has it only who makes
/// the volume anew, and keeps the place.
const LEAVE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Volume that was made, as its note has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeFacts {
    pub(crate) name: VolumeName,
    pub(crate) note: VolumeNote,
    /// Whether its content is where it should be.
    pub(crate) is_there: bool,
    /// Use of its limit. `None`: it has none.
    pub(crate) bounded: Option<BoundedUse>,
}

/// Archives of volumes that are under way: any number of readers, and one writer.
#[derive(Debug, Default)]
pub(super) struct VolumesInUse {
    by_name: Mutex<BTreeMap<VolumeName, (usize, bool)>>,
    /// Volumes that an archive is being made to.
    made: Mutex<BTreeSet<VolumeName>>,
}

impl VolumesInUse {
    /// Whether an archive is being made to a volume.
    pub(super) fn makes(&self, key: &VolumeKey) -> bool {
        matches!(key, VolumeKey::Named(name) if lock(&self.made).contains(name))
    }
}

/// Use of a volume by an archive, while which nobody removes it. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct VolumeUse {
    of: Arc<VolumesInUse>,
    name: VolumeName,
    writes: bool,
}

impl Drop for VolumeUse {
    fn drop(&mut self) {
        if self.writes {
            lock(&self.of.made).remove(&self.name);
        }
        let mut in_use = lock(&self.of.by_name);
        if let Some((readers, writer)) = in_use.get_mut(&self.name) {
            if self.writes {
                *writer = false;
            } else {
                *readers -= 1;
            }
            if (*readers, *writer) == (0, false) {
                in_use.remove(&self.name);
            }
        }
    }
}

impl VolumeUse {
    /// Tells that the volume is made by this use.
    pub(crate) fn makes(&self) {
        lock(&self.of.made).insert(self.name.clone());
    }
}

/// Cause for which a volume was not removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeRemoval {
    #[error("there is no volume {0}")]
    None(VolumeName),
    /// Something is under way with it, or holds it.
    #[error("volume {0} {1}")]
    InUse(VolumeName, String),
    #[error("volume {0} cannot be removed: {1}")]
    Failed(VolumeName, io::Error),
}

impl Volumes {
    /// Volumes with names that were made, by name.
    pub(crate) async fn named(&self) -> io::Result<Vec<VolumeFacts>> {
        self.on_shelf(|shelf| {
            let mut found = Vec::new();
            for name in names(shelf)? {
                found.extend(facts(shelf, name)?);
            }
            Ok(found)
        })
        .await
    }

    /// Volume that was made. `None`: it was never made.
    pub(crate) async fn facts(&self, name: VolumeName) -> io::Result<Option<VolumeFacts>> {
        self.on_shelf(move |shelf| facts(shelf, name)).await
    }

    pub(super) async fn on_shelf<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shelf) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let shelf = Arc::clone(&self.shelf);
        let working = tokio::task::spawn_blocking(move || work(&shelf));
        working
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// Notes which volumes containers use; answers how many there are. The others are unused since
    /// the first look that found them so.
    pub(crate) async fn note_use(&self, used: BTreeSet<VolumeName>) -> io::Result<usize> {
        let now = unix_ms(SystemTime::now());
        let turns = Arc::clone(&self.turns);
        self.on_shelf(move |shelf| {
            let mut there = 0;
            for name in names(shelf)? {
                let is_used = used.contains(&name);
                let key = VolumeKey::Named(name);
                let Some(note) = shelf.note(&key)? else {
                    continue;
                };
                there += 1;
                if is_used != note.unused_ms.is_some() {
                    continue;
                }
                // Whoever removes it meanwhile has its turn, and the next look is soon.
                let Ok(_turn) = turns.of(&key.to_string()).try_acquire_owned() else {
                    continue;
                };
                if let Some(note) = shelf.note(&key)?
                    && shelf.data(&key).is_dir()
                {
                    let unused_ms = (!is_used).then_some(now);
                    shelf.write_note(&key, &VolumeNote { unused_ms, ..note })?;
                }
            }
            Ok(there)
        })
        .await
    }

    /// Uses a volume for an archive. `None`: another archive is being written to it.
    pub(crate) fn begin_use(&self, name: &VolumeName, writes: bool) -> Option<VolumeUse> {
        let mut in_use = lock(&self.in_use.by_name);
        let (readers, writer) = in_use.entry(name.clone()).or_default();
        if writes && std::mem::replace(writer, true) {
            return None;
        }
        *readers += usize::from(!writes);
        Some(VolumeUse {
            of: Arc::clone(&self.in_use),
            name: name.clone(),
            writes,
        })
    }

    /// Waits for the turn to make or remove a volume, while which no container with it is launched.
    pub(crate) async fn turn(&self, name: &VolumeName) -> io::Result<OwnedSemaphorePermit> {
        let turn = self.turns.of(&VolumeKey::Named(name.clone()).to_string());
        turn.acquire_owned().await.map_err(io::Error::other)
    }

    /// Opens a volume that is there. Blocks.
    pub(crate) fn open(&self, name: &VolumeName) -> io::Result<OwnedFd> {
        let data = self.shelf.data(&VolumeKey::Named(name.clone()));
        Ok(File::open(data)?.into())
    }

    /// Makes a volume that is absent with what `make` puts into its directory; all of it, or none.
    /// Whoever does it holds its turn. Blocks.
    pub(crate) fn make<T, E: From<io::Error>>(
        &self,
        name: &VolumeName,
        make: impl FnOnce(&OwnedFd) -> Result<T, E>,
    ) -> Result<T, E> {
        let key = VolumeKey::Named(name.clone());
        let made = self.shelf.make_new(&key, None, make)?;
        self.shelf.put(&key, None)?;
        self.counted.forget(name);
        Ok(made)
    }

    /// Removes a volume that nobody uses: when it answers, there is none. Its content goes after
    /// that. `turn`: that of the volume.
    pub(crate) async fn remove(
        &self,
        name: &VolumeName,
        turn: OwnedSemaphorePermit,
    ) -> Result<(), VolumeRemoval> {
        if lock(&self.in_use.by_name).contains_key(name) {
            let fault = "is being archived; wait for that, or end it".to_owned();
            return Err(VolumeRemoval::InUse(name.clone(), fault));
        }
        let key = VolumeKey::Named(name.clone());
        let failed = |error| VolumeRemoval::Failed(name.clone(), error);
        let facts = self.facts(name.clone()).await.map_err(failed)?;
        if facts.is_none() {
            return Err(VolumeRemoval::None(name.clone()));
        }
        let data = self.shelf.data(&key);
        let taken = self.on_shelf(move |shelf| {
            if let Some(process) = mounted::mounted_by(&data)? {
                let fault = format!("is mounted by process {process}; end it");
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, fault));
            }
            shelf.take_away(&key)
        });
        taken.await.map_err(|error| {
            if error.kind() == io::ErrorKind::ResourceBusy {
                VolumeRemoval::InUse(name.clone(), error.to_string())
            } else {
                failed(error)
            }
        })?;
        self.counted.forget(name);
        drop(turn);
        self.clear_removed();
        Ok(())
    }

    /// Clears the contents of removed volumes on a thread of its own, of which there is one.
    fn clear_removed(&self) {
        let Ok(clearing) = Arc::clone(&self.clearing).try_acquire_owned() else {
            // That one looks again when it is done, and the next sweep does.
            return;
        };
        let (shelf, turns) = (Arc::clone(&self.shelf), Arc::clone(&self.turns));
        let runtime = tokio::runtime::Handle::current();
        drop(tokio::task::spawn_blocking(move || {
            let _clearing = clearing;
            let mut failed = BTreeSet::new();
            loop {
                let names = names(&shelf).unwrap_or_default();
                let mut names = names.into_iter();
                let next = names.find(|name| {
                    let key = VolumeKey::Named(name.clone());
                    !failed.contains(name) && shelf.has_removed(&key)
                });
                let Some(name) = next else { return };
                let key = VolumeKey::Named(name.clone());
                if let Err(error) = shelf.clear_removed(&key) {
                    tracing::warn!(%name, %error, "content of a removed volume left behind");
                    failed.insert(name);
                    continue;
                }
                // Waited for: who has the turn may only look, and would leave the place for ever.
                let turn = turns.of(&key.to_string()).acquire_owned();
                let turn = runtime.block_on(async { timeout(LEAVE_WAIT_MAX, turn).await });
                if let Ok(Ok(_turn)) = turn {
                    shelf.leave(&key);
                }
            }
        }));
    }

    /// Removes contents that were cut off before they were a volume's, where nobody makes one now,
    /// and has those of removed volumes be cleared; answers the names of the first.
    pub(crate) async fn sweep_cut(&self) -> Vec<VolumeName> {
        let turns = Arc::clone(&self.turns);
        let swept = self.on_shelf(move |shelf| {
            let mut swept = Vec::new();
            for name in names(shelf)? {
                let key = VolumeKey::Named(name.clone());
                let Ok(_turn) = turns.of(&key.to_string()).try_acquire_owned() else {
                    continue;
                };
                match shelf.clear_new(&key) {
                    Ok(true) => {
                        shelf.leave(&key);
                        swept.push(name);
                    }
                    // An empty directory is a mount point that somebody made, and is left.
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%name, %error, "leftover of a volume not removed"),
                }
            }
            Ok(swept)
        });
        let swept = swept.await.unwrap_or_default();
        self.clear_removed();
        swept
    }
}

/// Names of which there is a volume, a note, or a trace.
fn names(shelf: &Shelf) -> io::Result<BTreeSet<VolumeName>> {
    let mut names = BTreeSet::new();
    for (place, suffix) in [("volumes", ""), ("volume-notes", ".json")] {
        let entries = match fs::read_dir(shelf.state_dir.join(place)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let file = entry?.file_name();
            let name = file.to_str().and_then(|name| name.strip_suffix(suffix));
            names.extend(name.and_then(|name| name.parse::<VolumeName>().ok()));
        }
    }
    Ok(names)
}

fn facts(shelf: &Shelf, name: VolumeName) -> io::Result<Option<VolumeFacts>> {
    let key = VolumeKey::Named(name.clone());
    let is_there = match shelf.look(&key)? {
        VolumePresence::Absent => return Ok(None),
        VolumePresence::Present => true,
        VolumePresence::Missing => false,
    };
    let note = shelf.note(&key)?.unwrap_or_default();
    let bounded = is_there.then(|| quota::bounded(&shelf.data(&key)).ok());
    Ok(Some(VolumeFacts {
        name,
        note,
        is_there,
        bounded: bounded.flatten().flatten(),
    }))
}
