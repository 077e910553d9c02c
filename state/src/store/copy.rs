//! The second copy of the desired state: two files, written in turn, so that one is always intact.
//!
//! The first line describes the rest: `{"format":1,"seq":42,"bytes":1234,"sha256":"…"}`; the rest
//! is one JSON object with a member for each entry.

use std::fs;
use std::io::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::state_dir::{self, DiskCall, StateDir};
use crate::desired::Entries;
use crate::desired::set::{Desired, FORMAT};

/// Names of the two files.
pub(super) const NAMES: [&str; 2] = ["desired.json.a", "desired.json.b"];

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    format: u64,
    seq: u64,
    bytes: usize,
    sha256: String,
}

/// State of one of the two files.
#[derive(Debug)]
pub(super) enum CopyState {
    /// The file does not exist.
    Missing,
    /// The file is as it was written, and holds these entries.
    Intact(Entries),
    /// The file cannot be read now; its contents may be intact.
    Unreadable(std::io::Error),
    /// The file is not as it was written.
    Damaged(String),
}

/// Reads one of the two files.
pub(super) fn read(dir: &StateDir, name: &str) -> CopyState {
    match dir
        .ask(DiskCall::ReadCopy)
        .and_then(|()| fs::read(dir.join(name)))
    {
        Ok(bytes) => parse(&bytes).map_or_else(CopyState::Damaged, CopyState::Intact),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => CopyState::Missing,
        // Also EIO of a failing disk: the next try may succeed.
        Err(error) => CopyState::Unreadable(error),
    }
}

fn parse(bytes: &[u8]) -> Result<Entries, String> {
    let end = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or("the first line is missing")?;
    let (head, body) = (&bytes[..end], &bytes[end + 1..]);
    let head: Head = serde_json::from_slice(head)
        .map_err(|error| format!("the first line is invalid: {error}"))?;
    if head.bytes != body.len() || head.sha256 != checksum(body) {
        return Err("the contents do not match the checksum in the first line".to_owned());
    }
    let entries: Entries = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if Desired::seq_of(&entries) == head.seq {
        Ok(entries)
    } else {
        Err("the first line belongs to other contents".to_owned())
    }
}

fn checksum(body: &[u8]) -> String {
    crate::digest::hex(&Sha256::digest(body))
}

/// Writes a copy so that a crash at any moment leaves the old copy or the new one.
pub(super) fn write(dir: &StateDir, name: &str, desired: &Desired) -> std::io::Result<()> {
    dir.ask(DiskCall::WriteCopy)?;
    let body = serde_json::to_vec(&desired.entries())?;
    let head = Head {
        format: FORMAT,
        seq: desired.seq(),
        bytes: body.len(),
        sha256: checksum(&body),
    };
    let new = dir.join(&format!("{name}.new"));
    let mut file = state_dir::create_private(&new)?;
    file.write_all(&serde_json::to_vec(&head)?)?;
    file.write_all(b"\n")?;
    file.write_all(&body)?;
    file.sync_all()?;
    fs::rename(&new, dir.join(name))?;
    dir.sync()
}
