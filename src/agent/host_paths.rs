//! Host paths that this node gives, by its configuration.

use std::path::{Path, PathBuf};

use crate::config::{Config, OWN_PLACES};
use crate::host_paths::HostPaths;

/// The node's host paths, and the directories of its own that nobody is given.
pub(super) fn host_paths(config: &Config) -> HostPaths {
    let socket = config.containerd.socket.parent().unwrap_or(Path::new("/"));
    let kept = [
        config.state.dir.clone(),
        config.state.run_dir.clone(),
        config.policy.file.clone(),
        socket.to_owned(),
    ];
    let kept = kept.into_iter().chain(config.secret_files.iter().cloned());
    let kept: Vec<_> = kept.chain(OWN_PLACES.map(PathBuf::from)).collect();
    HostPaths::new(&config.state.run_dir, &config.containers.host_paths, &kept)
}
