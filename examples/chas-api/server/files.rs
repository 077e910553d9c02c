//! Sets in files: `<node_id>.yaml` and `_default.yaml` in one directory, looked at again and again. Blocks.
//!
//! Whatever is wrong keeps what was read last: a file that is not valid, one that cannot be read, a directory that is gone or
//! another one than before (a mount that is missing shows as an empty directory). Only a file that goes away from a directory
//! that stays takes its set with it, and only if that was seen: what was deleted before the start is not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use state::spec::parse::FieldError;

use super::Server;
use super::body::{SET_BYTES_MAX, name_fault};
use super::changes::By;
use super::sets::{Change, DEFAULT, Set};

/// Device, inode, length and time of the last change: another one, another content.
type Signature = (u64, u64, u64, i64, i64);

/// What is in a directory: its device and inode, and its files by name. One that is there and cannot be looked at has no
/// signature.
type Listing = ((u64, u64), BTreeMap<String, Option<Signature>>);

#[derive(Debug, Default)]
struct Seen {
    /// What was read last, good or not.
    read: Option<Signature>,
    /// What the last look found, in case that it is being written just now.
    found: Option<Signature>,
    /// Its set is wanted.
    is_wanted: bool,
    /// The last look did not find it.
    is_missing: bool,
}

/// The files, as the last look found them.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    /// Of the directory. `None`: there was no look yet.
    identity: Option<(u64, u64)>,
    seen: BTreeMap<String, Seen>,
    /// What was told of already: files that mean nothing here.
    odd: BTreeSet<PathBuf>,
    is_readable: bool,
}

impl Files {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            identity: None,
            seen: BTreeMap::new(),
            odd: BTreeSet::new(),
            is_readable: true,
        }
    }

    /// Looks at the directory, and takes in what is new and two looks in a row found: whoever writes a file does not do so at
    /// once, and half of one may be a valid set that stops the other half.
    pub(super) fn look(&mut self, server: &Server) {
        let (identity, found) = match self.list() {
            Ok(found) => found,
            Err(error) => {
                if std::mem::take(&mut self.is_readable) {
                    let directory = self.directory.display();
                    tracing::error!(%directory, %error, "the sets cannot be read; the last ones stay");
                }
                return;
            }
        };
        if self.identity.is_some_and(|old| old != identity) {
            let names: Vec<_> = self.seen.keys().collect();
            tracing::warn!(
                ?names,
                "this is another directory than before; what is not in it stays as it was"
            );
            server.release(std::mem::take(&mut self.seen).into_keys());
        }
        (self.identity, self.is_readable) = (Some(identity), true);
        for (name, signature) in &found {
            let seen = self.seen.entry(name.clone()).or_default();
            let is_settled = seen.found == *signature;
            (seen.found, seen.is_missing) = (*signature, false);
            if let Some(signature) = signature.filter(|_| seen.read != *signature && is_settled) {
                seen.take(
                    name,
                    &self.directory.join(format!("{name}.yaml")),
                    signature,
                    server,
                );
            }
        }
        self.seen
            .retain(|name, seen| found.contains_key(name) || seen.stays(name, server));
    }

    fn list(&mut self) -> io::Result<Listing> {
        let identity = fs::metadata(&self.directory)?;
        let mut found = BTreeMap::new();
        for file in fs::read_dir(&self.directory)? {
            let path = file?.path();
            let stem = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .unwrap_or_default();
            let is_yaml = path
                .extension()
                .is_some_and(|extension| extension == "yaml");
            if is_yaml && (stem == DEFAULT || name_fault(stem).is_none()) {
                let file = fs::metadata(&path).ok().filter(Metadata::is_file);
                found.insert(stem.to_owned(), file.as_ref().map(signature));
            } else if !stem.starts_with('.') && self.odd.insert(path.clone()) {
                tracing::warn!(path = %path.display(), "is no <node_id>.yaml, and means nothing here");
            }
        }
        Ok(((identity.dev(), identity.ino()), found))
    }
}

impl Seen {
    /// Reads the file, and makes its set the node's.
    fn take(&mut self, name: &str, path: &Path, signature: Signature, server: &Server) {
        let file = path.display();
        let text = match read(path, signature) {
            Ok(Some(text)) => text,
            // It is being written after all: the next looks will see.
            Ok(None) => return,
            Err(error) => {
                return tracing::error!(%file, %error, "a set cannot be read; tried again");
            }
        };
        let set = match set(&text) {
            Ok(set) => set,
            Err(faults) => {
                self.read = Some(signature);
                for FieldError { field, message } in faults {
                    tracing::error!(%file, field, message, "a set is not valid; the last one stays");
                }
                return;
            }
        };
        match server.change_now(name, &Change::Put(Arc::new(set)), &By::File) {
            Ok(_) => (self.read, self.is_wanted) = (Some(signature), true),
            // Not read, as far as the next look is concerned.
            Err(problem) => tracing::error!(%file, ?problem, "a set cannot be taken; tried again"),
        }
    }

    /// The file is gone. Editors put another one in its place, so it has to be gone twice.
    fn stays(&mut self, name: &str, server: &Server) -> bool {
        if !std::mem::replace(&mut self.is_missing, true) {
            return true;
        }
        if !self.is_wanted {
            return false;
        }
        let gone = server.change_now(name, &Change::Delete, &By::File);
        gone.inspect_err(|problem| {
            tracing::error!(name, ?problem, "a set cannot be taken away; tried again");
        })
        .is_err()
    }
}

fn signature(file: &Metadata) -> Signature {
    (
        file.dev(),
        file.ino(),
        file.len(),
        file.ctime(),
        file.ctime_nsec(),
    )
}

/// What is in the file, if it is the one with this signature, and still is when all was read.
fn read(path: &Path, signature_before: Signature) -> io::Result<Option<Vec<u8>>> {
    let file = File::open(path)?;
    let mut text = Vec::new();
    (&file)
        .take(SET_BYTES_MAX as u64 + 1)
        .read_to_end(&mut text)?;
    Ok((signature(&file.metadata()?) == signature_before).then_some(text))
}

fn set(text: &[u8]) -> Result<Set, Vec<FieldError>> {
    let fault = |message: String| {
        vec![FieldError {
            field: String::new(),
            message,
        }]
    };
    if text.len() > SET_BYTES_MAX {
        return Err(fault(format!("is larger than {SET_BYTES_MAX} bytes")));
    }
    // By way of YAML's own value: it refuses a key that is there twice.
    let yaml: serde_yaml::Value =
        serde_yaml::from_slice(text).map_err(|error| fault(error.to_string()))?;
    let body: Value = serde_json::to_value(yaml).map_err(|error| fault(error.to_string()))?;
    Set::of(&body, false)
}
