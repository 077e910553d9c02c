//! Taking away what belongs to no container: instances without a record, logs, images, and what the network finds.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use state::desired::Record;
use state::id::ContainerId;

use super::Containerd;
use crate::logs;
use crate::runtime::{RuntimeError, StopOrder, Swept};

impl Containerd {
    pub(super) async fn clear_leftovers(&self, wanted: &[Record]) -> Result<Swept, RuntimeError> {
        let mut swept = Swept::default();
        let orphans = std::mem::take(&mut *self.orphans.lock().unwrap_or_else(PoisonError::into_inner));
        for orphan in orphans.into_iter().filter(|orphan| wanted.iter().all(|record| record.id != orphan.id)) {
            self.take_away(orphan, &StopOrder { signal: None, grace: Duration::ZERO }).await?;
            swept.removed.insert(format!("what was left of {orphan}"));
        }
        let attached: Vec<_> = wanted.iter().map(|r| (r.instance(), r.name.clone(), r.assignment.clone())).collect();
        swept.removed.extend(self.network.settle(&attached).await?);
        let images: Vec<_> = wanted.iter().map(|r| (r.spec.image.clone(), r.image_digest.clone())).collect();
        swept.removed.extend(self.images.sweep(&images).await?);
        self.sweep_logs(wanted, &mut swept).await;
        Ok(swept)
    }

    async fn sweep_logs(&self, wanted: &[Record], swept: &mut Swept) {
        let ids: BTreeSet<ContainerId> = wanted.iter().map(|record| record.id).collect();
        let directory = self.config.logs_dir.clone();
        let stored = tokio::task::spawn_blocking(move || logs::stored(&directory)).await;
        let Ok(Ok(stored)) = stored else { return };
        for id in stored.into_iter().filter(|id| !ids.contains(id)) {
            match logs::remove(&logs::directory(&self.config.logs_dir, id)).await {
                Ok(()) => drop(swept.removed.insert(format!("the logs of {id}"))),
                Err(error) => tracing::warn!(%id, %error, "its logs cannot be removed"),
            }
        }
    }
}
