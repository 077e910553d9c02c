//! A survey of all copies of the state, and the choice of the one to go by. Nothing is changed by
//! it: what is damaged is dealt with once the choice is made.
//!
//! Only a copy that is damaged may be given up for an older one. One that cannot be opened *now*
//! may be the newest, unless another is known to hold the last change: then the state is unknown,
//! and nothing may be done until it can be opened.

use std::fs;
use std::io::{self, ErrorKind};

use super::copy::{self, CopyState};
use super::disk::{Disk, DiskError};
use super::last::{self, LastState};
use super::reserve;
use super::state_dir::{DiskCall, SLED, StateDir};
use crate::desired::Entries;
use crate::desired::set::Desired;

/// File that counts the openings of sled that have not ended.
const OPENING: &str = "opening";
/// Openings in a row that ended the whole agent (out of memory, for instance), after which the
/// files count as damaged. More than one, since the agent may also have been killed just then.
const OPENINGS_MAX: u32 = 3;

/// State of sled's files.
#[derive(Debug)]
pub(super) enum SledState {
    /// No file, or an empty one.
    Missing,
    /// The files are open, and hold these entries. None: sled does not know its own file again.
    Open(Box<Disk>, Entries),
    /// The files cannot be opened now; their contents may be intact.
    Unreadable(io::Error),
    /// The opening does not end.
    Slow,
    /// The files are not as they were written.
    Damaged(String),
}

/// All copies of the state, as they are found.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) last: LastState,
    pub(super) sled: SledState,
    pub(super) copies: [CopyState; 2],
}

/// Standing of one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The copy is intact up to this change.
    Intact(u64),
    /// Damaged, or missing.
    Gone,
    /// The copy cannot be opened now.
    Unreadable,
}

/// CopyOrigin of the state: sled, or the copy with this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyOrigin {
    Sled,
    Copy(usize),
}

/// The choice of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The copy that holds the last change.
    Current(CopyOrigin),
    /// The newest copy, of which it is not known whether it holds the last change: nobody noted
    /// that. `None`: there is no copy.
    Newest(Option<CopyOrigin>),
    /// The newest copy that is left, and known to be an older one. `None`: none is left.
    Older(Option<CopyOrigin>),
    /// A copy that may be newer than this one cannot be opened now.
    Unknown(Option<CopyOrigin>),
}

impl Survey {
    /// Looks at everything. `is_patient`: an opening that does not end may still do so the next
    /// time.
    pub(super) fn of(dir: &StateDir, is_patient: bool) -> Self {
        let last = last::read(dir);
        let copies = copy::NAMES.map(|name| copy::read(dir, name));
        let mut sled = open(dir);
        if let SledState::Unreadable(error) = &sled
            && reserve::is_full(error)
            && reserve::give_up(dir)
        {
            sled = open(dir);
        }
        let mut survey = Self { last, sled, copies };
        // The files are given up at once where that loses nothing.
        if matches!(survey.sled, SledState::Slow)
            && (!is_patient || matches!(survey.choice(), Choice::Current(_)))
        {
            survey.sled = SledState::Damaged(DiskError::Slow.to_string());
        }
        survey
    }

    pub(super) fn choice(&self) -> Choice {
        let sled = match &self.sled {
            SledState::Open(_, entries) if !entries.is_empty() => {
                Standing::Intact(Desired::seq_of(entries))
            }
            SledState::Open(..) | SledState::Missing | SledState::Damaged(_) => Standing::Gone,
            SledState::Unreadable(_) | SledState::Slow => Standing::Unreadable,
        };
        let copies = [&self.copies[0], &self.copies[1]].map(|copy| match copy {
            CopyState::Intact(entries) => Standing::Intact(Desired::seq_of(entries)),
            CopyState::Missing | CopyState::Damaged(_) => Standing::Gone,
            CopyState::Unreadable(_) => Standing::Unreadable,
        });
        let last = match &self.last {
            LastState::Known(last) => Standing::Intact(last.seq),
            LastState::Missing | LastState::Damaged => Standing::Gone,
            LastState::Unreadable(_) => Standing::Unreadable,
        };
        choose(last, sled, copies)
    }

