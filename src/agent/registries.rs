//! Access to registries: as it is configured, and the look at its files.

use state::alarm::Alarm;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{self, Config};
use crate::journal::Journal;
use crate::node;
use crate::registry::{ProxySettings, RegistryConfig};
use crate::runtime::containerd::image::Images;

/// Access to registries as it is configured.
pub(super) fn registry_config(config: &Config) -> RegistryConfig {
    let section = &config.registry;
    RegistryConfig {
        insecure: section.insecure.clone(),
        token_hosts: section.token_hosts.clone(),
        containers: Some(config.network.subnet),
        auth_file: section.auth_file.clone(),
        ca_file: section.ca_file.clone(),
        hosts_dir: Some(section.hosts_dir.clone()),
        proxies: ProxySettings {
            https: section.https_proxy.clone(),
            http: section.http_proxy.clone(),
            none: section.no_proxy.clone(),
        },
        helper_environment: config::helper_environment(),
        pulls_max: section.pulls_max,
        pulls_per_registry: section.pulls_per_registry,
        connect_timeout: section.connect_timeout,
        answer_timeout: section.answer_timeout,
        stall_timeout: section.stall_timeout,
        ..RegistryConfig::default()
    }
}

/// Looks at the files for registries with every sample of the node's facts, until `stop`.
pub(super) fn follow_registries(
    config: &Config,
    images: &Images,
    journal: &Journal,
    stop: &CancellationToken,
    tracker: &TaskTracker,
) {
    let (images, stop) = (images.clone(), stop.clone());
    let look = move || images.registry_faults();
    let interval = config.monitoring.health_interval;
    let following =
        node::file_alarms::follow(Alarm::RegistryFileUnusable, look, interval, journal.clone());
    tracker.spawn(async move { stop.run_until_cancelled(following).await });
}
