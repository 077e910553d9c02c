//! The second copy of the desired state: two files, written in turn, so that one is always whole.
//!
//! The first line says what follows it: `{"format":1,"seq":42,"bytes":1234,"sha256":"…"}`; the rest is one JSON object, an
//! entry a member.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::desired::set::{Desired, Entries, FORMAT};
use crate::digest::hex;

/// The two files.
pub(super) const NAMES: [&str; 2] = ["desired.json.a", "desired.json.b"];

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    format: u64,
    seq: u64,
    bytes: usize,
    sha256: String,
}

/// What one of the two files holds.
#[derive(Debug)]
pub(super) enum Found {
    /// There is no such file.
    Nothing,
    /// Whole.
    Whole(Entries),
    /// It cannot be read now; nothing is known of what is in it.
    Unreadable(std::io::Error),
    /// It is not what was written.
    Broken(String),
}

/// Reads one of the files.
pub(super) fn read(path: &Path) -> Found {
    match fs::read(path) {
        Ok(bytes) => parse(&bytes).map_or_else(Found::Broken, Found::Whole),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Found::Nothing,
        // As EIO of a failing disk: the file is of no use.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Found::Unreadable(error)
        }
        Err(error) => Found::Broken(error.to_string()),
    }
}

fn parse(bytes: &[u8]) -> Result<Entries, String> {
    let end = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or("it has no first line")?;
    let (head, body) = (&bytes[..end], &bytes[end + 1..]);
    let head: Head =
        serde_json::from_slice(head).map_err(|error| format!("its first line: {error}"))?;
    if head.bytes != body.len() || head.sha256 != checksum(body) {
        return Err("its contents do not fit the checksum in its first line".to_owned());
    }
    let entries: Entries = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if Desired::seq_of(&entries) == head.seq {
        Ok(entries)
    } else {
        Err("its first line is another file's".to_owned())
    }
}

fn checksum(body: &[u8]) -> String {
    hex(&Sha256::digest(body))
}

/// Writes a copy so that a crash at any moment leaves the old one or the new.
pub(super) fn write(path: &Path, desired: &Desired) -> std::io::Result<()> {
    let body = serde_json::to_vec(&desired.entries())?;
    let head = Head {
        format: FORMAT,
        seq: desired.seq(),
        bytes: body.len(),
        sha256: checksum(&body),
    };
    let new = PathBuf::from(format!("{}.new", path.display()));
    // Environment values may be secrets.
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&serde_json::to_vec(&head)?)?;
    file.write_all(b"\n")?;
    file.write_all(&body)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent()
        .map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}
