//! Puts unpacked files on the disk. containerd does not: after a power cut an image that it calls complete may consist of
//! empty files.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use containerd_client::services::v1 as api;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::client::{CallError, Client, quick};
use super::content::refused;
use super::unpack::SNAPSHOTTER;
use crate::runtime::RuntimeError;

/// A slower disk is worth a line in the log.
const SLOW: Duration = Duration::from_secs(5);

/// Where containerd keeps unpacked files, asked for once.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    root: OnceCell<Option<PathBuf>>,
}

impl Durable {
    /// Returns when everything written to the snapshotter's filesystem so far is on the disk.
    ///
    /// Where that directory cannot be seen from here nothing is done: an image is then as safe as containerd makes it.
    pub(crate) async fn settle(&self, client: &Client) -> Result<(), RuntimeError> {
        let root = self
            .root
            .get_or_try_init(|| find(client))
            .await
            .map_err(|error| refused(error, "name its directories"))?;
        let Some(root) = root.clone() else {
            return Ok(());
        };
        let started = Instant::now();
        let synced = tokio::task::spawn_blocking(move || {
            rustix::fs::syncfs(File::open(root)?).map_err(std::io::Error::from)
        });
        match synced.await {
            Ok(Ok(())) if started.elapsed() > SLOW => {
                tracing::warn!(took = ?started.elapsed(), "the disk is slow: unpacked files took long to be written");
            }
            Ok(Ok(())) => {
                tracing::debug!(took = ?started.elapsed(), "unpacked files are on the disk");
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "unpacked files could not be synced; a power cut may empty them");
            }
            Err(error) => {
                tracing::warn!(%error, "unpacked files could not be synced; a power cut may empty them");
            }
        }
        Ok(())
    }
}

async fn find(client: &Client) -> Result<Option<PathBuf>, CallError> {
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
        tracing::debug!(
            "containerd's files cannot be seen from here; unpacked images are not synced"
        );
    }
    Ok(seen)
}
