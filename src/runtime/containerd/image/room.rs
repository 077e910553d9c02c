//! Room on the disks that pulls write to: a part of each is left free for everybody else. A pull
//! neither begins nor goes on below it.
//!
//! Nor is an image fetched again and again for which there is no room: what it took until it was
//! ended, it takes at least.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use state::reason::Reason;
use tokio::sync::{OnceCell, Semaphore};

use super::durable::DiskSyncs;
use super::reserve::{DiskReserve, DiskRoom};
use super::share::{DiskLack, PullShare};
use super::shares::{PullShares, PullSize, PulledDisks};
use crate::lock::lock;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::rpc::client::{CallError, ContainerdClient};
use crate::runtime::containerd::rpc::{plugins, snapshots};

/// Time for a look at a disk. One that hangs is not known to be full: the pull goes on, and meets
/// the disk itself.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Images that are remembered as too large, and those for which there was no room.
const REFUSED_MAX: usize = 256;

/// Time to count what a pull took that goes on, and may be the one that fills the disk.
const COUNT_TIMEOUT: Duration = Duration::from_secs(1);

/// The same for one that ended and is compared with none: no other ends meanwhile.
const COUNT_ENDED_TIMEOUT: Duration = Duration::from_secs(5);

/// Room that images may take, as it is configured.
#[derive(Clone, Copy, Debug)]
pub struct RoomConfig {
    /// Most bytes that one image may take on the disk, unpacked.
    pub image_bytes_max: u64,
    /// Part of the disk that pulls leave free.
    pub reserve: DiskReserve,
}

impl RoomConfig {
    /// Bytes that one image may take where nothing is configured: several times the largest that
    /// are run in earnest.
    pub const IMAGE_BYTES_MAX: u64 = 64 << 30;
}

impl Default for RoomConfig {
    fn default() -> Self {
        Self {
            image_bytes_max: Self::IMAGE_BYTES_MAX,
            reserve: DiskReserve::Usual,
        }
    }
}

/// Room for the pulls of a node.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) config: RoomConfig,
    dirs: OnceCell<ImageDirs>,
    /// Turn to look: one look that hangs takes a thread, and no second.
    looking: Arc<Semaphore>,
    /// Reasons for which images are too large, by the digest of the manifest: neither changes.
    refused: Mutex<BTreeMap<String, String>>,
    /// Pulls under way.
    pub(crate) pulls: PullShares,
    /// Least bytes of images that were ended for want of room, by the digest of the manifest.
    needs: Mutex<BTreeMap<String, LayerSizes>>,
    /// Syncs of what was unpacked.
    pub(crate) syncs: DiskSyncs,
}

/// Bytes that layers take at least once they are unpacked, by chain id: they never change.
pub(crate) type LayerSizes = BTreeMap<String, u64>;

/// Directories of containerd that are seen from here.
#[derive(Clone, Debug, Default)]
struct ImageDirs {
    content: Option<PathBuf>,
    snapshots: Option<PathBuf>,
}

impl Room {
    /// Room as it is configured.
    pub(crate) fn new(config: RoomConfig) -> Self {
        Self {
            config,
            dirs: OnceCell::new(),
            looking: Arc::new(Semaphore::new(1)),
            refused: Mutex::default(),
            pulls: PullShares::default(),
            needs: Mutex::default(),
            syncs: DiskSyncs::default(),
        }
    }

    /// Directory of the unpacked layers. `None`: it is not seen from here.
    pub(crate) async fn snapshots_dir(&self, client: &ContainerdClient) -> Option<PathBuf> {
        self.dirs(client).await.snapshots
    }

    /// Checks that there is more room than the reserve, beside `more` bytes.
    ///
    /// # Errors
    /// [`Reason::DiskFull`].
    pub(crate) async fn check(
        &self,
        client: &ContainerdClient,
        more: PullSize,
    ) -> Result<(), RuntimeError> {
        let dirs = self.dirs(client).await;
        match self.judge(&dirs, more).await {
            (Some(lack), _) => Err(RuntimeError::failed(Reason::DiskFull, lack.text)),
            (None, _) => Ok(()),
        }
    }

