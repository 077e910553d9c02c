//! Where the kernel counts what containers use, as the configuration names the places.

use std::io;
use std::sync::Mutex;

use crate::cgroup::Cgroup;
use crate::config::Config;
use crate::network::bridge;
use crate::node::AgentNode;
use crate::node::usage::{UsageSources, file_places};

/// The node, which shows what its containers use.
///
/// # Errors
/// The control groups cannot be asked of which kind they are.
pub(super) fn shown_by(node: AgentNode, config: &Config) -> io::Result<AgentNode> {
    let bridge = config.network.bridge.clone();
    Ok(node.with_usage(UsageSources {
        cgroup: Cgroup::read()?,
        namespace: config.containerd.namespace.clone(),
        logs: config.state.dir.join("logs"),
        link: Box::new(move |instance| bridge::link_name(&bridge, instance)),
        met: Mutex::default(),
        places: file_places(),
    }))
}
