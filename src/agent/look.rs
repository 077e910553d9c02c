//! Rooms as the configuration makes them, for looks at the node beside the agent, or in place of one that
//! does not run: nothing is started, and nothing is written.

use super::registries::registry_config;
use super::review;
use super::rooms::bridge_config;
use super::subnet;
use crate::config::Config;
use crate::network::BridgeNetwork;
use crate::registry::RegistryConfig;
use crate::runtime::containerd::ContainerdClient;

/// The network, on which nothing is done yet.
pub(crate) fn network_of(config: &Config) -> BridgeNetwork {
    BridgeNetwork::new(bridge_config(config))
}

/// The containerd, to which no connection is made yet.
pub(crate) fn containerd_of(config: &Config) -> ContainerdClient {
    ContainerdClient::new(&config.containerd.socket, &config.containerd.namespace)
}

/// Access to registries.
pub(crate) fn registries_of(config: &Config) -> RegistryConfig {
    registry_config(config)
}

/// Files with secrets that others can read or change, each as a sentence. Blocks.
pub(crate) fn readable_secrets(config: &Config) -> Vec<String> {
    review::readable(config)
}

/// The configuration with the subnets that the agent chose before. One that it did not choose yet stays
/// the default one. Blocks.
pub(crate) fn with_kept_subnets(config: Config) -> Config {
    subnet::kept_in(config)
}
