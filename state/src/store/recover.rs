//! Recovery at the start: the newest intact copy is taken, damaged files go into quarantine, and
//! the losses are told. Recovery never fails, for no start may need a person.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::copy::{self, CopyState};
use super::disk::{Disk, DiskError};
use super::quarantine::quarantine;
use crate::desired::Entries;
use crate::desired::set::{Adoption, Desired, DesiredChange, FORMAT};

/// sled's directory in the state directory.
pub(super) const SLED: &str = "state";
/// Directory for damaged files in the state directory.
pub(super) const QUARANTINE: &str = "quarantine";
/// File that counts the openings of sled that have not ended.
const OPENING: &str = "opening";
/// Openings in a row that ended the whole agent (out of memory, for instance), after which the
/// files count as damaged. More than one, since the agent may also have been killed just then.
const OPENINGS_MAX: u32 = 3;

/// The state that a start begins with.
#[derive(Debug)]
pub(super) struct Recovered {
    /// The opened files. `None`: they cannot be written now.
    pub(super) disk: Option<Disk>,
    /// The desired state.
    pub(super) desired: Desired,
    /// Files lost, damaged, or not readable, in sentences.
    pub(super) losses: Vec<String>,
}

/// Reads the state directory.
pub(super) fn recover(directory: &Path) -> Recovered {
    let mut losses = Vec::new();
    let copy = newest_copy(directory, &mut losses);
    let had_files = fs::metadata(directory.join(SLED).join("db")).is_ok_and(|db| db.len() > 0);
    match open_counted(directory) {
        Ok((disk, entries)) => {
            // sled answers nothing where it does not recognise the beginning of its file.
            if had_files && entries.is_empty() {
                losses.push(format!(
                    "{SLED}/ was empty although it held data before; {}",
                    taken_from(copy.as_ref())
                ));
            }
            opened(directory, (disk, entries), copy, losses)
        }
        Err(DiskError::Io(error)) => {
            losses.push(format!(
                "{SLED}/ cannot be opened now ({error}); {}",
                taken_from(copy.as_ref())
            ));
            let desired = rebuilt(copy.map(|(_, entries)| entries), false);
            Recovered {
                disk: None,
                desired,
                losses,
            }
        }
        Err(DiskError::Damaged(why)) => {
            let moved = move_to_quarantine(directory, &directory.join(SLED), &why);
            losses.push(format!(
                "{SLED}/ was damaged: {why}; {moved}; {}",
                taken_from(copy.as_ref())
            ));
            let desired = rebuilt(copy.map(|(_, entries)| entries), false);
            let disk = Disk::open(&directory.join(SLED))
                .and_then(|(disk, found)| repaired(directory, disk, &found, &desired));
            let disk = disk
                .map_err(|error| losses.push(format!("{SLED}/ cannot be created again: {error}")))
                .ok();
            Recovered {
                disk,
                desired,
                losses,
            }
        }
    }
}

/// The state after sled opened. A copy may still be newer, for sled drops a damaged end of its log
/// silently.
fn opened(
    directory: &Path,
    (disk, entries): (Disk, Entries),
    copy: Option<(&str, Entries)>,
    losses: Vec<String>,
) -> Recovered {
    let (mut losses, seq, is_new) = (losses, Desired::seq_of(&entries), entries.is_empty());
    let newer = copy.filter(|(_, copy)| Desired::seq_of(copy) > seq);
    let desired = match newer {
        Some((name, copy)) => {
            let to = Desired::seq_of(&copy);
            if !is_new || losses.is_empty() {
                losses.push(format!(
                    "{SLED}/ had lost changes: it ended at change {seq}, {name} at {to}; \
                     {name} is taken"
                ));
            }
            rebuilt(Some(copy), false)
        }
        // The files may have been deleted: the records are in the runtime's labels then.
        None if is_new => rebuilt(None, losses.is_empty()),
        None => Desired::from_entries(entries.clone()),
    };
    note_newer(directory, &entries, &desired, &mut losses);
    match repaired(directory, disk, &entries, &desired) {
        Ok(disk) => Recovered {
            disk: Some(disk),
            desired,
            losses,
        },
        Err(error) => {
            losses.push(format!("{SLED}/ cannot be written now: {error}"));
            Recovered {
                disk: None,
                desired,
                losses,
            }
        }
    }
}

/// The desired state from a copy that may be older than the last one that ran.
fn rebuilt(copy: Option<Entries>, is_new: bool) -> Desired {
    let desired = Desired::from_entries(copy.unwrap_or_default());
    let adoption = desired.adoption().unwrap_or(Adoption {
        above: desired.seq(),
        is_new,
    });
    desired.with(&[DesiredChange::Adopt(Some(adoption))])
}

