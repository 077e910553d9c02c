//! Removal of images and of leases of pulls that nothing needs any more; containerd's garbage
//! collector does the rest.

use std::collections::HashSet;
use std::time::SystemTime;

use state::reference::ImageReference;

use super::flight::image_key;
use super::{Images, names};
use crate::runtime::RuntimeError;
use crate::runtime::containerd::rpc::{gc, lease};

/// Fate of images that are to be kept until later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeptImages {
    Stay,
    Go,
}

impl Images {
    /// Removes the names of images that no reference and digest in `wanted` needs, and the leases
    /// of pulls that are over for good. Answers a line for each thing removed. An image asked for
    /// shortly before is kept, and one that is to be kept until later.
    ///
    /// `None` as a digest: not pulled yet, so whatever its name leads to is kept.
    ///
    /// # Errors
    /// When containerd does not answer; what was removed before stays removed.
    pub async fn sweep(
        &self,
        wanted: &[(ImageReference, Option<String>)],
    ) -> Result<Vec<String>, RuntimeError> {
        self.swept(wanted, KeptImages::Stay).await
    }

    /// Removes all names of the agent's, also those of images that are to be kept until later.
    ///
    /// # Errors
    /// As of [`Self::sweep`].
    pub async fn sweep_all(&self) -> Result<Vec<String>, RuntimeError> {
        self.swept(&[], KeptImages::Go).await
    }

    async fn swept(
        &self,
        wanted: &[(ImageReference, Option<String>)],
        how: KeptImages,
    ) -> Result<Vec<String>, RuntimeError> {
        let client = &self.0.client;
        let mut kept = HashSet::new();
        let mut tags = HashSet::new();
        for (reference, digest) in wanted {
            let name = reference.to_string();
            tags.insert(lease::tag(&name));
            kept.insert(name);
            let digest = digest.as_deref().or(reference.digest());
            kept.extend(digest.map(|digest| names::fixed_name(reference, digest)));
        }
        let mut removed = Vec::new();
        let now = SystemTime::now();
        for found in names::all(client).await? {
            // Somebody wants it there, whoever will use it.
            let is_kept = how == KeptImages::Stay && self.0.kept.until(&found).is_some();
            let names::ImageName { name, digest, .. } = found;
            if !found.managed || is_kept {
                continue;
            }
            // A pull under way is about to want it; and one that just ended may have a container
            // that is not listed yet.
            let Some(_alone) = self.0.flights.try_enter(&image_key(&name)) else {
                continue;
            };
            if !kept.contains(&name) && !self.0.cache.is_recent(&digest) {
                names::delete(client, &name).await?;
                self.invalidate(&digest);
                removed.push(format!("image {name}"));
            }
        }
        for found in lease::list(client, None).await? {
            let idle = !self.0.cache.is_pulling(&found.tag);
            if idle && (found.expired(now) || !tags.contains(&found.tag)) {
                removed.push(lease::delete_found(client, &found).await?);
            }
        }
        if !removed.is_empty() {
            gc::collect(client).await?;
        }
        Ok(removed)
    }
}
