//! Volumes of the node: directories that containers mount, and that outlive them.
//!
//! A volume is made when the first container that names it is launched, with what that container's
//! image has at its place there; from then on it is only mounted. Nothing but an operator's order
//! removes one that has a name. One that only an image asks for is its container's, and goes with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::io::Errno;
use state::failure::Failure;
use state::id::{ContainerId, InstanceName};
use state::quantity::ByteCount;
use state::reason::Reason;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use self::copy::CopiedFiles;
use self::count::CountedVolumes;
pub(crate) use self::key::VolumeKey;
use self::named::VolumesInUse;
pub(crate) use self::named::{VolumeFacts, VolumeRemoval};
use self::quota::Occasion;
pub(crate) use self::quota::{BoundedUse, SizeFault};
pub(crate) use self::room::DiskBudget;
use self::shelf::{Shelf, VolumePresence};
pub(crate) use self::sizes::ToldFaults;
use crate::lock::lock;
use crate::permits::KeyedPermits;

mod copy;
mod count;
mod key;
mod mounted;
mod named;
mod quota;
mod removal;
mod room;
mod shelf;
mod sizes;

/// Time between two looks at who keeps a launch from its volume.
const TURN_LOOK: Duration = Duration::from_secs(1);

/// Volumes of the node. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Volumes {
    shelf: Arc<Shelf>,
    /// Each volume is looked at and made by one at a time.
    turns: Arc<KeyedPermits>,
    /// Containers with volumes of their images that were launched in this life of the agent.
    launched: Arc<Mutex<BTreeSet<ContainerId>>>,
    /// Archives of volumes that are under way.
    in_use: Arc<VolumesInUse>,
    counted: Arc<CountedVolumes>,
    /// Contents of removed volumes are cleared by one thread: they may take minutes.
    clearing: Arc<Semaphore>,
}

/// Volume that a container mounts.
#[derive(Clone, Debug)]
pub(crate) struct WantedVolume {
    /// Path in its image whose files the volume begins with.
    pub(crate) path: String,
    /// Whether the container exists and mounts it: then it was made, whatever the disk says.
    pub(crate) had_before: bool,
    /// Most bytes that it may take. `None`: the container asks for no limit.
    pub(crate) size: Option<ByteCount>,
}

/// Volumes that one container mounts.
pub(crate) type Wanted = BTreeMap<VolumeKey, WantedVolume>;

/// Volumes that are filled, and not in their places yet.
#[derive(Debug)]
#[must_use]
pub(crate) struct FilledVolumes {
    held: LockedVolumes,
    image: String,
    copied: Vec<(VolumeKey, Option<CopiedFiles>)>,
}

/// Volumes of a container that is to be launched, while nobody else makes or removes them.
#[derive(Debug)]
pub(crate) struct LockedVolumes {
    shelf: Arc<Shelf>,
    instance: InstanceName,
    absent: Wanted,
    _turns: Vec<OwnedSemaphorePermit>,
}

impl Volumes {
    pub(crate) fn new(state_dir: PathBuf) -> Self {
        Self {
            shelf: Arc::new(Shelf::new(state_dir)),
            turns: Arc::new(KeyedPermits::new(1)),
            launched: Arc::default(),
            in_use: Arc::default(),
            counted: Arc::default(),
            clearing: Arc::new(Semaphore::new(1)),
        }
    }

    /// Directory on the host of a volume.
    pub(crate) fn directory(&self, key: &VolumeKey) -> PathBuf {
        self.shelf.data(key)
    }

    /// Restrictions of the mount that a volume's directory is on, as mount options.
    pub(crate) async fn forbidden(&self, key: &VolumeKey) -> Vec<&'static str> {
        let data = self.directory(key);
        let look = move || mounted::forbidden(&data);
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }

    /// Looks at the volumes of a container that is to be launched, after everybody who makes or
    /// removes one of them.
    ///
    /// # Errors
    /// [`Reason::VolumeMissing`]: one was made once, and is not there. [`Reason::LimitRefused`]: one
    /// cannot have the size that is asked for.
    pub(crate) async fn hold(
        &self,
        instance: InstanceName,
        wanted: Wanted,
    ) -> Result<LockedVolumes, Failure> {
        let mut turns = Vec::with_capacity(wanted.len());
        for key in wanted.keys() {
            if let VolumeKey::OfImage(id, _) = key {
                lock(&self.launched).insert(*id);
            }
            turns.extend(self.launch_turn(key).await?);
        }
        let shelf = Arc::clone(&self.shelf);
        let look = move || absent(&shelf, wanted);
        let absent = tokio::task::spawn_blocking(look).await;
        let absent = absent.unwrap_or_else(|error| {
            let message = format!("volumes of {instance} cannot be looked at: {error}");
            Err(Failure::new(Reason::CreateFailed, message))
        })?;
        Ok(LockedVolumes {
            shelf: Arc::clone(&self.shelf),
            instance,
            absent,
            _turns: turns,
        })
    }

    /// Waits for the turn to look at a volume. An archive that is being made to one takes as long as
    /// its sender: nobody waits for that.
    async fn launch_turn(&self, key: &VolumeKey) -> Result<Option<OwnedSemaphorePermit>, Failure> {
        let turns = self.turns.of(&key.to_string());
        loop {
            if self.in_use.makes(key) {
                let message = format!("an archive is being written to {key}, which is new");
                return Err(Failure::new(Reason::CreateFailed, message));
            }
            let turn = Arc::clone(&turns).acquire_owned();
            if let Ok(turn) = tokio::time::timeout(TURN_LOOK, turn).await {
                return Ok(turn.ok());
            }
        }
    }

    /// Containers for which volumes of images are on the disk, as far as it can be read.
    pub(crate) async fn of_images(&self) -> BTreeSet<ContainerId> {
        let shelf = Arc::clone(&self.shelf);
        let listed = tokio::task::spawn_blocking(move || shelf.of_images()).await;
        listed.unwrap_or_default()
    }

    /// Whether a container with volumes of its image was launched since the agent began, so that it
    /// was not forgotten.
    pub(crate) fn was_launched(&self, id: ContainerId) -> bool {
        lock(&self.launched).contains(&id)
    }

    /// Removes the volumes that its images gave a container, of which no instance is left.
    pub(crate) async fn remove_of_images(&self, id: ContainerId) -> io::Result<()> {
        let shelf = Arc::clone(&self.shelf);
        let removed = tokio::task::spawn_blocking(move || shelf.remove_of_images(id)).await;
        removed.unwrap_or_else(|error| Err(io::Error::other(error)))?;
        lock(&self.launched).remove(&id);
        Ok(())
    }
}