fn taken_from(copy: Option<&(&str, Entries)>) -> String {
    match copy {
        Some((name, entries)) => format!(
            "taken from {name}, which holds everything up to change {}; \
             newer records are taken from containerd's labels",
            Desired::seq_of(entries)
        ),
        None => "no copy is intact; the records are taken from containerd's labels".to_owned(),
    }
}

fn newest_copy(directory: &Path, losses: &mut Vec<String>) -> Option<(&'static str, Entries)> {
    let mut newest: Option<(&str, Entries)> = None;
    for name in copy::NAMES {
        let path = directory.join(name);
        match copy::read(&path) {
            CopyState::Missing => {}
            CopyState::Intact(entries) => {
                if newest
                    .as_ref()
                    .is_none_or(|(_, best)| Desired::seq_of(best) < Desired::seq_of(&entries))
                {
                    newest = Some((name, entries));
                }
            }
            CopyState::Unreadable(error) => losses.push(format!("{name} cannot be read: {error}")),
            CopyState::Damaged(why) => {
                let moved = move_to_quarantine(directory, &path, &why);
                losses.push(format!("{name} was damaged: {why}; {moved}"));
            }
        }
    }
    newest
}

fn move_to_quarantine(directory: &Path, path: &Path, why: &str) -> String {
    match quarantine(&directory.join(QUARANTINE), path, why) {
        Ok(to) => format!(
            "moved to {}",
            to.strip_prefix(directory).unwrap_or(&to).display()
        ),
        Err(error) => format!("not moved to quarantine: {error}"),
    }
}

/// Tells of entries that this version cannot read, and keeps a newer version's entries in a file: a
/// member that this version does not know is lost from a record that it changes.
fn note_newer(directory: &Path, entries: &Entries, desired: &Desired, losses: &mut Vec<String>) {
    let format = Desired::format(entries);
    if format != FORMAT {
        let kept = directory
            .join(QUARANTINE)
            .join(format!("newer-format-{format}.json"));
        let text = serde_json::to_vec_pretty(entries).unwrap_or_default();
        let written = fs::create_dir_all(directory.join(QUARANTINE));
        let written = written.and_then(|()| {
            if kept.exists() {
                Ok(())
            } else {
                fs::write(&kept, text)
            }
        });
        let (to, failure) = (
            kept.strip_prefix(directory).unwrap_or(&kept).display(),
            written.err(),
        );
        losses.push(format!(
            "{SLED}/ was written by a newer version (format {format}, this version writes {FORMAT}); \
             its entries are kept in {to}{}",
            failure.map(|error| format!(", which failed: {error}")).unwrap_or_default()
        ));
    }
    // A newer format's number is itself an entry that this version does not know.
    let unreadable = desired.unreadable_count() - usize::from(format != FORMAT);
    if unreadable > 0 {
        losses.push(format!(
            "{unreadable} entries cannot be read by this version; \
             they are kept, and their containers are left alone"
        ));
    }
}

fn open_counted(directory: &Path) -> Result<(Disk, Entries), DiskError> {
    let marker = directory.join(OPENING);
    let before: u32 = fs::read_to_string(&marker)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or_default();
    if before >= OPENINGS_MAX {
        let _gone = fs::remove_file(&marker);
        return Err(DiskError::Damaged(format!(
            "opening the files ended the agent {before} times in a row"
        )));
    }
    // A disk that refuses the marker is no reason not to open.
    let _marked = fs::write(&marker, format!("{}\n", before + 1));
    let opened = Disk::open(&directory.join(SLED));
    let _unmarked = fs::remove_file(&marker);
    opened
}

/// The files once they hold the desired state: no less, and no more.
pub(super) fn repaired(
    directory: &Path,
    mut disk: Disk,
    found: &Entries,
    desired: &Desired,
) -> Result<Disk, DiskError> {
    let wanted = desired.entries();
    let gone = found
        .keys()
        .filter(|key| !wanted.contains_key(*key))
        .map(|key| (key.clone(), None));
    let other = wanted
        .iter()
        .filter(|(key, value)| found.get(*key) != Some(value));
    let changes: Vec<(String, Option<Value>)> = gone
        .chain(other.map(|(key, value)| (key.clone(), Some(value.clone()))))
        .collect();
    if !changes.is_empty() {
        disk.write(&directory.join(SLED), &changes)?;
    }
    Ok(disk)
}
