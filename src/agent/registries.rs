//! Access to registries: as it is configured, and the look at its files.

use state::alarm::Alarm;
use state::store::Defaults;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{self, Config};
use crate::journal::Journal;
use crate::node;
use crate::registry::{ProxySettings, RegistryConfig};
use crate::runtime::containerd::image::{DiskReserve, Images, RoomConfig};

/// Access to registries as it is configured.
pub(super) fn registry_config(config: &Config) -> RegistryConfig {
    let section = &config.registry;
    RegistryConfig {
        insecure: section.insecure.clone(),
        token_hosts: section.token_hosts.clone(),
        containers: Some(config.network.subnets()),
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

/// Room for images as it is configured. A node from before had no bound and no reserve, and is not
/// to refuse what it took.
pub(super) fn room_config(config: &Config) -> RoomConfig {
    let usual = RoomConfig::default();
    let (bytes_max, reserve) = match config.state.defaults {
        Defaults::Earlier => (u64::MAX, DiskReserve::Small),
        Defaults::Current => (usual.image_bytes_max, usual.reserve),
    };
    let image = &config.image;
    RoomConfig {
        image_bytes_max: image.max_unpacked.unwrap_or(bytes_max),
        reserve: image.disk_reserve.map_or(reserve, DiskReserve::Bytes),
    }
}

/// Looks at the room for images with every sample of the node's facts, until `stop`.
fn follow_room(
    config: &Config,
    images: &Images,
    journal: &Journal,
    stop: &CancellationToken,
    tracker: &TaskTracker,
) {
    let (images, journal, stop) = (images.clone(), journal.clone(), stop.clone());
    let mut ticks = tokio::time::interval(config.monitoring.health_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let following = async move {
        loop {
            ticks.tick().await;
            journal.set_alarm(Alarm::PullsHeld, "", images.lack_of_room().await);
        }
    };
    tracker.spawn(async move { stop.run_until_cancelled(following).await });
}

/// Looks at the files for registries, and at the room for images, with every sample of the node's
/// facts, until `stop`.
pub(super) fn follow_registries(
    config: &Config,
    images: &Images,
    journal: &Journal,
    stop: &CancellationToken,
    tracker: &TaskTracker,
) {
    follow_room(config, images, journal, stop, tracker);
    let (images, stop) = (images.clone(), stop.clone());
    let look = move || images.registry_faults();
    let interval = config.monitoring.health_interval;
    let following =
        node::file_alarms::follow(Alarm::RegistryFileUnusable, look, interval, journal.clone());
    tracker.spawn(async move { stop.run_until_cancelled(following).await });
}
