//! Files that decide over the node: whoever may write one has the node, so they are read only where
//! root alone may.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use super::private;

/// Longest file of this kind.
const BYTES_MAX: u64 = 1 << 20;

/// Users who must have no part in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Others {
    /// Nobody but the owner may write it.
    MayRead,
    /// Nobody but the owner may read it, either.
    MayNothing,
}

impl Others {
    const fn forbidden(self) -> u32 {
        match self {
            Self::MayRead => 0o022,
            Self::MayNothing => 0o077,
        }
    }

    const fn told(self) -> &'static str {
        match self {
            Self::MayRead => "so others may change it; chmod go-w",
            Self::MayNothing => "so others than its owner may use it; chmod 600",
        }
    }
}

/// The text of the file. `None`: there is none.
///
/// # Errors
/// It cannot be read, or others could have written it.
pub(crate) fn read(path: &Path, others: Others) -> Result<Option<String>, String> {
    let fault = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    // A pipe in its place must not hold the agent up.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(&error)),
    };
    check(&file, others).map_err(|error| fault(&error))?;
    let mut text = String::new();
    let mut limited = file.take(BYTES_MAX + 1);
    limited
        .read_to_string(&mut text)
        .map_err(|error| fault(&error))?;
    if text.len() as u64 > BYTES_MAX {
        return Err(fault(&"the file is larger than 1 MiB: check the path"));
    }
    Ok(Some(text))
}

fn check(file: &File, others: Others) -> Result<(), String> {
    let about = file.metadata().map_err(|error| error.to_string())?;
    if !about.is_file() {
        return Err("it is no regular file".to_owned());
    }
    if !private::is_own(about.uid()) {
        return Err(format!(
            "it belongs to user {}; give it to root: chown root",
            about.uid()
        ));
    }
    let mode = about.mode() & 0o777;
    if mode & others.forbidden() != 0 {
        return Err(format!("its mode is {mode:o}, {}", others.told()));
    }
    Ok(())
}
