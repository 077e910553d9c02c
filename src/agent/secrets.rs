//! The key of secrets: taken in at the start, and watched as long as a value needs another.

use std::sync::Arc;
use std::time::SystemTime;

use state::alarm::Alarm;
use state::blobs::Blobs;
use state::seal::NodeKey;
use state::store::Store;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::journal::Journal;
use crate::node::file_alarms;
use crate::runtime::containerd::ValueSources;
use crate::secrets::{SecretMemory, key};

/// Has the store seal values with the node's key.
pub(super) async fn take_key(config: &Config, store: &Arc<Store>) -> anyhow::Result<()> {
    let (config, store) = (config.clone(), Arc::clone(store));
    Ok(tokio::task::spawn_blocking(move || take(&config, &store)).await?)
}

/// Sources of containers' values, opened with the key that the store has.
pub(super) fn sources(config: &Config, store: &Store) -> ValueSources {
    ValueSources {
        key: store.key(),
        blobs: Blobs::of(&config.state.dir),
        memory: SecretMemory::new(&config.state.run_dir),
    }
}

/// Reads the key. One is made only where no stored value was sealed with another.
fn take(config: &Config, store: &Store) {
    let named = config.secrets.key_file.clone();
    let made = config.state.secrets_key();
    let key = key::read(
        named.as_ref().unwrap_or(&made),
        named.is_none() && is_first(store),
    );
    match store.set_key(key) {
        Ok(0) => {}
        Ok(containers) => tracing::info!(containers, "stored environment sealed"),
        Err(error) => tracing::warn!(%error, "stored environment not sealed, retrying"),
    }
}

/// Whether no value can be stored that is sealed with a key.
fn is_first(store: &Store) -> bool {
    let desired = store.desired();
    let is_rebuilt = desired.adoption().is_some_and(|adoption| !adoption.is_new);
    !desired.is_unknown()
        && !is_rebuilt
        && desired.unreadable_contents() == 0
        && desired.marks().secrets().is_empty()
        && other_key(store, None).is_none()
}

/// Raises the alarm of a key that is not there, or that opens not all that is stored, and clears it.
/// A key that was not there is read again; and contents that nothing uses are removed.
pub(super) fn follow(
    config: &Config,
    store: Arc<Store>,
    journal: &Journal,
    stop: &CancellationToken,
    tracker: &TaskTracker,
) {
    let interval = config.monitoring.health_interval;
    let config = config.clone();
    let look = move || {
        if matches!(store.key().get(), Some(NodeKey::Missing(_))) {
            take(&config, &store);
        }
        match store.sweep_blobs(SystemTime::now()) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "unused contents removed"),
            Err(error) => tracing::warn!(%error, "unused contents not removed"),
        }
        faults(&store)
    };
    let alarm = Alarm::SecretsKeyUnusable;
    let following = file_alarms::follow(alarm, look, interval, journal.clone());
    let stop = stop.clone();
    tracker.spawn(async move { stop.run_until_cancelled(following).await });
}

fn faults(store: &Store) -> Vec<String> {
    match store.key().get() {
        None => Vec::new(),
        Some(NodeKey::Missing(why)) => vec![format!(
            "{why}; until then no container with values is taken in or started"
        )],
        Some(NodeKey::Present(sealer)) => {
            let other = other_key(store, Some(sealer.name()));
            let told = other.map(|(container, sealed_with)| {
                format!(
                    "values, as of {container}, are sealed with the key {sealed_with}, and the \
                     node's key is {}",
                    sealer.name()
                )
            });
            told.into_iter().collect()
        }
    }
}

/// A container with a value that is sealed with another key than this one, and the name of that.
fn other_key(store: &Store, own: Option<&str>) -> Option<(String, String)> {
    let desired = store.desired();
    desired.records().find_map(|record| {
        let values = record.spec.sealed_environment.values();
        let mut names = values.map(state::seal::Sealed::key_name);
        let other = names.find(|name| Some(*name) != own)?;
        Some((record.name.to_string(), other.to_owned()))
    })
}
