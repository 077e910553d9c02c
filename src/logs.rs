//! What containers print: a logging process for each of them that outlives the agent, and a reader of what it wrote.
//!
//! A container's output stands in one directory, `<logs>/<container id>`, whatever its generation and however often it was
//! restarted: `0000000001.log`, `0000000002.log`, and so on. The file of the highest number is being written; none is ever
//! renamed, so a reader's place (number, offset) stays right under rotation. [`logger`] is the process that writes, [`line`] a
//! line of a file, [`split`] makes lines of bytes, [`rotate`] keeps the directory within its limits, [`read`] reads it.
//!
//! This room knows nothing about containerd's API, HTTP, or which containers there are.

use std::io;
use std::path::{Path, PathBuf};

use state::id::ContainerId;

pub mod line;
pub mod logger;
pub mod read;
pub mod rotate;
mod scan;
pub mod split;

/// Where the output of a container stands.
#[must_use]
pub fn directory(logs: &Path, id: ContainerId) -> PathBuf {
    logs.join(id.to_string())
}

/// The containers that have output under `logs`, in no order; what bears no container's id is left out. Blocks.
///
/// # Errors
/// `logs` cannot be listed. That it does not exist is none: then nobody has output.
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

/// Removes a container's output. Followers of it end. That it is gone already is no error.
///
/// # Errors
/// `dir` does not bear a container's id (nothing is touched then), or the system refuses.
pub async fn remove(dir: &Path) -> io::Result<()> {
    let named = dir
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.parse::<ContainerId>().is_ok());
    if !named {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a container's log directory",
        ));
    }
    match tokio::fs::remove_dir_all(dir).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
