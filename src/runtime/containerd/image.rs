//! Images on the node: brought there, looked up, and taken away again. What a container makes of one is left to `task`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use state::failure::Failure;
use state::reason::Reason;
use state::reference::ImageReference;
use state::spec::ImagePull;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::fetch::Fetch;
use self::flight::Flights;
pub use self::local::LocalImage;
use self::platform::Platform;
use super::client::Client;
use super::durable::Durable;
use super::lease::{self, Lease};
use super::unpack;
use crate::oci::descriptor::Descriptor;
use crate::registry::{InvalidRegistryConfig, Registry, RegistryConfig};
use crate::runtime::{PullProgress, RuntimeError};

mod fetch;
mod flight;
mod local;
mod manifest;
mod patience;
mod platform;
mod pull;
mod record;
mod sweep;

/// Images remembered: more than a node runs. A forgotten one costs three small reads.
const REMEMBERED_MAX: usize = 128;

/// Digests asked for within a sweep's time of grace; beyond that a sweep may take one that has to be pulled again.
const ASKED_MAX: usize = 4096;

/// The images of one containerd namespace. Clones share everything.
#[derive(Clone, Debug)]
pub struct Images(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    config: RegistryConfig,
    registry: Registry,
    host: Platform,
    durable: Durable,
    flights: Flights,
    slots: Semaphore,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    /// By root digest.
    images: HashMap<String, Arc<LocalImage>>,
    /// When a digest was last asked for; what a sweep leaves alone for a while.
    asked: HashMap<String, Instant>,
    /// The tags of leases whose pulls are under way.
    pulling: Vec<String>,
}

impl Images {
    /// The images of the namespace that `client` is about, fetched as `config` says. Connects to nobody yet.
    ///
    /// # Errors
    /// When the configured certificates cannot be used.
    pub fn new(client: Client, config: RegistryConfig) -> Result<Self, InvalidRegistryConfig> {
        Ok(Self(Arc::new(Inner {
            registry: Registry::new(&config)?,
            slots: Semaphore::new(config.pulls_max.max(1)),
            host: Platform::host(),
            durable: Durable::default(),
            flights: Flights::default(),
            memory: Mutex::default(),
            client,
            config,
        })))
    }

    /// Makes sure the image is on the node, complete and unpacked, and answers the digest of the manifest or index that
    /// the reference stands for.
    ///
    /// With `if-not-present` an image that is there costs a few calls to containerd and no network. With `always` the
    /// tag is looked up again; what is there is not fetched again. With `never` an image whose blobs were imported is
    /// unpacked if need be. A pinned reference cannot move, so `always` is then the same as `if-not-present`.
    ///
    /// # Errors
    /// [`RuntimeError::Cancelled`] at once when `cancel` is; what was fetched is kept for a day. Otherwise
    /// [`RuntimeError::Failed`] after what may pass was tried again several times.
    pub async fn ensure(
        &self,
        reference: &ImageReference,
        pull: ImagePull,
        progress: &PullProgress,
        cancel: &CancellationToken,
    ) -> Result<String, RuntimeError> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(RuntimeError::Cancelled),
            digest = Box::pin(self.0.ensure(reference, pull, progress)) => {
                let digest = digest?;
                self.0.note(&digest);
                Ok(digest)
            }
        }
    }

    /// What a container of this image is made from, from what is on the node only.
    ///
    /// Remembered by digest: a remembered image is answered without asking containerd, so call [`Self::forget`] when its
    /// snapshot turns out to be gone.
    ///
    /// # Errors
    /// [`RuntimeError::ImageLost`] when its record, manifest, configuration or topmost snapshot is missing or damaged.
    pub async fn local(
        &self,
        reference: &ImageReference,
        digest: &str,
    ) -> Result<Arc<LocalImage>, RuntimeError> {
        if let Some(image) = self.0.remembered(digest) {
            return Ok(image);
        }
        let lost = |what: &str| {
            RuntimeError::ImageLost(format!("{what} of {reference} ({digest}) is gone"))
        };
        let recorded = self.0.recorded(reference, Some(digest)).await?;
        recorded
            .filter(|target| target.digest == digest)
            .ok_or_else(|| lost("the record"))?;
        let image = local::look(&self.0.client, digest, &self.0.host).await?;
        Ok(self.0.remember(image.ok_or_else(|| lost("a part"))?))
    }

    /// Forgets an image, so that the next look at it is a real one.
    pub fn forget(&self, digest: &str) {
        self.0.memory().images.remove(digest);
    }
}

fn pull_key(name: &str) -> String {
    format!("image {name}")
}

/// Takes a pull's mark away when it ends in any way.
struct Pulling<'a>(&'a Inner, String);

impl Drop for Pulling<'_> {
    fn drop(&mut self) {
        self.0.memory().pulling.retain(|tag| *tag != self.1);
    }
}

