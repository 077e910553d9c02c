//! The key of secrets: taken in at the start, and watched as long as a value needs another.

use std::sync::Arc;

use state::alarm::Alarm;
use state::seal::NodeKey;
use state::store::Store;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::journal::Journal;
use crate::node::file_alarms;
use crate::secrets::key;

/// Has the store seal values with the node's key, and answers that. A key is made only where no
/// stored value was sealed with another.
pub(super) async fn take_key(config: &Config, store: &Arc<Store>) -> anyhow::Result<NodeKey> {
    let named = config.secrets.key_file.clone();
    let (made, store) = (config.state.secrets_key(), Arc::clone(store));
    let taking = tokio::task::spawn_blocking(move || {
        let desired = store.desired();
        let is_first = !desired.is_unknown() && other_key(&store, None).is_none();
        let may_make = named.is_none() && is_first;
        let key = key::read(named.as_ref().unwrap_or(&made), may_make);
        match store.set_key(key.clone()) {
            Ok(0) => {}
            Ok(containers) => tracing::info!(containers, "stored environment sealed"),
            Err(error) => tracing::warn!(%error, "stored environment not sealed, retrying"),
        }
        key
    });
    Ok(taking.await?)
}

/// Raises the alarm of a key that is not there, or that opens not all that is stored, and clears it.
pub(super) fn follow(
    config: &Config,
    store: Arc<Store>,
    journal: &Journal,
    stop: &CancellationToken,
    tracker: &TaskTracker,
) {
    let look = move || faults(&store);
    let interval = config.monitoring.health_interval;
    let alarm = Alarm::SecretsKeyUnusable;
    let following = file_alarms::follow(alarm, look, interval, journal.clone());
    let stop = stop.clone();
    tracker.spawn(async move { stop.run_until_cancelled(following).await });
}

fn faults(store: &Store) -> Vec<String> {
    match store.key() {
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
        let mut names = record.spec.sealed_environment.values();
        let mut names = names.by_ref().map(state::seal::Sealed::key_name);
        let other = names.find(|name| Some(*name) != own)?;
        Some((record.name.to_string(), other.to_owned()))
    })
}
