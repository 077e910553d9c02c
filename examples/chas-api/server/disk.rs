//! State that survives a restart, as files that a person can read. All functions block.
//!
//! `epoch` is written once: a lost directory gets another one, and an operator who restores a
//! backup deletes it. `sets/` has a file for each name, written before a change is answered.
//! `nodes.json` is written at intervals: nodes that are lost from it register again.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::nodes::{KnownNode, Registration, StoredReport};
use super::sets::{ContainerSet, SetEntry};
use super::tokens;

/// The directory of the state. Without one, the state ends with the process.
#[derive(Debug)]
pub(super) struct StateDir {
    epoch: String,
    /// Directory, and its lock that keeps other servers out while this one runs.
    kept: Option<(PathBuf, File)>,
}

#[derive(Deserialize)]
struct StoredEntry {
    name: String,
    set: Option<Value>,
    count: i64,
    confirmed: Option<u64>,
    /// Epoch of the confirmation, which is void in another one.
    confirmed_epoch: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct StoredNode {
    registration: Registration,
    token_sha256: Option<String>,
    heard_ms: u64,
    /// Report as it was sent. It is written without being parsed again: there may be ten thousand.
    #[serde(skip_serializing)]
    report: Option<Value>,
}

impl StateDir {
    /// Opens and locks the directory, which is created if it is missing.
    pub(super) fn open(directory: Option<&Path>) -> io::Result<Self> {
        let Some(directory) = directory else {
            return Ok(Self {
                epoch: new_epoch(),
                kept: None,
            });
        };
        let failed = |error| at(directory, &error);
        // Environment values in sets may be secrets.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory.join("sets"))
            .map_err(failed)?;
        let lock = File::create(directory.join("lock")).map_err(failed)?;
        lock.try_lock().map_err(|_| {
            at(
                directory,
                &io::Error::other("another server uses this directory"),
            )
        })?;
        let epoch = match fs::read_to_string(directory.join("epoch")) {
            Ok(epoch) => epoch.trim().to_owned(),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let epoch = new_epoch();
                write(directory, "epoch", epoch.as_bytes())?;
                epoch
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(Self {
            epoch,
            kept: Some((directory.to_owned(), lock)),
        })
    }

    /// The epoch of this state. A new epoch says that the state was lost, and that generations
    /// begin anew.
    pub(super) fn epoch(&self) -> &str {
        &self.epoch
    }

    /// All entries that [`Self::keep`] stored. An unreadable file is an error: without its set,
    /// nodes would stop containers.
    pub(super) fn entries(&self) -> io::Result<Vec<(String, SetEntry)>> {
        let Some((directory, _)) = &self.kept else {
            return Ok(Vec::new());
        };
        let mut entries = Vec::new();
        for file in fs::read_dir(directory.join("sets"))? {
            let path = file?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                let kept: StoredEntry = read(&path)?;
                let set = kept
                    .set
                    .as_ref()
                    .map(|set| Arc::new(ContainerSet::stored(set)));
                let confirmed = kept
                    .confirmed
                    .filter(|_| kept.confirmed_epoch.as_ref() == Some(&self.epoch));
                entries.push((
                    kept.name,
                    SetEntry {
                        set,
                        count: kept.count,
                        confirmed,
                    },
                ));
            }
        }
        Ok(entries)
    }

    /// Stores the entry of `name`. The entry is on the disk when this returns.
    pub(super) fn keep(&self, name: &str, entry: &SetEntry) -> io::Result<()> {
        let Some((directory, _)) = &self.kept else {
            return Ok(());
        };
        let set: Option<Vec<u8>> = entry.set.as_ref().map(|set| set.document());
        let confirmed_epoch = entry.confirmed.map(|_| &self.epoch);
        let head = json!({
            "count": entry.count, "confirmed": entry.confirmed, "confirmed_epoch": confirmed_epoch, "name": name,
        });
        let head = head.to_string();
        let mut text = head.trim_end_matches('}').as_bytes().to_vec();
        text.extend_from_slice(b",\"set\":");
        text.extend_from_slice(set.as_deref().unwrap_or(b"null"));
        text.extend_from_slice(b"}\n");
        write(&directory.join("sets"), &format!("{name}.json"), &text)
    }

    /// All nodes that [`Self::keep_nodes`] stored.
    pub(super) fn nodes(&self) -> io::Result<Vec<KnownNode>> {
        let Some((directory, _)) = &self.kept else {
            return Ok(Vec::new());
        };
        let path = directory.join("nodes.json");
        let kept: Vec<StoredNode> = if path.exists() {
            read(&path)?
        } else {
            Vec::new()
        };
        let node = |kept: StoredNode| {
            let report = kept.report.and_then(|report| {
                let sent = report.to_string().into();
                Some(Arc::new(StoredReport {
                    summary: serde_json::from_value(report).ok()?,
                    sent,
                }))
            });
            let token = kept.token_sha256.and_then(|hex| tokens::from_hex(&hex));
            KnownNode {
                registration: Arc::new(kept.registration),
                token,
                heard_ms: kept.heard_ms,
                report,
                heartbeat: None,
                is_acknowledged: false,
            }
        };
        Ok(kept.into_iter().map(node).collect())
    }

    /// Stores these nodes in place of all stored before.
    pub(super) fn keep_nodes(&self, nodes: &[KnownNode]) -> io::Result<()> {
        let Some((directory, _)) = &self.kept else {
            return Ok(());
        };
        let mut text = b"[".to_vec();
        for (index, node) in nodes.iter().enumerate() {
            text.extend_from_slice(if index == 0 { b"\n" } else { b",\n" });
            let kept = StoredNode {
                registration: Registration::clone(&node.registration),
                token_sha256: node.token.as_ref().map(tokens::hex),
                heard_ms: node.heard_ms,
                report: None,
            };
            let mut head = serde_json::to_vec(&kept)?;
            head.pop();
            text.append(&mut head);
            text.extend_from_slice(b",\"report\":");
            text.extend_from_slice(
                node.report
                    .as_ref()
                    .map_or(b"null".as_slice(), |report| &report.sent),
            );
            text.push(b'}');
        }
        text.extend_from_slice(b"\n]\n");
        write(directory, "nodes.json", &text)
    }
}

fn new_epoch() -> String {
    Uuid::new_v4()
        .simple()
        .to_string()
        .chars()
        .take(16)
        .collect()
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> io::Result<T> {
    let text = fs::read(path).map_err(|error| at(path, &error))?;
    serde_json::from_slice(&text)
        .map_err(|error| at(path, &io::Error::new(ErrorKind::InvalidData, error)))
}

/// Replaces a file: readers see the old content or the new, also after a power cut.
fn write(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.new"));
    let written = || {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, directory.join(name))?;
        File::open(directory)?.sync_all()
    };
    written().map_err(|error| at(&temporary, &error))
}
