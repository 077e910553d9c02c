//! Section `containers`: what containers of this node may be and have.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use state::policy::host_paths::HostPathGrant;
use state::policy::patterns::TextPattern;
use state::quantity::{ByteCount, CpuMillis};

use super::RuntimeChoice;

/// Directories that no container is given whatever is configured: the agent's configuration, those by
/// whose files every container's devices and hooks are found, and containerd's.
pub(super) const OWN_PLACES: [&str; 4] =
    ["/etc/chas", "/etc/cdi", "/run/cdi", "/var/lib/containerd"];

/// Section `containers`: limits on containers.
#[derive(Clone, Debug)]
pub struct ContainersSection {
    /// Most containers that the node accepts; 1 to 10000.
    pub max: u32,
    /// CPU time of the node that no container can reserve.
    pub system_cpu: CpuMillis,
    /// Memory of the node that no container can reserve.
    pub system_memory: ByteCount,
    /// Whether a container may ask for programs that gain privileges (setuid).
    pub allow_new_privileges: bool,
    /// Whether a container may have the host's network.
    pub allow_host_network: bool,
    /// Devices that containers may have.
    pub devices: Vec<TextPattern>,
    /// Paths of the host that containers may mount.
    pub host_paths: Vec<HostPathGrant>,
    /// Files and directories that keys name, the file of the configuration, and containerd's: no container
    /// may have them, whatever is given.
    pub kept: Vec<PathBuf>,
    /// Runtimes besides the node's own choice, by their names.
    pub runtimes: BTreeMap<String, RuntimeChoice>,
    /// Capabilities that a container may have, as `CAP_…`.
    pub capabilities: Vec<String>,
    /// Whether 32 bit programs on x86 may make sockets by `socketcall`.
    pub allow_socketcall: bool,
    /// Whether containers have ids of their own, where they can be mapped.
    pub user_namespaces: bool,
    /// Ids of this host that are for containers.
    pub user_ids: RangeInclusive<u32>,
}
