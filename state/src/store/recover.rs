//! Recovery at the start: the chosen copy is taken, damaged files go into quarantine, and the
//! losses are told. Recovery never fails, for no start may need a person.

use std::fs;

use serde_json::Value;

use super::copy::{self, CopyState};
use super::disk::{Disk, DiskError};
use super::last::{self, LastChange, LastState};
use super::quarantine::quarantine;
use super::state_dir::{DiskCall, SLED, StateDir};
use super::survey::{Choice, CopyOrigin, SledState, Survey};
use crate::desired::Entries;
use crate::desired::set::{Adoption, Desired, DesiredChange, FORMAT};
use crate::desired::uncertain::LostChanges;

/// Directory for damaged files in the state directory.
pub(super) const QUARANTINE: &str = "quarantine";

/// The state that a start begins with.
#[derive(Debug)]
pub(super) struct Recovered {
    /// sled's files, which hold the state. `None`: they cannot be written now.
    pub(super) disk: Option<Disk>,
    /// The desired state.
    pub(super) desired: Desired,
    /// Files lost, damaged, or not readable, in sentences.
    pub(super) losses: Vec<String>,
    /// The last change, to be noted.
    pub(super) last: LastChange,
}

/// Takes the state from what was found.
pub(super) fn recover(dir: &StateDir, survey: Survey) -> Recovered {
    let choice = survey.choice();
    if let Choice::Unknown(origin) = choice {
        return unknown(survey, origin);
    }
    let losses = survey.unreadable();
    let Survey { last, sled, copies } = survey;
    let mut recovery = Recovery { dir, losses };
    let copies = recovery.intact(copies);
    let (disk, found) = recovery.sled(sled, choice, &copies);
    let entries = match choice {
        Choice::Current(origin) | Choice::Newest(Some(origin)) | Choice::Older(Some(origin)) => {
            taken(origin, &found, copies)
        }
        Choice::Newest(None) | Choice::Older(None) | Choice::Unknown(_) => Entries::new(),
    };
    recovery.tell_lost_end(&found, &entries, choice);
    let last = match last {
        LastState::Known(last) => Some(last),
        LastState::Missing | LastState::Unreadable(_) => None,
        LastState::Damaged => {
            recovery.tell(format!("{} was damaged; it is written anew", last::NAME));
            None
        }
    };
    let is_new = recovery.losses.is_empty();
    let desired = match choice {
        Choice::Current(_) | Choice::Newest(Some(CopyOrigin::Sled)) => {
            Desired::from_entries(entries)
        }
        Choice::Older(_) => {
            let end = Desired::seq_of(&entries);
            let lost = last.as_ref().map(|last| last.lost_after(end));
            recovery.tell_older(end, lost.as_ref());
            rebuilt(entries, false, lost)
        }
        Choice::Newest(None) => rebuilt(entries, is_new, None),
        Choice::Newest(_) | Choice::Unknown(_) => rebuilt(entries, false, None),
    };
    recovery.note_newer(&found, &desired);
    let disk = recovery.writable(disk, &found, &desired);
    let last = last.filter(|last| last.seq == desired.seq());
    Recovered {
        disk,
        losses: recovery.losses,
        last: last.unwrap_or_else(|| LastChange::at(desired.seq())),
        desired,
    }
}

/// The state to show while it is not known what was asked last. Nothing is touched.
fn unknown(survey: Survey, origin: Option<CopyOrigin>) -> Recovered {
    let mut losses = survey.unreadable();
    let Survey { sled, copies, .. } = survey;
    let entries = match (origin, sled, copies) {
        (Some(CopyOrigin::Sled), SledState::Open(_, entries), _) => entries,
        (Some(CopyOrigin::Copy(0)), _, [CopyState::Intact(entries), _])
        | (Some(CopyOrigin::Copy(1)), _, [_, CopyState::Intact(entries)]) => entries,
        _ => Entries::new(),
    };
    let desired = Desired::from_entries(entries).unknown();
    losses.push(format!(
        "what was asked last is not known until they can be opened; what is shown is as of change \
         {}, and nothing is started, stopped or changed",
        desired.seq()
    ));
    Recovered {
        disk: None,
        last: LastChange::at(desired.seq()),
        desired,
        losses,
    }
}

