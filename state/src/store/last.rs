//! The place of the last change: which change was acknowledged last, and which containers the
//! changes before it were about. By it an old copy is known to be old.
//!
//! It is a file of two blocks, allocated when it is made, so that a full disk takes no less of it.
//! They are written in turn and synced before each answer. Each is a line: the SHA-256 of the rest,
//! a blank, and JSON, filled up with blanks.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::FileExt as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::state_dir::{self, DiskCall, StateDir};
use crate::desired::set::DesiredChange;
use crate::desired::uncertain::LostChanges;
use crate::id::ContainerId;

/// Name of the file.
pub(super) const NAME: &str = "last-change";
const BLOCK_BYTES: usize = 4096;
const SUM_BYTES: usize = 64;
/// Changes of containers that are remembered. A block has room for half as many again.
const RECENT_MAX: usize = 64;

/// The last change, and those shortly before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastChange {
    /// Number of the last change that was acknowledged.
    pub(super) seq: u64,
    /// Number of the newest change that is not among `recent` any more.
    since: u64,
    /// Changes after that one, each with the container that it was about.
    recent: VecDeque<(u64, ContainerId)>,
}

/// Content of a block.
#[derive(Serialize, Deserialize)]
struct Block {
    /// Number of this writing: the newer block counts, also where it takes a change back that
    /// failed.
    written: u64,
    #[serde(flatten)]
    last: LastChange,
}

/// State of the place.
#[derive(Debug)]
pub(super) enum LastState {
    /// No file: a new node, or the agent before was of a version without it.
    Missing,
    /// The place as it was written last.
    Known(LastChange),
    /// The file cannot be read now.
    Unreadable(io::Error),
    /// The file is not as it was written.
    Damaged,
}

impl LastChange {
    /// A last change of which nothing else is known.
    pub(super) const fn at(seq: u64) -> Self {
        Self {
            seq,
            since: seq,
            recent: VecDeque::new(),
        }
    }

    /// The place after the change with this number.
    pub(super) fn followed_by(&self, seq: u64, changes: &[DesiredChange]) -> Self {
        let mut next = self.clone();
        next.seq = seq;
        let about = changes.iter().filter_map(|change| container(change, seq));
        next.recent.extend(about.map(|id| (seq, id)));
        while next.recent.len() > RECENT_MAX {
            next.since = next.recent.pop_front().map_or(seq, |(dropped, _)| dropped);
        }
        next
    }

    /// The changes that are lost if the newest intact copy ends at this one.
    pub(super) fn lost_after(&self, copy: u64) -> LostChanges {
        let after = self.recent.iter().filter(|(seq, _)| *seq > copy);
        let known: BTreeSet<_> = after.map(|(_, id)| *id).collect();
        LostChanges {
            until: self.seq,
            containers: (copy >= self.since).then_some(known),
        }
    }
}

impl Block {
    fn bytes(&self) -> io::Result<Vec<u8>> {
        let json = serde_json::to_vec(self)?;
        let mut bytes = format!("{} ", checksum(&json)).into_bytes();
        bytes.extend(json);
        if bytes.len() >= BLOCK_BYTES {
            return Err(io::Error::other(
                "the last change does not fit into its block",
            ));
        }
        bytes.resize(BLOCK_BYTES - 1, b' ');
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// The container that a change is about, unless the change is only a note of the agent.
fn container(change: &DesiredChange, seq: u64) -> Option<ContainerId> {
    match change {
        DesiredChange::Put(record) => {
            (record.seq == seq || record.finished.is_some()).then_some(record.id)
        }
        DesiredChange::RemoveRecord(id) | DesiredChange::KeepUnreadable(id, _) => Some(*id),
        DesiredChange::Adopt(_) | DesiredChange::Lose(_) | DesiredChange::Mark(_) => None,
    }
}

fn checksum(json: &[u8]) -> String {
    crate::digest::hex(&Sha256::digest(json))
}

fn parse(block: &[u8]) -> Option<Block> {
    let (sum, rest) = block.split_at_checked(SUM_BYTES)?;
    let json = rest.trim_ascii();
    (checksum(json).as_bytes() == sum).then_some(())?;
    serde_json::from_slice(json).ok()
}

/// Reads the place.
pub(super) fn read(dir: &StateDir) -> LastState {
    let bytes = dir
        .ask(DiskCall::ReadLast)
        .and_then(|()| fs::read(dir.join(NAME)));
    match bytes {
        Ok(bytes) => newest(&bytes).map_or(LastState::Damaged, |(_, block)| {
            LastState::Known(block.last)
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => LastState::Missing,
        Err(error) => LastState::Unreadable(error),
    }
}

/// The newer of the two blocks, with its number.
fn newest(bytes: &[u8]) -> Option<(usize, Block)> {
    let blocks = bytes.chunks(BLOCK_BYTES).take(2).enumerate();
    let intact = blocks.filter_map(|(number, block)| Some((number, parse(block)?)));
    intact.max_by_key(|(_, block)| block.written)
}

/// The place, open for the changes to come.
#[derive(Debug)]
pub(super) struct LastFile {
    file: File,
    /// Block that was written last, and how many were before it.
    newest: usize,
    written: u64,
    last: LastChange,
}

impl LastFile {
    /// Opens the place, which is made if it is missing or damaged, and writes `last` there if that
    /// is not its content.
    pub(super) fn open(dir: &StateDir, last: LastChange) -> io::Result<Self> {
        let path = dir.join(NAME);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let found = newest(&bytes).filter(|_| bytes.len() == 2 * BLOCK_BYTES);
        let Some((newest, found)) = found else {
            return Self::make(dir, last);
        };
        let file = File::options().write(true).open(&path)?;
        let mut opened = Self {
            file,
            newest,
            written: found.written,
            last: found.last,
        };
        if opened.last != last {
            opened.put(dir, last)?;
        }
        Ok(opened)
    }

    fn make(dir: &StateDir, last: LastChange) -> io::Result<Self> {
        dir.ask(DiskCall::Create)?;
        let (path, new) = (dir.join(NAME), dir.join("last-change.new"));
        let mut file = state_dir::create_private(&new)?;
        let block = Block { written: 0, last };
        file.write_all(&block.bytes()?.repeat(2))?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        dir.sync()?;
        Ok(Self {
            file,
            newest: 0,
            written: 0,
            last: block.last,
        })
    }

    /// Writes and syncs that this change is the last.
    pub(super) fn write(
        &mut self,
        dir: &StateDir,
        seq: u64,
        changes: &[DesiredChange],
    ) -> io::Result<()> {
        self.put(dir, self.last.followed_by(seq, changes))
    }

    fn put(&mut self, dir: &StateDir, last: LastChange) -> io::Result<()> {
        dir.ask(DiskCall::WriteLast)?;
        let number = 1 - self.newest;
        let offset = u64::try_from(number * BLOCK_BYTES).unwrap_or_default();
        let written = self.written + 1;
        let block = Block { written, last };
        // Whatever comes of it: what is written next is newer.
        self.written = written;
        self.file.write_all_at(&block.bytes()?, offset)?;
        self.file.sync_data()?;
        (self.newest, self.last) = (number, block.last);
        Ok(())
    }
}
