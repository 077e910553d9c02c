//! Images as containerd lists them, kept for a while, and removed by order.

use std::collections::BTreeMap;
use std::time::SystemTime;

use state::id::ContainerName;
use state::reason::Reason;
use state::reference::ImageReference;

use super::flight::image_key;
use super::{Images, local, names};
use crate::runtime::containerd::rpc::{containers, gc, labels};
use crate::runtime::{RuntimeError, StoredImage};

/// Images whose manifests are read for their sizes: more than a node has.
const SIZED_MAX: usize = 500;
/// Causes for which an image is left, beside its users.
const PULLED: &str = "is being pulled; try again when that is over";
const CHANGED: &str = "has other names than before, and is left alone; look at it and try again";

impl Images {
    /// Every image of the namespace, by its digest.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub(crate) async fn stored(&self) -> Result<Vec<StoredImage>, RuntimeError> {
        let mut images: Vec<_> = self.found().await?.into_values().collect();
        for image in images.iter_mut().take(SIZED_MAX) {
            let size = local::packed_bytes(&self.0.client, &image.digest, &self.0.host).await;
            image.packed_bytes = match size {
                Ok(bytes) => bytes,
                Err(RuntimeError::Unavailable(message)) => {
                    return Err(RuntimeError::Unavailable(message));
                }
                // One that is not for this machine is listed all the same.
                Err(
                    RuntimeError::Failed(_) | RuntimeError::ImageLost(_) | RuntimeError::Cancelled,
                ) => None,
            };
        }
        Ok(images)
    }

    /// Keeps an image that was fetched from the sweep of images that nothing uses.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub(crate) async fn keep(
        &self,
        reference: &ImageReference,
        digest: &str,
        until: SystemTime,
    ) -> Result<(), RuntimeError> {
        for name in [reference.to_string(), names::fixed_name(reference, digest)] {
            names::keep(&self.0.client, &name, digest, until).await?;
        }
        Ok(())
    }

    /// Removes the names of an image; its content goes with the next collection. Answers the cause
    /// for which it is left, in a phrase without a subject; `None`: it is gone. `obstacle` judges
    /// the image as it is once no pull can change it any more.
    ///
    /// # Errors
    /// When containerd does not answer; what was removed before stays removed.
    pub(crate) async fn discard(
        &self,
        digest: &str,
        names: &[String],
        obstacle: &(dyn Fn(StoredImage) -> Option<String> + Send + Sync),
    ) -> Result<Option<String>, RuntimeError> {
        let mut alone = Vec::new();
        for name in names {
            let Some(guard) = self.0.flights.try_enter(&image_key(name)) else {
                return Ok(Some(PULLED.to_owned()));
            };
            alone.push(guard);
        }
        // A pull may have moved a name since the caller looked, or given the image another one.
        let now = self.found().await?.remove(digest);
        let Some(now) = now.filter(|now| now.names == names) else {
            return Ok(Some(CHANGED.to_owned()));
        };
        if let Some(why) = obstacle(now) {
            return Ok(Some(why));
        }
        // Whoever asked may not wait to the end.
        self.invalidate(digest);
        for name in names {
            names::delete(&self.0.client, name).await?;
        }
        self.invalidate(digest);
        drop(alone);
        Ok(None)
    }

    /// Has containerd remove the content that no name keeps any more.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub(crate) async fn collect(&self) -> Result<(), RuntimeError> {
        gc::collect(&self.0.client).await
    }

    /// Every image by its digest, without its size.
    async fn found(&self) -> Result<BTreeMap<String, StoredImage>, RuntimeError> {
        let mut found: BTreeMap<String, StoredImage> = BTreeMap::new();
        for named in names::all(&self.0.client).await? {
            let kept_until = self.0.kept.until(&named);
            let image = found
                .entry(named.digest.clone())
                .or_insert_with(|| StoredImage {
                    digest: named.digest,
                    managed: true,
                    ..StoredImage::default()
                });
            image.managed &= named.managed;
            image.names.push(named.name);
            image.created = match (image.created, named.created) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            image.kept_until = image.kept_until.max(kept_until);
        }
        found.values_mut().for_each(|image| image.names.sort());
        let made = containers::list(&self.0.client, Some(labels::managed_filter())).await;
        let made =
            made.map_err(|error| error.into_error(Reason::CreateFailed, "list containers"))?;
        for container in made {
            let digest = container.labels.get(labels::IMAGE_DIGEST);
            let Some(image) = digest.and_then(|digest| found.get_mut(digest)) else {
                continue;
            };
            let name = labels::record(&container.labels).map(|record| record.name);
            image
                .made
                .extend(name.or_else(|| container.id.parse::<ContainerName>().ok()));
        }
        Ok(found)
    }
}