    /// Lack of room in words. `None`: there is more than the reserve, or nobody can tell.
    pub(crate) async fn lack(&self, client: &ContainerdClient) -> Option<String> {
        let dirs = self.dirs(client).await;
        let (lack, _) = self.judge(&dirs, PullSize::default()).await;
        lack.map(|lack| lack.text)
    }

    /// Answers once there is less room than the reserve, and this pull is the one that is ended for
    /// it; looks the more often the nearer that is.
    pub(crate) async fn ended(&self, client: &ContainerdClient, pull: &PullShare) -> RuntimeError {
        let dirs = self.dirs(client).await;
        let room = self;
        let disks = ImageDisks { room, client, dirs };
        let lack = self.pulls.ended(pull, &disks).await;
        RuntimeError::failed(Reason::DiskFull, lack.text)
    }

    /// Counts what an ended pull took, unless that was done to choose it: each moment until it gives
    /// its room back may end another.
    pub(crate) async fn count_ended(&self, client: &ContainerdClient, pull: &PullShare) {
        if pull.is_weighed() {
            return;
        }
        let counted = tokio::time::timeout(COUNT_ENDED_TIMEOUT, count(client, pull));
        if counted.await.is_err() {
            tracing::debug!("files of an ended pull not counted in time");
        }
    }

    /// Remembers what layers an image took until it was ended.
    pub(crate) fn remember(&self, digest: &str, took: LayerSizes) {
        let mut needs = lock(&self.needs);
        if needs.len() >= REFUSED_MAX {
            needs.clear();
        }
        let known = needs.entry(digest.to_owned()).or_default();
        for (chain_id, bytes) in took {
            let least = known.entry(chain_id).or_default();
            *least = bytes.max(*least);
        }
    }

    /// Layers of which it is known how much they take at least; `None`: the image was not ended.
    pub(crate) fn remembered(&self, digest: &str) -> Option<LayerSizes> {
        lock(&self.needs).get(digest).cloned()
    }

    /// Forgets what a complete image took.
    pub(crate) fn forget(&self, digest: &str) {
        lock(&self.needs).remove(digest);
    }

    /// Free bytes where layers are unpacked. `None`: nobody can tell.
    pub(crate) async fn free_bytes(&self, client: &ContainerdClient) -> Option<u64> {
        let dir = self.snapshots_dir(client).await?;
        let looked = self.look(vec![dir]).await?;
        looked.first().map(|(_, disk)| disk.free_bytes)
    }

    /// Remembers that an image is too large, and why.
    pub(crate) fn refuse(&self, digest: &str, why: &str) {
        let mut refused = lock(&self.refused);
        if refused.len() >= REFUSED_MAX {
            refused.clear();
        }
        refused.insert(digest.to_owned(), why.to_owned());
    }

    /// Error of an image that was found too large before.
    pub(crate) fn refused(&self, digest: &str) -> Option<RuntimeError> {
        let why = lock(&self.refused).get(digest).cloned()?;
        Some(RuntimeError::failed(Reason::ImageTooLarge, why))
    }

    async fn dirs(&self, client: &ContainerdClient) -> ImageDirs {
        match self.dirs.get_or_try_init(|| self.find(client)).await {
            Ok(dirs) => dirs.clone(),
            Err(error) => {
                tracing::debug!(%error, "directories of containerd not known yet");
                ImageDirs::default()
            }
        }
    }

    async fn find(&self, client: &ContainerdClient) -> Result<ImageDirs, RuntimeError> {
        let told =
            |error: CallError| error.into_error(Reason::CreateFailed, "name its directories");
        let content = plugins::content_dir(client).await.map_err(told)?;
        let snapshots = plugins::snapshots_dir(client).await.map_err(told)?;
        let all = content.iter().chain(&snapshots).cloned().collect();
        let seen = self.look(all).await.ok_or_else(|| {
            RuntimeError::Unavailable("the disk of its images does not answer".to_owned())
        })?;
        let is_seen = |dir: &PathBuf| seen.iter().any(|(path, _)| path == dir);
        let dirs = ImageDirs {
            content: content.filter(is_seen),
            snapshots: snapshots.filter(is_seen),
        };
        if dirs.snapshots.is_none() {
            tracing::debug!("directory of containerd not visible; unpacked images are not synced");
        }
        Ok(dirs)
    }

