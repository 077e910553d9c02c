//! Introspection of containerd: where its parts keep their files.

use std::path::{Path, PathBuf};

use containerd_client::services::v1 as api;

use state::text::shown;

use super::client::{CallError, ContainerdClient, quick};
use super::snapshots::SNAPSHOTTER;

/// Directory of the unpacked layers; `None`: containerd does not tell.
pub(crate) async fn snapshots_dir(client: &ContainerdClient) -> Result<Option<PathBuf>, CallError> {
    directory(client, "io.containerd.snapshotter.v1", SNAPSHOTTER).await
}

/// Directory of the blobs; `None`: containerd does not tell.
pub(crate) async fn content_dir(client: &ContainerdClient) -> Result<Option<PathBuf>, CallError> {
    directory(client, "io.containerd.content.v1", "content").await
}

/// Fault for which containerd has no snapshotter for the agent's containers, in its words. `None`: it has
/// one.
pub(crate) async fn snapshotter_fault(
    client: &ContainerdClient,
) -> Result<Option<String>, CallError> {
    let request = api::PluginsRequest {
        filters: vec![format!(
            "type==io.containerd.snapshotter.v1,id=={SNAPSHOTTER}"
        )],
    };
    let reply = quick(client.introspection().plugins(request)).await?;
    Ok(match reply.plugins.into_iter().next() {
        None => Some(format!("its plugin {SNAPSHOTTER} is disabled")),
        Some(plugin) => plugin
            .init_err
            .map(|status| shown(&status.message, 300).into_owned()),
    })
}

/// Directories of all that it keeps: its own, and that of the layers, which may be elsewhere.
pub(crate) async fn own_directories(client: &ContainerdClient) -> Result<Vec<PathBuf>, CallError> {
    let root = content_dir(client).await?;
    let root = root.and_then(|content| content.parent().map(Path::to_owned));
    let snapshots = snapshots_dir(client).await?;
    Ok(root.into_iter().chain(snapshots).collect())
}

async fn directory(
    client: &ContainerdClient,
    kind: &str,
    id: &str,
) -> Result<Option<PathBuf>, CallError> {
    let request = api::PluginsRequest {
        filters: vec![format!("type=={kind},id=={id}")],
    };
    let reply = quick(client.introspection().plugins(request)).await?;
    let mut plugins = reply.plugins.into_iter();
    let root = plugins.find_map(|mut plugin| plugin.exports.remove("root"));
    Ok(root.map(PathBuf::from))
}
