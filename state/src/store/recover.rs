//! What a start does with what it finds: it takes the newest copy that is whole, moves the rest aside, and says so. It
//! never fails, for no start may need a person.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::copy::{self, Found};
use super::disk::{Disk, Fault};
use super::quarantine::quarantine;
use crate::desired::Entries;
use crate::desired::set::{Adoption, Desired, DesiredChange, FORMAT};

/// sled's directory in the state directory.
pub(super) const SLED: &str = "state";
/// Where damaged files go.
pub(super) const QUARANTINE: &str = "quarantine";
/// Counts the openings of sled that have not come to their end.
const OPENING: &str = "opening";
/// So many openings in a row that ended the whole agent (out of memory, for instance) condemn the files. More than one,
/// since the agent may also have been killed just then.
const OPENINGS_MAX: u32 = 3;

/// What a start came to.
#[derive(Debug)]
pub(super) struct Recovered {
    /// `None`: the files cannot be written now.
    pub(super) disk: Option<Disk>,
    /// What is desired.
    pub(super) desired: Desired,
    /// What was lost, found damaged, or not understood, in sentences.
    pub(super) losses: Vec<String>,
}

/// Reads the state directory.
pub(super) fn recover(directory: &Path) -> Recovered {
    let mut losses = Vec::new();
    let copy = newest_copy(directory, &mut losses);
    let had_files = fs::metadata(directory.join(SLED).join("db")).is_ok_and(|db| db.len() > 0);
    match open_counted(directory) {
        Ok((disk, entries)) => {
            // So sled answers a file whose beginning it does not know.
            if had_files && entries.is_empty() {
                losses.push(format!(
                    "{SLED}/ held nothing any more; {}",
                    taken_from(copy.as_ref())
                ));
            }
            settle(directory, (disk, entries), copy, losses)
        }
        Err(Fault::Io(error)) => {
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
        Err(Fault::Broken(why)) => {
            let moved = set_aside(directory, &directory.join(SLED), &why);
            losses.push(format!(
                "{SLED}/ was damaged: {why}; {moved}; {}",
                taken_from(copy.as_ref())
            ));
            let desired = rebuilt(copy.map(|(_, entries)| entries), false);
            let disk = Disk::open(&directory.join(SLED))
                .and_then(|(disk, found)| mended(directory, disk, &found, &desired));
            let disk = disk
                .map_err(|fault| losses.push(format!("{SLED}/ cannot be made anew: {fault:?}")))
                .ok();
            Recovered {
                disk,
                desired,
                losses,
            }
        }
    }
}

/// sled opened. It may still know less than the copy does, for it drops a damaged end of its log without a word.
fn settle(
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
                    "{SLED}/ ended at change {seq}, {name} at {to}: it had lost changes, which are taken from there"
                ));
            }
            rebuilt(Some(copy), false)
        }
        // Everything may have been deleted: what runs is asked of the runtime.
        None if is_new => rebuilt(None, losses.is_empty()),
        None => Desired::from_entries(entries.clone()),
    };
    note_newer(directory, &entries, &desired, &mut losses);
    match mended(directory, disk, &entries, &desired) {
        Ok(disk) => Recovered {
            disk: Some(disk),
            desired,
            losses,
        },
        Err(fault) => {
            losses.push(format!("{SLED}/ cannot be written now: {fault:?}"));
            Recovered {
                disk: None,
                desired,
                losses,
            }
        }
    }
}

/// The desired state from a copy that may be older than what ran last.
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
            "taken from {name}, which holds everything up to change {}; what is newer, from containerd's labels",
            Desired::seq_of(entries)
        ),
        None => {
            "there is no copy that is whole, so what containerd's labels say is taken".to_owned()
        }
    }
}

fn newest_copy(directory: &Path, losses: &mut Vec<String>) -> Option<(&'static str, Entries)> {
    let mut newest: Option<(&str, Entries)> = None;
    for name in copy::NAMES {
        let path = directory.join(name);
        match copy::read(&path) {
            Found::Nothing => {}
            Found::Whole(entries) => {
                if newest
                    .as_ref()
                    .is_none_or(|(_, best)| Desired::seq_of(best) < Desired::seq_of(&entries))
                {
                    newest = Some((name, entries));
                }
            }
            Found::Unreadable(error) => losses.push(format!("{name} cannot be read: {error}")),
            Found::Broken(why) => {
                let moved = set_aside(directory, &path, &why);
                losses.push(format!("{name} was damaged: {why}; {moved}"));
            }
        }
    }
    newest
}

fn set_aside(directory: &Path, path: &Path, why: &str) -> String {
    match quarantine(&directory.join(QUARANTINE), path, why) {
        Ok(to) => format!(
            "moved to {}",
            to.strip_prefix(directory).unwrap_or(&to).display()
        ),
        Err(error) => format!("it cannot be moved aside: {error}"),
    }
}

/// What a newer version wrote is read as far as it is understood; all of it is kept beside, as this version may drop
/// what it does not know inside of a record that it changes.
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
        let (to, how) = (
            kept.strip_prefix(directory).unwrap_or(&kept).display(),
            written.err(),
        );
        losses.push(format!(
            "{SLED}/ was written by a newer version (format {format}, this one knows {FORMAT}); kept as it was in {to}{}",
            how.map(|error| format!(" - which failed: {error}")).unwrap_or_default()
        ));
    }
    // The number of the format itself is one of them then.
    let held = desired.unreadable_count() - usize::from(format != FORMAT);
    if held > 0 {
        losses.push(format!(
            "{held} entries are not understood; they are kept, and their containers are left alone"
        ));
    }
}

fn open_counted(directory: &Path) -> Result<(Disk, Entries), Fault> {
    let marker = directory.join(OPENING);
    let before: u32 = fs::read_to_string(&marker)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or_default();
    if before >= OPENINGS_MAX {
        let _gone = fs::remove_file(&marker);
        return Err(Fault::Broken(format!(
            "opening it ended the agent {before} times in a row"
        )));
    }
    // A disk that does not take the mark is no reason not to open.
    let _marked = fs::write(&marker, format!("{}\n", before + 1));
    let opened = Disk::open(&directory.join(SLED));
    let _unmarked = fs::remove_file(&marker);
    opened
}

/// Makes the files say what is desired: no less, and no more.
pub(super) fn mended(
    directory: &Path,
    mut disk: Disk,
    found: &Entries,
    desired: &Desired,
) -> Result<Disk, Fault> {
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
