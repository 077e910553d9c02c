//! Container logs: one logger per container, which outlives the agent, and a reader of the files it
//! writes.
//!
//! The output of a container stands in one directory, `<logs>/<container id>`, over all its
//! generations and restarts: `0000000001.log`, `0000000002.log`, and so on. The file of the highest
//! number is being written; none is ever renamed, so a reader's place (number, offset) stays right
//! under rotation. [`logger`] is the process that writes, [`mod@line`] a line of a file, [`split`]
//! cuts bytes into lines, [`rotate`] keeps the directory within its limits, `sync` brings it to the
//! disk, `limits` tells a logger other limits, `counts` tells the agent what was written, `mark` an
//! end that nobody saw, [`read`] reads it. [`keep`] is the agent's side: it replaces a logger that
//! dies.
//!
//! This room knows nothing about containerd's API, HTTP, or which containers there are.

use std::io;
use std::path::{Path, PathBuf};

use state::id::ContainerId;

mod call;
mod confine;
pub(crate) mod counts;
mod current;
mod cursor;
mod files;
pub(crate) mod keep;
mod limits;
pub(crate) mod line;
pub mod logger;
mod lost;
mod mark;
mod pipes;
mod process;
pub(crate) mod program;
mod rate;
pub(crate) mod read;
mod removal;
pub(crate) mod rotate;
pub(crate) mod rules;
mod scan;
pub(crate) mod split;
mod sync;

/// Log directory of a container.
#[must_use]
pub fn directory(logs: &Path, id: ContainerId) -> PathBuf {
    logs.join(id.to_string())
}

/// Container ids that have a directory under `logs`, in no order; entries with another name are
/// left out. Blocks.
///
/// # Errors
/// `logs` cannot be listed. A missing directory is no error: no container has printed yet.
pub fn stored(logs: &Path) -> io::Result<Vec<ContainerId>> {
    let entries = match std::fs::read_dir(logs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut ids = Vec::new();
    for entry in entries {
        ids.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<ContainerId>().ok()),
        );
    }
    Ok(ids)
}

/// Removes a container's log directory; its followers end. A missing directory is no error.
///
/// # Errors
/// `dir` is not named by a container id (nothing is touched then), or the system refuses.
pub async fn remove(dir: &Path) -> io::Result<()> {
    let named = dir
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.parse::<ContainerId>().is_ok());
    if !named {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a log directory must be named by a container id",
        ));
    }
    let dir = dir.to_owned();
    let removed = tokio::task::spawn_blocking(move || removal::remove_all(&dir)).await;
    match removed.map_err(io::Error::other)? {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
