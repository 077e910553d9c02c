//! Configuration of the runtime on containerd.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use state::blobs::Blobs;
use state::failure::Failure;
use state::reason::Reason;
use state::seal::KeyPlace;
use state::spec::Spec;

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
    /// Others, by the names that a spec gives them.
    pub runtimes: BTreeMap<String, OciRuntime>,
    /// Limits that the node sets to every container.
    pub confinement: Confinement,
    /// The agent's own `PATH`, in which the OCI runtime is asked for its version.
    pub search_path: OsString,
    /// Sources of containers' values.
    pub(crate) values: ValueSources,
}

impl ContainerdConfig {
    /// Runtime that serves a container of this spec.
    ///
    /// # Errors
    /// [`Reason::PolicyDenied`]: the node has it no longer.
    pub(crate) fn runtime_for(&self, spec: &Spec) -> Result<&OciRuntime, Failure> {
        let Some(class) = &spec.runtime else {
            return Ok(&self.oci_runtime);
        };
        self.runtimes.get(class.as_str()).ok_or_else(|| {
            let message = format!(
                "runtime: {class} is no runtime of this node; add it to containers.runtimes in its \
                 configuration"
            );
            Failure::new(Reason::PolicyDenied, message)
        })
    }
}

/// Sources of the values of containers, and the way by which these get them.
#[derive(Clone, Debug)]
pub(crate) struct ValueSources {
    /// Key by which the values of containers are opened.
    pub(crate) key: KeyPlace,
    /// Contents of their files and secrets, sealed.
    pub(crate) blobs: Blobs,
    /// Memory by which containers get them.
    pub(crate) memory: SecretMemory,
}
