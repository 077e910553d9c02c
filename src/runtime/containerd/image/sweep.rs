//! Takes away the image records and pull leases that nothing needs any more; containerd's garbage collector does the rest.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use state::reference::ImageReference;

use super::{Images, record};
use crate::runtime::RuntimeError;
use crate::runtime::containerd::lease;

/// An image pulled less long ago is kept: whoever wanted it may not have been among `wanted` yet.
pub(crate) const GRACE: Duration = Duration::from_secs(600);

impl Images {
    /// Removes our image records that no reference and digest in `wanted` needs, and the leases of pulls that are over for
    /// good. Answers a line for each thing removed.
    ///
    /// `None` as a digest: not pulled yet, whatever its name leads to is kept.
    ///
    /// # Errors
    /// When containerd does not answer; what was removed before stays removed.
    pub async fn sweep(
        &self,
        wanted: &[(ImageReference, Option<String>)],
    ) -> Result<Vec<String>, RuntimeError> {
        let client = &self.0.client;
        let mut names = HashSet::new();
        let mut tags = HashSet::new();
        for (reference, digest) in wanted {
            let name = reference.to_string();
            tags.insert(lease::tag(&name));
            names.insert(name);
            let digest = digest.as_deref().or(reference.digest());
            names.extend(digest.map(|digest| record::fixed_name(reference, digest)));
        }
        let mut removed = Vec::new();
        for (name, digest) in record::ours(client).await? {
            // A pull under way is about to want it; and one that just ended may have a container that is not listed yet.
            let Some(_alone) = self.0.flights.try_enter(&super::pull_key(&name)) else {
                continue;
            };
            if !names.contains(&name) && !self.0.recent(&digest) {
                record::delete(client, &name).await?;
                self.forget(&digest);
                removed.push(format!("image {name}"));
            }
        }
        let now = SystemTime::now();
        for found in lease::list(client, None).await? {
            let idle = !self.0.pulling(&found.tag);
            if idle && (found.expired(now) || !tags.contains(&found.tag)) {
                removed.push(lease::drop_found(client, &found).await?);
            }
        }
        if !removed.is_empty() {
            lease::collect(client).await?;
        }
        Ok(removed)
    }
}
