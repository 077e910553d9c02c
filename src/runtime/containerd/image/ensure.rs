//! Decision how an image comes to be on the node: it is there, or is unpacked, or is pulled.

use std::time::SystemTime;

use state::failure::Failure;
use state::policy::signers::SignatureDemand;
use state::reason::Reason;
use state::reference::ImageReference;
use state::spec::ImagePull;

use super::fetch::Fetch;
use super::flight::image_key;
use super::local::{self, LocalImage};
use super::share::PullShare;
use super::signature::SignatureCheck;
use super::{SharedImages, names, pull, unpack};
use crate::oci::descriptor::Descriptor;
use crate::runtime::containerd::rpc::lease::{self, Lease};
use crate::runtime::{PullProgress, RuntimeError};

impl SharedImages {
    pub(super) async fn ensure(
        &self,
        reference: &ImageReference,
        wanted: (ImagePull, &[SignatureDemand]),
        (share, progress): (&PullShare, &PullProgress),
    ) -> Result<String, RuntimeError> {
        let (pull, _) = wanted;
        let shown = (share, progress);
        let moves = pull == ImagePull::Always && reference.digest().is_none();
        if !moves && let Some(digest) = self.ready_as(reference, wanted, progress).await? {
            return Ok(digest);
        }
        let name = reference.to_string();
        let key = image_key(&name);
        let note = || format!("waits for another pull of {name}");
        let _alone = self.flights.turn(&key, progress, note).await;
        if !moves && let Some(digest) = self.ready_as(reference, wanted, progress).await? {
            return Ok(digest);
        }
        if pull == ImagePull::Never {
            // It asks nobody, and so waits for nobody.
            return self.fetch(reference, wanted, shown, moves).await;
        }
        let slot = self.slots.acquire(reference.registry(), progress).await;
        let fetched = Box::pin(self.fetch(reference, wanted, shown, moves));
        slot.during(progress, fetched).await
    }

    /// Digest of the image, if it is ready, and signed as is demanded.
    async fn ready_as(
        &self,
        reference: &ImageReference,
        wanted: (ImagePull, &[SignatureDemand]),
        progress: &PullProgress,
    ) -> Result<Option<String>, RuntimeError> {
        let Some(digest) = self.ready(reference).await? else {
            return Ok(None);
        };
        let signed = self.signed_here(reference, &digest, wanted, progress).await;
        match signed {
            Ok(()) => Ok(Some(digest)),
            // Its files are there, but not all of its documents: a pull brings them.
            Err(RuntimeError::ImageLost(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes sure that an image on the node is signed as is demanded.
    ///
    /// # Errors
    /// [`RuntimeError::ImageLost`]: too little of it is left to tell whether it is.
    pub(super) async fn signed(
        &self,
        reference: &ImageReference,
        digest: &str,
        wanted: (ImagePull, &[SignatureDemand]),
    ) -> Result<(), RuntimeError> {
        let progress = PullProgress::default();
        self.signed_here(reference, digest, wanted, &progress).await
    }

    async fn signed_here(
        &self,
        reference: &ImageReference,
        digest: &str,
        (pull, demands): (ImagePull, &[SignatureDemand]),
        progress: &PullProgress,
    ) -> Result<(), RuntimeError> {
        if demands.is_empty() {
            return Ok(());
        }
        let check = SignatureCheck {
            client: &self.client,
            registry: (pull != ImagePull::Never).then_some(&self.registry),
            config: &self.config,
            image: reference,
            demands,
            progress,
        };
        if check.is_noted(digest).await? {
            return Ok(());
        }
        let (digests, is_whole) = local::digests(&self.client, digest, &self.host).await?;
        match check.run(&digests).await {
            Ok(signed_by) => check.note(digest, &signed_by).await,
            // Who signed the part that is gone has signed the image, too.
            Err(RuntimeError::Failed(Failure {
                reason: Reason::PolicyDenied,
                ..
            })) if !is_whole => Err(RuntimeError::ImageLost(format!(
                "a manifest of {reference} ({digest}) is gone, and without it nobody can tell who \
                 signed the image"
            ))),
            Err(error) => Err(error),
        }
    }

    async fn fetch(
        &self,
        reference: &ImageReference,
        (pull, signatures): (ImagePull, &[SignatureDemand]),
        (share, progress): (&PullShare, &PullProgress),
        moves: bool,
    ) -> Result<String, RuntimeError> {
        let name = reference.to_string();
        let _pulling = self.cache.mark_pull(lease::tag(&name));

        let lease = Lease::open(&self.client, &name, SystemTime::now()).await?;
        let fetch = Fetch {
            registry: (pull != ImagePull::Never).then_some(&self.registry),
            config: &self.config,
            room: &self.room,
            share,
            flights: &self.flights,
            image: reference,
            signatures,
            lease: &lease,
            progress,
        };
        let image = self.pull(&fetch, moves).await?;
        lease.close().await?;
        let digest = image.digest.clone();
        self.cache.insert(image);
        Ok(digest)
    }

    async fn pull(&self, fetch: &Fetch<'_>, moves: bool) -> Result<LocalImage, RuntimeError> {
        if let Some(digest) = fetch.image.digest() {
            return self.pull_version(fetch, digest).await;
        }
        let tag = fetch.image.tag().unwrap_or("latest");
        if !moves && let Some(target) = self.named(fetch.image, None).await? {
            // An incomplete image is completed as it was, even if the tag has moved on
            // meanwhile.
            match self.pull_version(fetch, &target.digest).await {
                Err(RuntimeError::Failed(Failure {
                    reason: Reason::ImageNotFound | Reason::ImageBlobMissing,
                    ..
                })) => {}
                other => return other,
            }
        }
        let digest = fetch.resolve(tag).await?;
        self.pull_version(fetch, digest.as_deref().unwrap_or(tag))
            .await
    }

    async fn pull_version(
        &self,
        fetch: &Fetch<'_>,
        version: &str,
    ) -> Result<LocalImage, RuntimeError> {
        pull::run(fetch, &self.host, version).await
    }

    /// Manifest or index that the reference is a name of; with a digest, the name that never moves
    /// comes first.
    pub(super) async fn named(
        &self,
        reference: &ImageReference,
        digest: Option<&str>,
    ) -> Result<Option<Descriptor>, RuntimeError> {
        if let Some(digest) = digest.or(reference.digest()) {
            let fixed = names::get(&self.client, &names::fixed_name(reference, digest)).await?;
            if fixed.is_some() {
                return Ok(fixed);
            }
        }
        let found = names::get(&self.client, &reference.to_string()).await?;
        Ok(found.filter(|target| {
            reference
                .digest()
                .is_none_or(|digest| digest == target.digest)
        }))
    }

    /// Digest of the image, if it is named, complete and unpacked.
    async fn ready(&self, reference: &ImageReference) -> Result<Option<String>, RuntimeError> {
        let Some(target) = self.named(reference, None).await? else {
            return Ok(None);
        };
        let image = match self.cache.get(&target.digest) {
            Some(image) if unpack::is_unpacked(&self.client, &image.top_chain_id).await? => image,
            _ => match local::look(&self.client, &target.digest, &self.host).await? {
                Some(image) => self.cache.insert(image),
                None => return Ok(None),
            },
        };
        let fixed = names::fixed_name(reference, &image.digest);
        if names::get(&self.client, &fixed).await?.is_none() {
            names::put(&self.client, &fixed, &target).await?;
        }
        Ok(Some(image.digest.clone()))
    }
}