    /// The copies that cannot be opened now, in sentences.
    pub(super) fn unreadable(&self) -> Vec<String> {
        let sled = match &self.sled {
            SledState::Unreadable(error) => Some(format!("{SLED}/ cannot be opened now ({error})")),
            SledState::Slow => Some(format!("{SLED}/ cannot be opened now: {}", DiskError::Slow)),
            SledState::Missing | SledState::Open(..) | SledState::Damaged(_) => None,
        };
        let unreadable =
            |name: &str, error: &io::Error| format!("{name} cannot be read now: {error}");
        let copies = copy::NAMES.iter().zip(&self.copies);
        let copies = copies.filter_map(|(name, copy)| match copy {
            CopyState::Unreadable(error) => Some(unreadable(name, error)),
            CopyState::Missing | CopyState::Intact(_) | CopyState::Damaged(_) => None,
        });
        let last = match &self.last {
            LastState::Unreadable(error) => Some(unreadable(last::NAME, error)),
            LastState::Missing | LastState::Known(_) | LastState::Damaged => None,
        };
        sled.into_iter().chain(copies).chain(last).collect()
    }
}

/// Chooses the copy to go by. `last`: the change that was acknowledged last.
pub(super) fn choose(last: Standing, sled: Standing, copies: [Standing; 2]) -> Choice {
    let all = [
        (sled, CopyOrigin::Sled),
        (copies[0], CopyOrigin::Copy(0)),
        (copies[1], CopyOrigin::Copy(1)),
    ];
    let intact = all.iter().filter_map(|(standing, origin)| match standing {
        Standing::Intact(seq) => Some((*seq, *origin)),
        Standing::Gone | Standing::Unreadable => None,
    });
    // Of two that hold the same, the first.
    let newest = intact.rev().max_by_key(|(seq, _)| *seq);
    let origin = newest.map(|(_, origin)| origin);
    let is_unreadable = all.iter().any(|(one, _)| *one == Standing::Unreadable);
    match (noted(last, sled, copies), newest) {
        (Some(last), Some((seq, origin))) if seq >= last => Choice::Current(origin),
        (Some(_), _) if is_unreadable => Choice::Unknown(origin),
        (Some(_), _) => Choice::Older(origin),
        // sled is written before the copies are.
        (None, _) if matches!(sled, Standing::Intact(_)) => Choice::Newest(origin),
        (None, _) if is_unreadable || last == Standing::Unreadable => Choice::Unknown(origin),
        (None, _) => Choice::Newest(origin),
    }
}

/// The last change as far as its place is to be believed. An older version of the agent leaves it
/// behind: then a copy holds more, or sled more than the one change that was never acknowledged.
fn noted(last: Standing, sled: Standing, copies: [Standing; 2]) -> Option<u64> {
    let Standing::Intact(last) = last else {
        return None;
    };
    let is_beyond = |copy: &Standing, end| matches!(copy, Standing::Intact(seq) if *seq > end);
    let is_left_behind =
        is_beyond(&sled, last + 1) || copies.iter().any(|copy| is_beyond(copy, last));
    (!is_left_behind).then_some(last)
}

fn open(dir: &StateDir) -> SledState {
    let had_data = match fs::metadata(dir.join(SLED).join("db")) {
        Ok(db) => db.len() > 0,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        // Something else is where sled's directory should be; opening it will say so.
        Err(error) if error.kind() == ErrorKind::NotADirectory => true,
        Err(error) => return SledState::Unreadable(error),
    };
    if !had_data {
        return SledState::Missing;
    }
    match open_counted(dir) {
        Ok((disk, entries)) => SledState::Open(Box::new(disk), entries),
        Err(DiskError::Io(error) | DiskError::NoRoom(error)) => SledState::Unreadable(error),
        Err(DiskError::Slow) => SledState::Slow,
        Err(DiskError::Damaged(why)) => SledState::Damaged(why),
    }
}

fn open_counted(dir: &StateDir) -> Result<(Disk, Entries), DiskError> {
    let marker = dir.join(OPENING);
    let before: u32 = fs::read_to_string(&marker)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or_default();
    if before >= OPENINGS_MAX {
        let _counted_anew = fs::write(&marker, "0\n");
        return Err(DiskError::Damaged(format!(
            "opening the files ended the agent {before} times in a row"
        )));
    }
    // A disk that refuses the marker is no reason not to open. It is not removed: a full disk has
    // no file to spare the next time.
    let _marked = fs::write(&marker, format!("{}\n", before + 1));
    let opened = dir
        .ask(DiskCall::Open)
        .map_err(DiskError::Io)
        .and_then(|()| Disk::open(&dir.join(SLED)));
    let _unmarked = fs::write(&marker, "0\n");
    opened
}

