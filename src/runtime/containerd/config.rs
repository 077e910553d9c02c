//! Configuration of the runtime on containerd.

use std::ffi::OsString;
use std::path::PathBuf;

use state::seal::NodeKey;

use super::shim::oci_runtime::OciRuntime;
use crate::oci::confinement::Confinement;
use crate::secrets::SecretMemory;

/// Place of containerd on the host, and of the files that belong to its containers.
#[derive(Clone, Debug)]
pub struct ContainerdConfig {
    /// Socket that containerd listens on, which its shims have among their arguments.
    pub socket: PathBuf,
    /// Namespace of managed containers in containerd; also the directory of their control groups.
    pub namespace: String,
    /// Directory for mounts that last a moment.
    pub run_dir: PathBuf,
    /// OCI runtime that serves the containers.
    pub oci_runtime: OciRuntime,
    /// Limits that the node sets to every container.
    pub confinement: Confinement,
    /// The agent's own `PATH`, in which the OCI runtime is asked for its version.
    pub search_path: OsString,
    /// Key by which the values of containers are opened.
    pub(crate) key: NodeKey,
    /// Memory by which containers get them.
    pub(crate) memory: SecretMemory,
}
