//! Sizes of volumes. A volume with a name is a project of its file system, whose use the kernel counts
//! and bounds: ext4 with `prjquota`, XFS with `pquota`. Its number stands in its directory, which the
//! kernel keeps, and each file that is made below has it too.
//!
//! A limit that is in force is seen without any program: the kernel tells it as the size of the disk
//! to who asks about a directory of the project. Only a change needs the host's programs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::StatVfs;
use state::quantity::ByteCount;

use self::disk::QuotaDisk;
use crate::lock::lock;

mod disk;
mod programs;

/// Projects that volumes get. None that `/etc/projid` names, nor one that has files already.
const PROJECTS: RangeInclusive<u32> = 1_200_000_000..=1_200_065_535;
/// Names of projects, as the host's administrator gave them.
const NAMED_PROJECTS: &str = "/etc/projid";
/// Flag of a directory whose files get its project (`FS_PROJINHERIT_FL`).
const INHERITS: u32 = 0x2000_0000;
/// Bytes for each file that a volume of some size can hold: what ext4 has files for by itself.
const BYTES_A_FILE: u64 = 16 << 10;
/// Multiple that sizes are rounded down to: a block of every file system.
const BLOCK_BYTES: u64 = 64 << 10;

/// Turn to choose a project: until a directory has it, it looks free.
static CHOICE: Mutex<()> = Mutex::new(());

/// Cause for which a volume does not get its size.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SizeFault {
    /// The file system of the volumes bounds no projects; with what to do.
    #[error("size is not possible, since {0}; or leave it out")]
    NoQuotas(String),
    /// The volume is a disk of its own.
    #[error("{0} is a disk of its own, which is its size; leave size out")]
    OwnDisk(String),
    /// The files of the volume are not counted.
    #[error(
        "{0} was made while its file system had no project quotas, so its files are not counted: save \
         its archive, delete it, and restore it; or leave size out"
    )]
    Uncounted(String),
    /// The directory, or one above it, is in a project that is not the agent's.
    #[error("{0} is in a project of its file system that is not the agent's ({1}); leave size out")]
    Foreign(String, u32),
    /// Another volume is in the same project: one of them was moved there.
    #[error(
        "{0} and {1} are both counted as project {2}, so that neither can have a limit of its own: somebody changed \
         that of one (chattr -p); save its archive, delete it, and restore it; or leave size out"
    )]
    Twins(String, String, u32),
    /// More is used than the size that is asked for.
    #[error("{used} bytes are used, more than the size of {size}, and the limit stays as it is")]
    Used {
        /// Size that is asked for.
        size: ByteCount,
        /// Bytes that are used.
        used: u64,
    },
    /// No project is free.
    #[error("all projects from 1200000000 to 1200065535 of the file system are in use")]
    NoProject,
    /// The kernel does not tell of the limit that it was given.
    #[error(
        "the kernel was given the limit, and does not keep it: are its quotas switched on (quotaon)?"
    )]
    NotKept,
    /// A program of the host failed, or is not installed.
    #[error("{0}")]
    Program(String),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// Use of the disk by a volume with a limit, as the kernel counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BoundedUse {
    pub(crate) limit_bytes: u64,
    /// Never more than the limit, whatever the use is.
    pub(crate) used_bytes: u64,
    /// Files and directories, without its own.
    pub(crate) files: u64,
}

/// Occasion on which a limit is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    /// Nothing of the volume's container runs: a limit below the use is set, and nothing can be added.
    Launch,
    /// Containers run on it: no running program has its disk become full by a change.
    Live,
    /// The same, at no event: a limit beyond the disk, of which nobody can tell, is taken to be set.
    Kept,
}

/// Answers of the kernel about the directory of a volume, and the one above.
struct Told {
    own: StatVfs,
    above: StatVfs,
}

impl Told {
    fn of(data: &Path) -> io::Result<Self> {
        let above = data.parent().unwrap_or(data);
        let (own, above) = (rustix::fs::statvfs(data)?, rustix::fs::statvfs(above)?);
        Ok(Self { own, above })
    }

    /// Use and limit; `None`: it has no limit, or one beyond the disk.
    fn bounded(&self) -> Option<BoundedUse> {
        let Self { own, above } = self;
        let is_bounded = own.f_fsid == above.f_fsid && own.f_blocks < above.f_blocks;
        is_bounded.then(|| BoundedUse {
            limit_bytes: own.f_blocks.saturating_mul(own.f_frsize),
            used_bytes: (own.f_blocks.saturating_sub(own.f_bfree)).saturating_mul(own.f_frsize),
            files: own.f_files.saturating_sub(own.f_ffree).saturating_sub(1),
        })
    }