#[cfg(test)]
mod tests {
    use super::Standing::{Gone, Intact, Unreadable};
    use super::*;

    #[track_caller]
    fn check(last: Standing, sled: Standing, copies: [Standing; 2], expected: Choice) {
        assert_eq!(choose(last, sled, copies), expected);
    }

    #[test]
    fn a_copy_with_the_last_change_is_taken_whatever_the_others_are() {
        for other in [Gone, Unreadable, Intact(7)] {
            let current = |origin| Choice::Current(origin);
            check(Intact(9), Intact(9), [other; 2], current(CopyOrigin::Sled));
            check(
                Intact(9),
                other,
                [Intact(9), other],
                current(CopyOrigin::Copy(0)),
            );
            check(
                Intact(9),
                other,
                [other, Intact(9)],
                current(CopyOrigin::Copy(1)),
            );
            // Synced, and never acknowledged.
            check(Intact(9), Intact(10), [other; 2], current(CopyOrigin::Sled));
        }
        check(
            Intact(9),
            Intact(9),
            [Intact(9); 2],
            Choice::Current(CopyOrigin::Sled),
        );
    }

    #[test]
    fn an_older_copy_is_not_gone_by_while_one_that_may_be_newer_cannot_be_opened() {
        let unknown = Choice::Unknown(Some(CopyOrigin::Copy(1)));
        check(Intact(9), Unreadable, [Gone, Intact(8)], unknown);
        check(Intact(9), Gone, [Unreadable, Intact(8)], unknown);
        check(Gone, Unreadable, [Intact(7), Intact(8)], unknown);
        check(Unreadable, Gone, [Intact(7), Intact(8)], unknown);
        check(
            Intact(9),
            Intact(8),
            [Unreadable, Gone],
            Choice::Unknown(Some(CopyOrigin::Sled)),
        );
        check(Intact(0), Gone, [Unreadable; 2], Choice::Unknown(None));
        check(Gone, Unreadable, [Gone; 2], Choice::Unknown(None));
        check(Unreadable, Gone, [Gone; 2], Choice::Unknown(None));
    }

    #[test]
    fn what_is_damaged_is_given_up_and_the_older_copy_is_known_to_be_one() {
        check(
            Intact(9),
            Gone,
            [Intact(8), Gone],
            Choice::Older(Some(CopyOrigin::Copy(0))),
        );
        check(
            Intact(9),
            Intact(8),
            [Intact(7); 2],
            Choice::Older(Some(CopyOrigin::Sled)),
        );
        check(Intact(9), Gone, [Gone; 2], Choice::Older(None));
    }

    #[test]
    fn a_directory_of_an_older_version_is_read_by_its_copies_alone() {
        check(
            Gone,
            Intact(9),
            [Intact(9); 2],
            Choice::Newest(Some(CopyOrigin::Sled)),
        );
        check(
            Gone,
            Intact(9),
            [Unreadable; 2],
            Choice::Newest(Some(CopyOrigin::Sled)),
        );
        check(
            Gone,
            Intact(8),
            [Intact(9), Gone],
            Choice::Newest(Some(CopyOrigin::Copy(0))),
        );
        check(
            Gone,
            Gone,
            [Intact(8), Intact(9)],
            Choice::Newest(Some(CopyOrigin::Copy(1))),
        );
        check(Gone, Gone, [Gone; 2], Choice::Newest(None));
        // Left behind, since an older version wrote after it.
        check(
            Intact(5),
            Intact(9),
            [Intact(9); 2],
            Choice::Newest(Some(CopyOrigin::Sled)),
        );
        check(
            Intact(5),
            Unreadable,
            [Intact(9), Gone],
            Choice::Unknown(Some(CopyOrigin::Copy(0))),
        );
        check(
            Intact(5),
            Gone,
            [Intact(9), Intact(8)],
            Choice::Newest(Some(CopyOrigin::Copy(0))),
        );
    }
}
