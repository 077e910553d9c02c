//! Images on the node: brought there, looked up, and removed. This layer knows no instance and no
//! shim.

use std::sync::Arc;
use std::time::Duration;

use state::policy::signers::SignatureDemand;
use state::reference::ImageReference;
use state::spec::ImagePull;
use tokio_util::sync::CancellationToken;

use self::cache::ImageCache;
use self::flight::Flights;
use self::kept::KeptTimes;
pub use self::local::LocalImage;
use self::platform::Platform;
pub use self::reserve::DiskReserve;
use self::room::Room;
pub use self::room::RoomConfig;
use self::slots::PullSlots;
use super::rpc::client::ContainerdClient;
use crate::registry::{InvalidRegistryConfig, RegistryClient, RegistryConfig};
use crate::runtime::{PullProgress, RuntimeError};

mod budget;
mod cache;
mod durable;
mod ensure;
mod fetch;
mod flight;
mod kept;
mod layer;
mod local;
mod manifest;
mod names;
mod other_size;
mod patience;
mod platform;
mod pull;
mod reserve;
mod room;
mod share;
mod shares;
mod signature;
mod slots;
mod stored;
mod sweep;
mod unpack;

#[cfg(any(test, fuzzing))]
pub(crate) use manifest::parse as parse_manifest;

/// Time in which a pull that failed, or was cancelled, discards the layers that it unpacked in part.
const DISCARD_WITHIN: Duration = Duration::from_secs(2);

/// Images of one containerd namespace. Clones share everything.
#[derive(Clone, Debug)]
pub struct Images(Arc<SharedImages>);

#[derive(Debug)]
struct SharedImages {
    client: ContainerdClient,
    config: RegistryConfig,
    registry: RegistryClient,
    host: Platform,
    room: Room,
    flights: Flights,
    slots: PullSlots,
    cache: ImageCache,
    kept: KeptTimes,
}

impl Images {
    /// Images of the namespace that `client` is about, fetched as `config` says. Connects to nobody
    /// yet.
    ///
    /// # Errors
    /// When the configured certificates cannot be used.
    pub fn new(
        client: ContainerdClient,
        config: RegistryConfig,
        room: RoomConfig,
    ) -> Result<Self, InvalidRegistryConfig> {
        Ok(Self(Arc::new(SharedImages {
            registry: RegistryClient::new(&config)?,
            slots: PullSlots::new(&config),
            host: Platform::host(),
            room: Room::new(room),
            flights: Flights::default(),
            cache: ImageCache::default(),
            kept: KeptTimes::default(),
            client,
            config,
        })))
    }

    /// Faults of the files for registries as they are now, each a sentence. Blocks for what changed.
    #[must_use]
    pub fn registry_faults(&self) -> Vec<String> {
        self.0.registry.faults()
    }

    /// Lack of room for pulls on containerd's disks, in words; `None`: there is room.
    pub async fn lack_of_room(&self) -> Option<String> {
        self.0.room.lack(&self.0.client).await
    }

    /// Makes sure the image is on the node, complete and unpacked, and answers the digest of the
    /// manifest or index that the reference stands for.
    ///
    /// With `if-not-present` an image that is there costs a few calls to containerd and no network.
    /// With `always` the tag is looked up again; blobs that are there are not fetched again. With
    /// `never` an image whose blobs were imported is unpacked if need be. A pinned reference cannot
    /// move, so `always` is then the same as `if-not-present`.
    ///
    /// Where signatures are demanded, nothing of an image is unpacked that is not signed so.
    ///
    /// # Errors
    /// [`RuntimeError::Cancelled`] soon after `cancel` is; the layers that were fetched are kept for a day,
    /// and those that were unpacked in part are discarded.
    /// Otherwise [`RuntimeError::Failed`] after what may pass was tried again several times.
    pub async fn ensure(
        &self,
        reference: &ImageReference,
        (pull, signatures): (ImagePull, &[SignatureDemand]),
        progress: &PullProgress,
        cancel: &CancellationToken,
    ) -> Result<String, RuntimeError> {
        let share = self.0.room.pulls.enter();
        let ensured = self
            .0
            .ensure(reference, (pull, signatures), (&share, progress));
        let ensured = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(RuntimeError::Cancelled),
            digest = Box::pin(ensured) => digest,
        };
        match &ensured {
            Ok(digest) => self.0.cache.note_asked(digest),
            // Another layer's fault, too, leaves one in the middle.
            Err(_) => {
                let discarded = unpack::discard(&self.0.client, &share);
                // What is left after that goes with the next try, or the next sweep.
                let _ = tokio::time::timeout(DISCARD_WITHIN, discarded).await;
            }
        }
        ensured
    }

    /// Makes sure that an image on the node is signed as every demand says: by what is noted, else by
    /// its registry.
    ///
    /// # Errors
    /// [`RuntimeError::Cancelled`] at once when `cancel` is; else [`RuntimeError::Failed`], with
    /// [`Reason::PolicyDenied`] where it is not signed so; [`RuntimeError::ImageLost`] where too
    /// little of it is left to tell.
    ///
    /// [`Reason::PolicyDenied`]: state::reason::Reason::PolicyDenied
    pub async fn ensure_signed(
        &self,
        reference: &ImageReference,
        digest: &str,
        (pull, signatures): (ImagePull, &[SignatureDemand]),
        cancel: &CancellationToken,
    ) -> Result<(), RuntimeError> {
        let signed = self.0.signed(reference, digest, (pull, signatures));
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(RuntimeError::Cancelled),
            signed = Box::pin(signed) => signed,
        }
    }

    /// Image to make a container from, of what is on the node only.
    ///
    /// Cached by digest: a cached image is answered without asking containerd, so call
    /// [`Self::invalidate`] when its snapshot turns out to be gone.
    ///
    /// # Errors
    /// [`RuntimeError::ImageLost`] when its name, manifest, configuration or topmost snapshot is
    /// missing or damaged.
    pub async fn local(
        &self,
        reference: &ImageReference,
        digest: &str,
    ) -> Result<Arc<LocalImage>, RuntimeError> {
        if let Some(image) = self.0.cache.get(digest) {
            return Ok(image);
        }
        let lost = |what: &str| {
            RuntimeError::ImageLost(format!("{what} of {reference} ({digest}) is gone"))
        };
        let named = self.0.named(reference, Some(digest)).await?;
        named
            .filter(|target| target.digest == digest)
            .ok_or_else(|| lost("the name"))?;
        let image = local::look(&self.0.client, digest, &self.0.host).await?;
        Ok(self.0.cache.insert(image.ok_or_else(|| lost("a part"))?))
    }

    /// Drops an image from the cache, so that the next look at it asks containerd.
    pub fn invalidate(&self, digest: &str) {
        self.0.cache.invalidate(digest);
    }
}