/// The desired state from a copy that may be older than the last one that ran.
fn rebuilt(entries: Entries, is_new: bool, lost: Option<LostChanges>) -> Desired {
    let desired = Desired::from_entries(entries);
    let adoption = desired.adoption().unwrap_or(Adoption {
        above: desired.seq(),
        is_new,
    });
    let lost = lost.map(DesiredChange::Lose);
    let adopt = DesiredChange::Adopt(Some(adoption));
    desired.with(&lost.into_iter().chain([adopt]).collect::<Vec<_>>())
}

fn taken(origin: CopyOrigin, found: &Entries, copies: [Option<Entries>; 2]) -> Entries {
    let [a, b] = copies;
    match origin {
        CopyOrigin::Sled => Some(found.clone()),
        CopyOrigin::Copy(0) => a,
        CopyOrigin::Copy(_) => b,
    }
    .unwrap_or_default()
}

/// A recovery under way.
struct Recovery<'a> {
    dir: &'a StateDir,
    losses: Vec<String>,
}

impl Recovery<'_> {
    fn tell(&mut self, loss: String) {
        self.losses.push(loss);
    }

    /// The entries of the copies that are intact. Damaged ones go into quarantine.
    fn intact(&mut self, copies: [CopyState; 2]) -> [Option<Entries>; 2] {
        let mut names = copy::NAMES.into_iter();
        copies.map(|copy| {
            let name = names.next().unwrap_or_default();
            match copy {
                CopyState::Intact(entries) => Some(entries),
                CopyState::Missing | CopyState::Unreadable(_) => None,
                CopyState::Damaged(why) => {
                    let moved = self.move_to_quarantine(name, &why);
                    self.tell(format!("{name} was damaged: {why}; {moved}"));
                    None
                }
            }
        })
    }

    /// sled's files and what they hold; damaged ones go into quarantine, and new ones take their
    /// place.
    fn sled(
        &mut self,
        sled: SledState,
        choice: Choice,
        copies: &[Option<Entries>; 2],
    ) -> (Option<Disk>, Entries) {
        let taken = || taken_from(choice, copies);
        match sled {
            SledState::Open(disk, entries) => {
                // sled answers nothing where it does not recognise the beginning of its file.
                if entries.is_empty() {
                    let taken = taken();
                    self.tell(format!(
                        "{SLED}/ was empty although it held data before; {taken}"
                    ));
                }
                (Some(*disk), entries)
            }
            SledState::Unreadable(_) | SledState::Slow => {
                let taken = taken();
                self.tell(format!("{SLED}/ is not used for now; {taken}"));
                (None, Entries::new())
            }
            SledState::Missing => self.create(),
            SledState::Damaged(why) => {
                let (moved, taken) = (self.move_to_quarantine(SLED, &why), taken());
                self.tell(format!("{SLED}/ was damaged: {why}; {moved}; {taken}"));
                self.create()
            }
        }
    }

    fn create(&mut self) -> (Option<Disk>, Entries) {
        let asked = self.dir.ask(DiskCall::Create).map_err(DiskError::Io);
        match asked.and_then(|()| Disk::open(&self.dir.join(SLED))) {
            Ok((disk, entries)) => (Some(disk), entries),
            Err(error) => {
                self.tell(format!("{SLED}/ cannot be created now: {error}"));
                (None, Entries::new())
            }
        }
    }

    fn tell_lost_end(&mut self, found: &Entries, entries: &Entries, choice: Choice) {
        let (Choice::Current(CopyOrigin::Copy(copy))
        | Choice::Newest(Some(CopyOrigin::Copy(copy)))
        | Choice::Older(Some(CopyOrigin::Copy(copy)))) = choice
        else {
            return;
        };
        if !found.is_empty() || self.losses.is_empty() {
            let (seq, to) = (Desired::seq_of(found), Desired::seq_of(entries));
            let name = copy::NAMES[copy.min(1)];
            self.tell(format!(
                "{SLED}/ had lost changes: it ended at change {seq}, {name} at {to}; {name} is taken"
            ));
        }
    }

    fn tell_older(&mut self, end: u64, lost: Option<&LostChanges>) {
        let Some(lost) = lost else { return };
        let concerned = match &lost.containers {
            None => "any container".to_owned(),
            Some(ids) if ids.is_empty() => "no container".to_owned(),
            Some(ids) => {
                let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
                ids.join(", ")
            }
        };
        self.tell(format!(
            "changes {} to {} are in no copy any more; they may concern {concerned}: such a \
             container is left as it is until something is asked of it",
            end + 1,
            lost.until
        ));
    }

    fn move_to_quarantine(&self, name: &str, why: &str) -> String {
        let (to, path) = (self.dir.join(QUARANTINE), self.dir.join(name));
        match quarantine(self.dir, &to, &path, why) {
            Ok(to) => format!(
                "moved to {}",
                to.strip_prefix(self.dir.path()).unwrap_or(&to).display()
            ),
            Err(error) => format!("not moved to quarantine: {error}"),
        }
    }

    /// Tells of entries that this version cannot read, and keeps a newer version's entries in a
    /// file: a member that this version does not know is lost from a record that it changes.
    fn note_newer(&mut self, found: &Entries, desired: &Desired) {
        let format = Desired::format(found);
        if format != FORMAT {
            let (to, failure) = self.keep_newer(found, format);
            self.tell(format!(
                "{SLED}/ was written by a newer version (format {format}, this version writes {FORMAT}); \
                 its entries are kept in {to}{}",
                failure.map(|error| format!(", which failed: {error}")).unwrap_or_default()
            ));
        }
        let unreadable = desired.unreadable_contents();
        if unreadable > 0 {
            self.tell(format!(
                "{unreadable} entries cannot be read by this version; \
                 they are kept, and their containers are left alone"
            ));
        }
    }

    fn keep_newer(&self, found: &Entries, format: u64) -> (String, Option<std::io::Error>) {
        let name = format!("{QUARANTINE}/newer-format-{format}.json");
        let kept = self.dir.join(&name);
        let text = serde_json::to_vec_pretty(found).unwrap_or_default();
        let written = fs::create_dir_all(self.dir.join(QUARANTINE)).and_then(|()| {
            if kept.exists() {
                Ok(())
            } else {
                fs::write(&kept, text)
            }
        });
        (name, written.err())
    }

    fn writable(&mut self, disk: Option<Disk>, found: &Entries, desired: &Desired) -> Option<Disk> {
        let mut disk = disk?;
        repaired(self.dir, &mut disk, found, desired)
            .map_err(|error| self.tell(format!("{SLED}/ cannot be written now: {error}")))
            .ok()
            .map(|()| disk)
    }
}

fn taken_from(choice: Choice, copies: &[Option<Entries>; 2]) -> String {
    let (origin, is_current) = match choice {
        Choice::Current(origin) => (Some(origin), true),
        Choice::Newest(origin) | Choice::Older(origin) | Choice::Unknown(origin) => (origin, false),
    };
    let Some(CopyOrigin::Copy(number)) = origin else {
        return "no copy is intact; the records are taken from containerd's labels".to_owned();
    };
    let (name, entries) = (copy::NAMES[number.min(1)], &copies[number.min(1)]);
    let seq = entries.as_ref().map(Desired::seq_of).unwrap_or_default();
    if is_current {
        return format!("taken from {name}, which holds everything up to change {seq}, the last");
    }
    format!(
        "taken from {name}, which holds everything up to change {seq}; \
         newer records are taken from containerd's labels"
    )
}

/// Has the files hold the desired state: no less, and no more.
pub(super) fn repaired(
    dir: &StateDir,
    disk: &mut Disk,
    found: &Entries,
    desired: &Desired,
) -> Result<(), DiskError> {
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
    if changes.is_empty() {
        return Ok(());
    }
    disk.write(dir, &changes, &[])
}