    /// Lack of room, and the time after which to look again.
    async fn judge(&self, dirs: &ImageDirs, more: PullSize) -> (Option<DiskLack>, Duration) {
        let blobs = dirs.content.clone().into_iter();
        let all = blobs.chain(dirs.snapshots.clone()).collect();
        let mut pause = DiskReserve::PAUSE_MAX;
        let seen: Vec<_> = self.look(all).await.unwrap_or_default();
        let is_one = matches!(&seen[..], [(_, one), (_, other)] if one.is_same_as(other));
        for (dir, disk) in seen {
            let more = if is_one {
                more.blobs.saturating_add(more.files)
            } else if dirs.content.as_ref() == Some(&dir) {
                more.blobs
            } else {
                more.files
            };
            if let Some(lack) = self.config.reserve.lack(&dir, disk, more) {
                return (Some(lack), pause);
            }
            pause = pause.min(self.config.reserve.pause(disk));
        }
        (None, pause)
    }

    /// Room on the disks of `dirs` that answer; `None`: one of them hangs.
    async fn look(&self, dirs: Vec<PathBuf>) -> Option<Vec<(PathBuf, DiskRoom)>> {
        let looked = tokio::time::timeout(LOOK_TIMEOUT, async {
            let turn = Arc::clone(&self.looking).acquire_owned().await.ok()?;
            let look = move || {
                let _turn = turn;
                let looked = dirs.into_iter();
                looked
                    .filter_map(|dir| DiskRoom::of(&dir).map(|disk| (dir, disk)))
                    .collect()
            };
            tokio::task::spawn_blocking(look).await.ok()
        });
        let looked = looked.await.ok().flatten();
        if looked.is_none() {
            tracing::debug!("disk of the images not looked at in time");
        }
        looked
    }
}

/// Counts the layers that a pull unpacks. What cannot be counted stays at what it was.
async fn count(client: &ContainerdClient, pull: &PullShare) {
    for (chain_id, scratch) in pull.unpacking() {
        let counted = match snapshots::usage(client, &scratch).await {
            // It has become complete just now.
            Err(CallError::NotFound(_)) => snapshots::usage(client, &chain_id).await,
            counted => counted,
        };
        if let Ok(bytes) = counted {
            pull.counted(&chain_id, bytes);
        }
    }
}

/// Disks of a containerd's images.
struct ImageDisks<'a> {
    room: &'a Room,
    client: &'a ContainerdClient,
    dirs: ImageDirs,
}

impl PulledDisks for ImageDisks<'_> {
    async fn lack(&self) -> (Option<DiskLack>, Duration) {
        self.room.judge(&self.dirs, PullSize::default()).await
    }

    async fn size(&self, pull: &PullShare) -> PullSize {
        let count = count(self.client, pull);
        let counted = tokio::time::timeout(COUNT_TIMEOUT, count).await;
        PullSize {
            blobs: pull.fetched_bytes(),
            // What takes so long to count is large.
            files: counted.map_or(u64::MAX, |()| pull.unpacked_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_layers_take_is_remembered_for_each_and_only_grows() {
        let room = Room::new(RoomConfig::default());
        let sizes = |sizes: &[(&str, u64)]| -> LayerSizes {
            let sizes = sizes.iter();
            sizes
                .map(|(id, bytes)| ((*id).to_owned(), *bytes))
                .collect()
        };
        assert_eq!(room.remembered("a"), None);
        room.remember("a", sizes(&[("base", 10), ("top", 1)]));
        // Another pull unpacked the base meanwhile, and then it was removed.
        room.remember("a", sizes(&[("top", 3)]));
        room.remember("a", sizes(&[("base", 4)]));
        assert_eq!(
            room.remembered("a"),
            Some(sizes(&[("base", 10), ("top", 3)]))
        );
        assert_eq!(room.remembered("b"), None);
        room.forget("a");
        assert_eq!(room.remembered("a"), None);
    }
}
