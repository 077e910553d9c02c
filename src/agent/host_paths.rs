//! Host paths that this node gives, by its configuration.

use crate::config::Config;
use crate::host_paths::HostPaths;

/// The node's host paths.
pub(super) fn host_paths(config: &Config) -> HostPaths {
    let grants = &config.containers.host_paths;
    HostPaths::new(&config.state.run_dir, grants, &config.containers.kept)
}
