//! Syncs unpacked files to the disk. containerd does not: after a power cut an image that it calls
//! complete may consist of empty files.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

/// A sync that takes longer is worth a line in the log.
const SLOW: Duration = Duration::from_secs(5);

/// Returns when everything written to the file system of `root` so far is on the disk; where nobody
/// knows which that is, to any.
pub(crate) async fn sync(root: Option<PathBuf>) {
    let started = Instant::now();
    let synced = tokio::task::spawn_blocking(move || {
        let Some(root) = root else {
            rustix::fs::sync();
            return Ok(());
        };
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
}
