//! Sets in files: `<node_id>.yaml` and `_default.yaml` in one directory, checked at intervals.
//! Blocks.
//!
//! A set stays as it was read last if its file is invalid or unreadable, or if the directory is
//! missing or replaced: a missing mount shows as an empty directory. A set is deleted only when its
//! file disappears from the same directory while the server runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use state::spec::parse::FieldError;

use super::Server;
use super::body::{SET_BYTES_MAX, name_error};
use super::changes::ChangeOrigin;
use super::sets::{ContainerSet, DEFAULT, SetChange};

/// Device, inode, length and change time of a file; they differ where the content does.
type FileSignature = (u64, u64, u64, i64, i64);

/// A directory's device and inode, and its files by name. A file that cannot be examined has no
/// signature.
type DirectoryListing = ((u64, u64), BTreeMap<String, Option<FileSignature>>);

#[derive(Debug, Default)]
struct SetFile {
    /// Signature of the content that was read last, valid or not.
    read: Option<FileSignature>,
    /// Signature that the last check found; the file may still be being written.
    found: Option<FileSignature>,
    /// Whether the file's set is in force.
    is_wanted: bool,
    /// Whether the last check missed the file.
    is_missing: bool,
}

/// The set files, as the last check found them.
#[derive(Debug)]
pub(super) struct SetFiles {
    directory: PathBuf,
    /// Device and inode of the directory. `None`: before the first check.
    identity: Option<(u64, u64)>,
    seen: BTreeMap<String, SetFile>,
    /// Files with other names, which were warned of already.
    odd: BTreeSet<PathBuf>,
    is_readable: bool,
}

impl SetFiles {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            identity: None,
            seen: BTreeMap::new(),
            odd: BTreeSet::new(),
            is_readable: true,
        }
    }

    /// Checks the directory, and applies files that changed and were the same in two checks in a
    /// row: a file is written in steps, and half of one may be a valid set without the other half's
    /// containers.
    pub(super) fn look(&mut self, server: &Server) {
        let (identity, found) = match self.list() {
            Ok(found) => found,
            Err(error) => {
                if std::mem::take(&mut self.is_readable) {
                    let directory = self.directory.display();
                    tracing::error!(%directory, %error, "cannot read the directory of sets; the current sets stay in force");
                }
                return;
            }
        };
        if self.identity.is_some_and(|old| old != identity) {
            let names: Vec<_> = self.seen.keys().collect();
            tracing::warn!(
                ?names,
                "directory of sets was replaced; sets without a file in it stay in force"
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

    fn list(&mut self) -> io::Result<DirectoryListing> {
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
            if is_yaml && (stem == DEFAULT || name_error(stem).is_none()) {
                let file = fs::metadata(&path).ok().filter(Metadata::is_file);
                found.insert(stem.to_owned(), file.as_ref().map(signature));
            } else if !stem.starts_with('.') && self.odd.insert(path.clone()) {
                tracing::warn!(path = %path.display(), "file ignored: its name is not <node_id>.yaml");
            }
        }
        Ok(((identity.dev(), identity.ino()), found))
    }
}

impl SetFile {
    /// Reads the file, and puts its set into force.
    fn take(&mut self, name: &str, path: &Path, signature: FileSignature, server: &Server) {
        let file = path.display();
        let text = match read(path, signature) {
            Ok(Some(text)) => text,
            // The file is still being written: a later check reads it.
            Ok(None) => return,
            Err(error) => {
                return tracing::error!(%file, %error, "cannot read the set file; retrying");
            }
        };
        let set = match set(&text) {
            Ok(set) => set,
            Err(errors) => {
                self.read = Some(signature);
                for FieldError { field, message } in errors {
                    tracing::error!(%file, field, message, "set file is invalid; the current set stays in force");
                }
                return;
            }
        };
        match server.change_now(name, &SetChange::Put(Arc::new(set)), &ChangeOrigin::File) {
            Ok(_) => (self.read, self.is_wanted) = (Some(signature), true),
            // The next check reads the file again.
            Err(problem) => tracing::error!(%file, ?problem, "cannot apply the set file; retrying"),
        }
    }

    /// Deletes the set of a missing file, once two checks missed it: editors replace files. `true`:
    /// try again.
    fn stays(&mut self, name: &str, server: &Server) -> bool {
        if !std::mem::replace(&mut self.is_missing, true) {
            return true;
        }
        if !self.is_wanted {
            return false;
        }
        let gone = server.change_now(name, &SetChange::Delete, &ChangeOrigin::File);
        gone.inspect_err(|problem| {
            tracing::error!(
                name,
                ?problem,
                "cannot delete the set of a deleted file; retrying"
            );
        })
        .is_err()
    }
}

fn signature(file: &Metadata) -> FileSignature {
    (
        file.dev(),
        file.ino(),
        file.len(),
        file.ctime(),
        file.ctime_nsec(),
    )
}

/// The content of a file. `None`: its signature has changed since the check.
fn read(path: &Path, signature_before: FileSignature) -> io::Result<Option<Vec<u8>>> {
    let file = File::open(path)?;
    let mut text = Vec::new();
    (&file)
        .take(SET_BYTES_MAX as u64 + 1)
        .read_to_end(&mut text)?;
    Ok((signature(&file.metadata()?) == signature_before).then_some(text))
}

fn set(text: &[u8]) -> Result<ContainerSet, Vec<FieldError>> {
    let one_error = |message: String| {
        vec![FieldError {
            field: String::new(),
            message,
        }]
    };
    if text.len() > SET_BYTES_MAX {
        return Err(one_error(format!(
            "the file is larger than {SET_BYTES_MAX} bytes"
        )));
    }
    // YAML's own value type refuses duplicate keys.
    let yaml: serde_yaml::Value =
        serde_yaml::from_slice(text).map_err(|error| one_error(error.to_string()))?;
    let body: Value = serde_json::to_value(yaml).map_err(|error| one_error(error.to_string()))?;
    ContainerSet::of(&body, false)
}