impl LockedVolumes {
    /// Whether every volume is there.
    pub(crate) fn are_present(&self) -> bool {
        self.absent.is_empty()
    }

    /// Fills those that are absent, with what the image of this name and with this root directory
    /// has at their paths. Blocks.
    ///
    /// # Errors
    /// [`Reason::DiskFull`]; [`Reason::MountFailed`] where the image has something else than a
    /// directory; [`Reason::LimitRefused`]; [`Reason::CreateFailed`].
    pub(crate) fn fill(self, image: &OwnedFd, name: &str) -> Result<FilledVolumes, Failure> {
        let mut copied = Vec::new();
        for (key, WantedVolume { path, size, .. }) in &self.absent {
            let begun = Instant::now();
            let filled = self.shelf.fill(key, *size, (image, path));
            let filled = filled.map_err(|error| unmade(key, path, &error))?;
            let CopiedFiles {
                files,
                bytes,
                left_out,
            } = filled.unwrap_or_default();
            if left_out > 0 {
                tracing::warn!(%key, devices = left_out, "devices of an image left out of a volume");
            }
            let instance = self.instance;
            tracing::info!(%key, %instance, path, files, bytes, took = ?begun.elapsed(), "volume filled");
            copied.push((key.clone(), filled));
        }
        Ok(FilledVolumes {
            held: self,
            image: name.to_owned(),
            copied,
        })
    }
}

impl FilledVolumes {
    /// Puts them in their places. Only where the image was whole to the end of the copy.
    pub(crate) async fn put(self) -> Result<(), Failure> {
        let put = tokio::task::spawn_blocking(move || {
            for (key, copied) in &self.copied {
                let image = copied.is_some().then(|| self.image.clone());
                let put = self.held.shelf.put(key, image);
                put.map_err(|error| {
                    let message = format!("{key} cannot be put in its place: {error}");
                    Failure::new(Reason::CreateFailed, message)
                })?;
            }
            Ok(())
        });
        put.await.unwrap_or_else(|error| {
            let message = format!("volumes cannot be made: {error}");
            Err(Failure::new(Reason::CreateFailed, message))
        })
    }
}

/// Wanted volumes that were never made.
fn absent(shelf: &Shelf, wanted: Wanted) -> Result<Wanted, Failure> {
    let mut absent = Wanted::new();
    for (key, volume) in wanted {
        let presence = shelf.noted(&key).map_err(|error| {
            let message = format!("{key} cannot be looked at: {error}; check its disk");
            Failure::new(Reason::CreateFailed, message)
        })?;
        match presence {
            VolumePresence::Present => {
                if let Some(size) = volume.size {
                    let bound = quota::bound(&shelf.data(&key), size, Occasion::Launch);
                    bound.map_err(|fault| sizes::refused(&key, &fault))?;
                }
            }
            VolumePresence::Absent if !volume.had_before => drop(absent.insert(key, volume)),
            VolumePresence::Absent | VolumePresence::Missing => {
                let (place, note) = (shelf.data(&key), shelf.note_path(&key));
                let message = format!(
                    "{key} was made once and is not at {}; mount its disk. To begin anew, remove {}, \
                     and change a variable of the container, which makes it anew",
                    place.display(),
                    note.display()
                );
                return Err(Failure::new(Reason::VolumeMissing, message));
            }
        }
    }
    Ok(absent)
}

fn unmade(key: &VolumeKey, path: &str, error: &io::Error) -> Failure {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    if let Some(fault) = inner {
        return sizes::refused(key, fault);
    }
    let (reason, fault) = match Errno::from_io_error(error) {
        Some(Errno::NOTDIR) => (Reason::MountFailed, "that is no directory".to_owned()),
        Some(Errno::LOOP) => (Reason::MountFailed, "that is a link to itself".to_owned()),
        Some(Errno::NOSPC | Errno::DQUOT) => (Reason::DiskFull, error.to_string()),
        _ if error.kind() == io::ErrorKind::StorageFull => (Reason::DiskFull, error.to_string()),
        _ => (Reason::CreateFailed, error.to_string()),
    };
    let message = format!("{key} cannot be made with what the image has at {path}: {fault}");
    Failure::new(reason, message)
}

#[cfg(test)]
mod tests;
