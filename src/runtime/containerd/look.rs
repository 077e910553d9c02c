//! A look at a containerd as the agent needs it, which changes nothing.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;

use state::id::InstanceName;
use state::reason::Reason;

use super::rpc::client::{CallError, ContainerdClient};
use super::rpc::{containers, labels, plugins};
use super::shim::version;
use crate::runtime::RuntimeError;

/// containerd as it answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContainerdLook {
    /// Version.
    pub(crate) version: String,
    /// Known faults of that version, in a sentence.
    pub(crate) outdated: Option<String>,
    /// Fault for which it has no snapshotter for the agent's containers.
    pub(crate) snapshotter: Option<String>,
    /// Directories of all that it keeps.
    pub(crate) directories: Vec<PathBuf>,
    /// Managed instances in the agent's namespace.
    pub(crate) managed: Vec<InstanceName>,
    /// Unmanaged containers there.
    pub(crate) unmanaged: usize,
}

impl ContainerdLook {
    /// Looks.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`] if it does not answer.
    pub(crate) async fn at(client: &ContainerdClient) -> Result<Self, RuntimeError> {
        let version = client.probe().await?;
        let refused = |error: CallError| error.into_error(Reason::CreateFailed, "tell of itself");
        let asked = tokio::join!(
            plugins::snapshotter_fault(client),
            plugins::own_directories(client),
            containers::list(client, None)
        );
        let snapshotter = asked.0.map_err(refused)?;
        let directories = asked.1.map_err(refused)?;
        let all = asked.2.map_err(refused)?;
        let managed: Vec<InstanceName> = all
            .iter()
            .filter(|container| labels::is_managed(&container.labels))
            .filter_map(|container| container.id.parse().ok())
            .collect();
        Ok(Self {
            outdated: version::containerd_fault(&version),
            version,
            snapshotter,
            directories,
            unmanaged: all.len() - managed.len(),
            managed,
        })
    }
}

/// Version of the runc that is found in a search path, and its known faults in a sentence.
///
/// # Errors
/// It is not there, or cannot be run.
pub(crate) async fn runc_version(search_path: &OsStr) -> io::Result<(String, Option<String>)> {
    let told = version::told("runc", search_path).await?;
    let version = told.lines().next().unwrap_or_default().to_owned();
    Ok((version, version::runc_fault("runc", search_path).await))
}
