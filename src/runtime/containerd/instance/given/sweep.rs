//! Values of instances that are gone, taken away.

use std::collections::BTreeSet;
use std::io;

use state::id::InstanceName;

use crate::runtime::containerd::instance::Instances;

impl Instances {
    /// Takes the values of an instance away that is gone.
    pub(in crate::runtime::containerd::instance) async fn take_values(
        &self,
        instance: InstanceName,
    ) {
        let memory = self.config.values.memory.clone();
        let taking = tokio::task::spawn_blocking(move || memory.remove(instance));
        match taking.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%instance, %error, "secret values not removed"),
            Err(error) => tracing::warn!(%instance, %error, "secret values not removed"),
        }
    }

    /// Takes away the values of instances without a container. Answers what was removed, in words.
    pub(crate) async fn sweep_values(&self) -> Vec<String> {
        // Before the containers: values come after their container, and go after it.
        let memory = self.config.values.memory.clone();
        let listed = tokio::task::spawn_blocking(move || memory.listed()).await;
        let listed = listed.map_err(io::Error::other).flatten();
        let listed = listed.unwrap_or_default();
        if listed.is_empty() {
            return Vec::new();
        }
        let Ok(existing) = self.existing().await else {
            return Vec::new();
        };
        let existing: BTreeSet<_> = existing.into_iter().map(|(name, _)| name).collect();
        let mut removed = Vec::new();
        for instance in listed {
            // One that was made meanwhile has them by right.
            if !existing.contains(&instance) && matches!(self.find(instance).await, Ok(None)) {
                self.take_values(instance).await;
                removed.push(format!("secret values of {instance}"));
            }
        }
        removed
    }
}
