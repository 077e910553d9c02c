//! Disk of the agent's state, on which calls fail for a while as the dice say.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use state::store::DiskCall;

use crate::dice;

/// Condition of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// All goes well.
    Sound,
    /// No space is left, but for what is allocated and what the reserve has.
    NoSpace,
    /// No file can be created.
    NoInodes,
    /// Nothing can be opened (EPERM).
    Denied,
    /// Now and then a call fails (EIO).
    Failing,
}

thread_local! {
    static CONDITION: Cell<Condition> = const { Cell::new(Condition::Sound) };
    static DIRECTORY: RefCell<PathBuf> = const { RefCell::new(PathBuf::new()) };
}

/// Moves the disk to the directory of another life.
pub(crate) fn at(directory: &Path) {
    DIRECTORY.set(directory.to_owned());
}

/// Draws the condition of the disk from now on.
pub(crate) fn draw() -> Condition {
    let condition = match dice::below(10) {
        0..4 => Condition::Sound,
        4..6 => Condition::NoSpace,
        6 => Condition::NoInodes,
        7..9 => Condition::Denied,
        _ => Condition::Failing,
    };
    set(condition);
    condition
}

pub(crate) fn set(condition: Condition) {
    CONDITION.set(condition);
}

/// Whether the disk does what is asked of it.
pub(crate) fn ask(call: DiskCall) -> io::Result<()> {
    let full = || io::Error::from(ErrorKind::StorageFull);
    let has_reserve = || DIRECTORY.with_borrow(|directory| directory.join("reserve").exists());
    match (CONDITION.get(), call) {
        (Condition::NoSpace, DiskCall::Create | DiskCall::WriteCopy) => Err(full()),
        // Without the reserve there is a little room, unless another took it.
        (Condition::NoSpace, DiskCall::Write | DiskCall::Open)
            if has_reserve() || dice::chance(50) =>
        {
            Err(full())
        }
        (Condition::NoInodes, DiskCall::Create | DiskCall::WriteCopy) => Err(full()),
        (Condition::NoInodes, DiskCall::Open) if has_reserve() || dice::chance(50) => Err(full()),
        (Condition::Denied, DiskCall::Write | DiskCall::Sync) => Ok(()),
        (Condition::Denied, _) => Err(ErrorKind::PermissionDenied.into()),
        (Condition::Failing, _) if dice::chance(30) => Err(io::Error::from_raw_os_error(5)),
        (Condition::Sound | Condition::NoSpace | Condition::NoInodes | Condition::Failing, _) => {
            Ok(())
        }
    }
}
