//! Syncs unpacked files to the disk. containerd does not: after a power cut an image that it calls
//! complete may consist of empty files.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use containerd_client::services::v1 as api;
use state::reason::Reason;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::runtime::RuntimeError;
use crate::runtime::containerd::rpc::client::{CallError, ContainerdClient, quick};
use crate::runtime::containerd::rpc::snapshots::SNAPSHOTTER;

/// A sync that takes longer is worth a line in the log.
const SLOW: Duration = Duration::from_secs(5);

/// Directory where containerd keeps unpacked files, asked for once.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    root: OnceCell<Option<PathBuf>>,
}

impl Durable {
    /// Returns when everything written to the snapshotter's filesystem so far is on the disk.
    ///
    /// Where that directory cannot be seen from here nothing is done: an image is then as safe as
    /// containerd makes it.
    pub(crate) async fn sync(&self, client: &ContainerdClient) -> Result<(), RuntimeError> {
        let root = self
            .root
            .get_or_try_init(|| find(client))
            .await
            .map_err(|error| error.into_error(Reason::CreateFailed, "name its directories"))?;
        let Some(root) = root.clone() else {
            return Ok(());
        };
        let started = Instant::now();
        let synced = tokio::task::spawn_blocking(move || {
            rustix::fs::syncfs(File::open(root)?).map_err(std::io::Error::from)
        });
        match synced.await {
            Ok(Ok(())) if started.elapsed() > SLOW => {
                tracing::warn!(took = ?started.elapsed(), "unpacked files synced slowly; check the disk");
            }
            Ok(Ok(())) => {
                tracing::debug!(took = ?started.elapsed(), "unpacked files synced");
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "unpacked files not synced; a power cut may empty them");
            }
            Err(error) => {
                tracing::warn!(%error, "unpacked files not synced; a power cut may empty them");
            }
        }
        Ok(())
    }
}

async fn find(client: &ContainerdClient) -> Result<Option<PathBuf>, CallError> {
    let filter = format!("type==io.containerd.snapshotter.v1,id=={SNAPSHOTTER}");
    let request = api::PluginsRequest {
        filters: vec![filter],
    };
    let reply = quick(client.introspection().plugins(request)).await?;
    let root = reply
        .plugins
        .into_iter()
        .find_map(|mut plugin| plugin.exports.remove("root"))
        .map(PathBuf::from);
    let seen = root.filter(|root| root.is_dir());
    if seen.is_none() {
        tracing::debug!("directory of containerd not visible; unpacked images are not synced");
    }
    Ok(seen)
}