impl Inner {
    async fn ensure(
        &self,
        reference: &ImageReference,
        pull: ImagePull,
        progress: &PullProgress,
    ) -> Result<String, RuntimeError> {
        let moves = pull == ImagePull::Always && reference.digest().is_none();
        if !moves && let Some(digest) = self.ready(reference).await? {
            return Ok(digest);
        }
        let name = reference.to_string();
        let _alone = self.flights.enter(&pull_key(&name)).await;
        if !moves && let Some(digest) = self.ready(reference).await? {
            return Ok(digest);
        }
        let _slot = self.slots.acquire().await;
        let pulling = Pulling(self, lease::tag(&name));
        self.memory().pulling.push(pulling.1.clone());

        let lease = Lease::open(&self.client, &name, SystemTime::now()).await?;
        let fetch = Fetch {
            registry: (pull != ImagePull::Never).then_some(&self.registry),
            config: &self.config,
            flights: &self.flights,
            image: reference,
            lease: &lease,
            progress,
        };
        let image = self.pull(&fetch, moves).await?;
        lease.close().await?;
        let digest = image.digest.clone();
        self.remember(image);
        Ok(digest)
    }

    async fn pull(&self, fetch: &Fetch<'_>, moves: bool) -> Result<LocalImage, RuntimeError> {
        let run = |version: String| async move {
            pull::run(fetch, &self.durable, &self.host, &version).await
        };
        if let Some(digest) = fetch.image.digest() {
            return run(digest.to_owned()).await;
        }
        let tag = fetch.image.tag().unwrap_or("latest");
        if !moves && let Some(target) = self.recorded(fetch.image, None).await? {
            // Half of it is there: completed as what it was, even if the tag has moved on meanwhile.
            match run(target.digest).await {
                Err(RuntimeError::Failed(Failure {
                    reason: Reason::ImageNotFound | Reason::ImageBlobMissing,
                    ..
                })) => {}
                other => return other,
            }
        }
        let digest = fetch.resolve(tag).await?;
        run(digest.unwrap_or_else(|| tag.to_owned())).await
    }

    /// What the reference is recorded as; with a digest, the record that never moves comes first.
    async fn recorded(
        &self,
        reference: &ImageReference,
        digest: Option<&str>,
    ) -> Result<Option<Descriptor>, RuntimeError> {
        if let Some(digest) = digest.or(reference.digest()) {
            let fixed = record::get(&self.client, &record::fixed_name(reference, digest)).await?;
            if fixed.is_some() {
                return Ok(fixed);
            }
        }
        let found = record::get(&self.client, &reference.to_string()).await?;
        Ok(found.filter(|target| {
            reference
                .digest()
                .is_none_or(|digest| digest == target.digest)
        }))
    }

    /// The digest, if the image is recorded, complete and unpacked.
    async fn ready(&self, reference: &ImageReference) -> Result<Option<String>, RuntimeError> {
        let Some(target) = self.recorded(reference, None).await? else {
            return Ok(None);
        };
        let image = match self.remembered(&target.digest) {
            Some(image) if unpack::exists(&self.client, &image.top_chain_id).await? => image,
            _ => match local::look(&self.client, &target.digest, &self.host).await? {
                Some(image) => self.remember(image),
                None => return Ok(None),
            },
        };
        let fixed = record::fixed_name(reference, &image.digest);
        if record::get(&self.client, &fixed).await?.is_none() {
            record::put(&self.client, &fixed, &target).await?;
        }
        Ok(Some(image.digest.clone()))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self, digest: &str) -> Option<Arc<LocalImage>> {
        self.memory().images.get(digest).cloned()
    }

    fn remember(&self, mut image: LocalImage) -> Arc<LocalImage> {
        // The longest part by far, and of no use to a container.
        image.config.set_history(None);
        let image = Arc::new(image);
        let mut memory = self.memory();
        if memory.images.len() >= REMEMBERED_MAX {
            memory.images.clear();
        }
        memory
            .images
            .insert(image.digest.clone(), Arc::clone(&image));
        image
    }

    fn note(&self, digest: &str) {
        let mut memory = self.memory();
        if memory.asked.len() >= REMEMBERED_MAX {
            memory.asked.retain(|_, at| at.elapsed() < sweep::GRACE);
        }
        if memory.asked.len() >= ASKED_MAX {
            memory.asked.clear();
        }
        memory.asked.insert(digest.to_owned(), Instant::now());
    }

    fn recent(&self, digest: &str) -> bool {
        self.memory()
            .asked
            .get(digest)
            .is_some_and(|at| at.elapsed() < sweep::GRACE)
    }

    fn pulling(&self, tag: &str) -> bool {
        self.memory().pulling.iter().any(|other| other == tag)
    }
}
