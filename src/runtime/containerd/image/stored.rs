//! Images as containerd lists them, kept for a while, and removed by order.

use std::collections::BTreeMap;
use std::time::SystemTime;

use state::reference::ImageReference;

use super::flight::image_key;
use super::{Images, local, names};
use crate::runtime::containerd::rpc::gc;
use crate::runtime::{RuntimeError, StoredImage};

/// Images whose manifests are read for their sizes: more than a node has.
const SIZED_MAX: usize = 500;

impl Images {
    /// Every image of the namespace, by its digest.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub(crate) async fn stored(&self) -> Result<Vec<StoredImage>, RuntimeError> {
        let mut found: BTreeMap<String, StoredImage> = BTreeMap::new();
        for named in names::all(&self.0.client).await? {
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
            image.kept_until = image.kept_until.max(named.kept_until);
        }
        let mut images: Vec<_> = found.into_values().collect();
        for image in images.iter_mut().take(SIZED_MAX) {
            image.names.sort();
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

    /// Removes the names of an image, and with the last one its content. Answers whether that was done:
    /// a pull under way keeps it.
    ///
    /// # Errors
    /// When containerd does not answer; what was removed before stays removed.
    pub(crate) async fn discard(
        &self,
        digest: &str,
        names: &[String],
    ) -> Result<bool, RuntimeError> {
        for name in names {
            let Some(_alone) = self.0.flights.try_enter(&image_key(name)) else {
                return Ok(false);
            };
            names::delete(&self.0.client, name).await?;
        }
        self.invalidate(digest);
        gc::collect(&self.0.client).await?;
        Ok(true)
    }
}