    /// Whether a limit of so many bytes could be told from none.
    fn shows(&self, bytes: u64) -> bool {
        bytes < self.above.f_blocks.saturating_mul(self.above.f_frsize)
    }
}

/// Use and limit of a volume; `None`: it has no limit. Blocks, as all of this does.
pub(super) fn bounded(data: &Path) -> io::Result<Option<BoundedUse>> {
    Ok(Told::of(data)?.bounded())
}

/// Looks whether the file system of a directory, which may not be there yet, bounds projects.
///
/// # Errors
/// [`SizeFault::NoQuotas`]; [`SizeFault::Disk`] where nobody can tell.
pub(super) fn is_possible(directory: &Path) -> Result<(), SizeFault> {
    QuotaDisk::of(directory).map(drop)
}

/// Gives a new, empty directory a project, and that its limit. Where none is asked for, it gets a
/// project if that is possible, so that it can be bounded later.
pub(super) fn begin(new: &Path, size: Option<ByteCount>) -> Result<(), SizeFault> {
    match (give_project(new, size), size) {
        (Ok(()), None) => Ok(()),
        (Ok(()), Some(size)) => check(new, bytes(size)),
        (Err(error), Some(_)) => Err(error),
        (Err(SizeFault::NoQuotas(_)), None) => Ok(()),
        (Err(error), None) => {
            tracing::debug!(directory = %new.display(), %error, "no project given to a volume");
            Ok(())
        }
    }
}

fn give_project(new: &Path, size: Option<ByteCount>) -> Result<(), SizeFault> {
    let disk = QuotaDisk::of(new)?;
    if inherits(new)? {
        let project = programs::project(new)?.unwrap_or_default();
        return Err(SizeFault::Foreign(new.display().to_string(), project));
    }
    let _choice = lock(&CHOICE);
    let used = programs::used(&disk)?;
    let named = fs::read_to_string(NAMED_PROJECTS).unwrap_or_default();
    let project = free_project(&used, &named).ok_or(SizeFault::NoProject)?;
    // One that had it before may have left its limit.
    programs::set_limit(&disk, project, limits(size))?;
    programs::set_project(new, project)
}

/// Makes sure that a volume that is there has this size.
///
/// # Errors
/// [`SizeFault`].
pub(super) fn bound(data: &Path, size: ByteCount, occasion: Occasion) -> Result<(), SizeFault> {
    let (told, bytes) = (Told::of(data)?, bytes(size));
    let now = told.bounded();
    if now.is_some_and(|now| now.limit_bytes == bytes) {
        return Ok(());
    }
    if occasion == Occasion::Kept && !told.shows(bytes) {
        return Ok(());
    }
    let shown = || data.display().to_string();
    let (disk, project) = place(data, &told)?;
    let used = programs::used(&disk)?;
    let used = used.get(&project).copied().unwrap_or_default();
    if used > bytes {
        if occasion != Occasion::Launch {
            return Err(SizeFault::Used { size, used });
        }
        tracing::warn!(volume = %shown(), used, %size, "volume is larger than its size; nothing can be added");
    }
    programs::set_limit(&disk, project, limits(Some(size)))?;
    if told.shows(bytes) {
        check(data, bytes)
    } else {
        Ok(())
    }
}

/// Looks whether a volume that is there can have this size. Changes nothing.
///
/// # Errors
/// [`SizeFault`].
pub(super) fn look(data: &Path, size: ByteCount) -> Result<(), SizeFault> {
    let told = Told::of(data)?;
    let now = told.bounded();
    if now.is_some_and(|now| now.limit_bytes == bytes(size)) {
        return Ok(());
    }
    place(data, &told).map(drop)
}

/// Disk of a volume that is there, and its project.
fn place(data: &Path, told: &Told) -> Result<(QuotaDisk, u32), SizeFault> {
    if told.own.f_fsid != told.above.f_fsid || disk::is_mount(data)? {
        return Err(SizeFault::OwnDisk(data.display().to_string()));
    }
    Ok((QuotaDisk::of(data)?, own_project(data)?))
}

