//! Faults of a configuration with which the agent starts all the same, for a person to know of.

use std::time::Duration;

use state::alarm::Alarm;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::link;
use super::registries::registry_config;
use crate::api::listener::TlsMaterial;
use crate::config::{Config, private};
use crate::journal::Journal;
use crate::node::file_alarms;
use crate::registry;

/// Keys whose defaults of versions before let containers reach the host and its surroundings.
const REACH: [&str; 2] = ["network.host_access", "network.link_local"];

/// Faults of a configuration and of the files that it names, with which the agent starts all the
/// same; each a sentence.
#[must_use]
pub fn review(config: &Config) -> Vec<String> {
    let mut faults: Vec<String> = config.api.danger().into_iter().collect();
    faults.extend(registry::review(&registry_config(config)));
    faults.extend(readable(config));
    faults.extend(config.missing_clients(false));
    faults.extend(open_to_containers(config));
    faults.extend(routes_between_networks(config));
    faults.extend(passwords_to_any(config));
    faults.extend(link::review(config));
    faults
}

/// Fault for which the files of the API's TLS cannot be used. `None`: they can, or there are none.
/// Blocks.
#[must_use]
pub fn tls_fault(config: &Config) -> Option<String> {
    TlsMaterial::read(config.api.tls.as_ref()?).err()
}

/// Raises the alarms of such a configuration, and follows its files with every sample of the node's
/// facts, until `stop`.
pub(super) fn follow(
    config: &Config,
    journal: &Journal,
    stop: &CancellationToken,
    tracker: &TaskTracker,
) {
    journal.set_alarm(Alarm::HostOpenToContainers, "", open_to_containers(config));
    journal.set_alarm(
        Alarm::RoutesBetweenNetworks,
        "",
        routes_between_networks(config),
    );
    journal.set_alarm(Alarm::PasswordsToAnyHost, "", passwords_to_any(config));
    let no_ipv6 = config.network.subnet6_fault.clone();
    journal.set_alarm(Alarm::Ipv6Unavailable, "", no_ipv6);
    let interval: Duration = config.monitoring.health_interval;
    let config = config.clone();
    let look = move || readable(&config);
    let following = file_alarms::follow(Alarm::SecretReadable, look, interval, journal.clone());
    let stop = stop.clone();
    tracker.spawn(async move { stop.run_until_cancelled(following).await });
}

/// Files with secrets that others can read or change, each as a sentence.
pub(super) fn readable(config: &Config) -> Vec<String> {
    let credentials = config.registry.auth_file.as_deref();
    let made = [config.state.admin_token(), config.state.secrets_key()];
    let files = config.secret_files.iter().chain(&made);
    files
        .filter(|file| credentials != Some(file.as_path()) || registry::holds_secrets(file))
        .filter_map(|file| private::fault(file))
        .collect()
}

fn passwords_to_any(config: &Config) -> Option<String> {
    let is_earlier = config.earlier_defaults.contains(&"registry.token_hosts");
    is_earlier.then(|| {
        "registry.token_hosts is \"any\" as in 0.1, since this node is from before; on a new node a \
         registry's password goes to its own domain only"
            .to_owned()
    })
}

fn routes_between_networks(config: &Config) -> Option<String> {
    let key = "network.route_between_networks";
    config.earlier_defaults.contains(&key).then(|| {
        format!(
            "{key} is true as in 0.1, since this node is from before; a new node does not connect \
             its networks for others"
        )
    })
}

fn open_to_containers(config: &Config) -> Option<String> {
    let earlier = config.earlier_defaults.iter();
    let keys: Vec<&str> = earlier.copied().filter(|key| REACH.contains(key)).collect();
    (!keys.is_empty()).then(|| {
        let (keys, are) = (
            keys.join(" and "),
            if keys.len() == 1 { "is" } else { "are" },
        );
        format!(
            "{keys} {are} open as in 0.1, since this node is from before; on a new node both are \
             closed"
        )
    })
}
