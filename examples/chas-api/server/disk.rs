//! What survives a restart, as files that a person can read. Everything here blocks.
//!
//! `epoch` is made once: losing the directory makes another one, and whoever sets the rest back to a backup deletes it.
//! `sets/` has a file for each name, written before a change is answered. `nodes.json` is written every now and then:
//! whatever is lost of it comes again with the next registration.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::nodes::{Node, Registration, Report};
use super::sets::{Entry, Set};
use super::tokens;

/// Where the state is kept. Without a directory it ends with the process.
#[derive(Debug)]
pub(super) struct Disk {
    epoch: String,
    /// With the lock that keeps another server out of it, for as long as this one lives.
    kept: Option<(PathBuf, File)>,
}

#[derive(Deserialize)]
struct KeptEntry {
    name: String,
    set: Option<Value>,
    count: i64,
    confirmed: Option<u64>,
    /// In which the confirmation was given: in another one it is last week's word.
    confirmed_epoch: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct KeptNode {
    registration: Registration,
    token_sha256: Option<String>,
    heard_ms: u64,
    /// As it was sent: written without being read again, so that ten thousand of them are no work.
    #[serde(skip_serializing)]
    report: Option<Value>,
}

impl Disk {
    /// Takes the directory, which is made if it is not there.
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
                &io::Error::other("another server has this directory"),
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

    /// Of this state. Another one: everything was lost, and generations begin anew.
    pub(super) fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Everything that [`Self::keep`] kept. A file that cannot be read is an error: to begin without it would take from
    /// nodes what they are to run.
    pub(super) fn entries(&self) -> io::Result<Vec<(String, Entry)>> {
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
                let kept: KeptEntry = read(&path)?;
                let set = kept.set.as_ref().map(|set| Arc::new(Set::stored(set)));
                let confirmed = kept
                    .confirmed
                    .filter(|_| kept.confirmed_epoch.as_ref() == Some(&self.epoch));
                entries.push((
                    kept.name,
                    Entry {
                        set,
                        count: kept.count,
                        confirmed,
                    },
                ));
            }
        }
        Ok(entries)
    }

    /// Keeps what is known of `name`. On the disk when it answers.
    pub(super) fn keep(&self, name: &str, entry: &Entry) -> io::Result<()> {
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

    /// Every node that [`Self::keep_nodes`] kept.
    pub(super) fn nodes(&self) -> io::Result<Vec<Node>> {
        let Some((directory, _)) = &self.kept else {
            return Ok(Vec::new());
        };
        let path = directory.join("nodes.json");
        let kept: Vec<KeptNode> = if path.exists() {
            read(&path)?
        } else {
            Vec::new()
        };
        let node = |kept: KeptNode| {
            let report = kept.report.and_then(|report| {
                let sent = report.to_string().into();
                Some(Arc::new(Report {
                    summary: serde_json::from_value(report).ok()?,
                    sent,
                }))
            });
            let token = kept.token_sha256.and_then(|hex| tokens::from_hex(&hex));
            Node {
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

    /// Keeps all nodes in place of those kept before.
    pub(super) fn keep_nodes(&self, nodes: &[Node]) -> io::Result<()> {
        let Some((directory, _)) = &self.kept else {
            return Ok(());
        };
        let mut text = b"[".to_vec();
        for (index, node) in nodes.iter().enumerate() {
            text.extend_from_slice(if index == 0 { b"\n" } else { b",\n" });
            let kept = KeptNode {
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

/// Whoever reads it sees the old content or the new, also after a power cut.
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