/// Takes the limit of a volume away; false: it has none of the agent's.
pub(super) fn unbound(data: &Path) -> Result<bool, SizeFault> {
    if Told::of(data)?.bounded().is_none() {
        return Ok(false);
    }
    let disk = QuotaDisk::of(data)?;
    match own_project(data) {
        Ok(project) => programs::set_limit(&disk, project, limits(None)).map(|()| true),
        // A limit of somebody else's is none of the agent's business.
        Err(SizeFault::Foreign(..) | SizeFault::Twins(..) | SizeFault::Uncounted(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Project of a volume, which no other volume is in: else the limit of that one would be changed.
fn own_project(data: &Path) -> Result<u32, SizeFault> {
    let shown = data.display().to_string();
    match programs::project(data)? {
        Some(project) if PROJECTS.contains(&project) => match twin(data, project)? {
            None => Ok(project),
            Some(other) => Err(SizeFault::Twins(shown, other, project)),
        },
        Some(project) => Err(SizeFault::Foreign(shown, project)),
        None => Err(SizeFault::Uncounted(shown)),
    }
}

/// Another volume of the same disk that is in this project. Its owner may have put it there.
fn twin(data: &Path, project: u32) -> Result<Option<String>, SizeFault> {
    let shelf = data.parent().and_then(Path::parent);
    let (Some(shelf), Some(name)) = (shelf, data.file_name()) else {
        return Ok(None);
    };
    let disk = fs::metadata(data)?.dev();
    for entry in fs::read_dir(shelf)? {
        let other = entry?.path().join(name);
        let is_counted = other != data
            && fs::symlink_metadata(&other)
                .is_ok_and(|found| found.is_dir() && found.dev() == disk)
            && inherits(&other).unwrap_or_default();
        if is_counted && programs::project(&other)? == Some(project) {
            return Ok(Some(other.display().to_string()));
        }
    }
    Ok(None)
}

fn check(data: &Path, bytes: u64) -> Result<(), SizeFault> {
    let told = Told::of(data)?;
    let is_kept = told.bounded().is_some_and(|now| now.limit_bytes == bytes);
    if is_kept || !told.shows(bytes) {
        Ok(())
    } else {
        Err(SizeFault::NotKept)
    }
}

/// Whether files that are made in a directory get its project.
fn inherits(directory: &Path) -> io::Result<bool> {
    let directory = File::open(directory)?;
    let flags = rustix::fs::ioctl_getflags(&directory)?;
    Ok(flags.bits() & INHERITS != 0)
}

/// Lowest project of the agent's that nobody has. `used`: those with files; `named`: the content of
/// `/etc/projid` (lines of `name:number`).
fn free_project(used: &BTreeMap<u32, u64>, named: &str) -> Option<u32> {
    let named = |project: u32| {
        let mut lines = named.lines().filter_map(|line| line.split_once(':'));
        lines.any(|(_, number)| number.trim().parse() == Ok(project))
    };
    PROJECTS
        .into_iter()
        .find(|project| !used.contains_key(project) && !named(*project))
}

/// Bytes of a size, as they are told of when they are in force.
const fn bytes(ByteCount(size): ByteCount) -> u64 {
    size / BLOCK_BYTES * BLOCK_BYTES
}

/// Limits of bytes and files; 0: none.
fn limits(size: Option<ByteCount>) -> (u64, u64) {
    let bytes = size.map_or(0, bytes);
    (bytes, bytes / BYTES_A_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_gets_the_lowest_project_that_nobody_has() {
        let used = BTreeMap::from([(0, 7), (1_200_000_000, 1), (1_200_000_002, 0)]);
        assert_eq!(free_project(&used, ""), Some(1_200_000_001));
        let named = "# names\nweb:1200000001\n";
        assert_eq!(free_project(&used, named), Some(1_200_000_003));
        let all = PROJECTS.map(|project| (project, 1)).collect();
        assert_eq!(free_project(&all, ""), None);
    }

    #[test]
    fn a_size_is_whole_blocks_and_has_room_for_files() {
        assert_eq!(limits(None), (0, 0));
        assert_eq!(limits(Some(ByteCount(1 << 20))), (1 << 20, 64));
        assert_eq!(limits(Some(ByteCount((1 << 20) + 1))), (1 << 20, 64));
    }

    #[test]
    fn a_disk_without_project_quotas_bounds_nothing_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        assert_eq!(bounded(&data).unwrap(), None);
        let size = ByteCount(1 << 20);
        for refused in [
            is_possible(&dir.path().join("not/there/yet")),
            begin(&data, Some(size)),
            bound(&data, size, Occasion::Launch),
            look(&data, size),
        ] {
            let refused = refused.unwrap_err();
            assert!(matches!(refused, SizeFault::NoQuotas(_)), "{refused}");
        }
        begin(&data, None).unwrap();
        assert!(!unbound(&data).unwrap());
    }
}
