//! Which version's defaults a node goes by. An upgrade changes nothing that somebody relies on, so
//! a default that closes a door holds for nodes that begin with it. The state directory tells: a
//! new one is marked.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use super::state_dir::{DiskCall, SLED, StateDir, create_private};
use super::{copy, last, recover};

/// Name of the mark in the state directory.
const NAME: &str = "defaults";
/// Content of the mark: the first set of defaults that was marked.
const CONTENT: &str = "2\n";

/// Defaults of the configuration that a node goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defaults {
    /// Defaults of this version: the node began with them, or is yet to begin.
    Current,
    /// Defaults of version 0.1, where they are more open: the node's state is from before.
    Earlier,
}

impl Defaults {
    /// Defaults of the node whose state is in `directory`; [`Current`](Self::Current) if there is
    /// none, or if this user may not look. A disk that cannot tell is taken for a node from before:
    /// nothing that runs is cut off by it. Reads the directory; blocks.
    #[must_use]
    pub fn of(directory: &Path) -> Self {
        let is_marked = match directory.join(NAME).try_exists() {
            Ok(is_marked) => is_marked,
            Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
        };
        if is_marked || !has_begun(directory) {
            Self::Current
        } else {
            Self::Earlier
        }
    }
}

/// Marks a directory that holds no state yet.
pub(super) fn mark_new(dir: &StateDir) -> io::Result<()> {
    if dir.join(NAME).try_exists()? || has_begun(dir.path()) {
        return Ok(());
    }
    dir.ask(DiskCall::Create)?;
    let mark = dir.join(&format!("{NAME}.new"));
    let mut file = create_private(&mark)?;
    file.write_all(CONTENT.as_bytes())?;
    file.sync_all()?;
    fs::rename(&mark, dir.join(NAME))?;
    dir.sync()
}

/// Whether an agent has kept state in `directory`, or the disk cannot tell. Reads the directory;
/// blocks.
#[must_use]
pub fn has_begun(directory: &Path) -> bool {
    let [a, b] = copy::NAMES;
    [SLED, a, b, last::NAME, recover::QUARANTINE]
        .iter()
        .any(|name| directory.join(name).try_exists().unwrap_or(true))
}
