//! Entries in their places: made beside, and put there when they are complete.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid,
};
use rustix::io::Errno;

use super::read::ArchiveEntry;
use super::xattrs;

/// Name of what is being put in the place of something else, for an instant.
const NEW_PREFIX: &str = ".chas-new-";

/// File that has no name yet, or one that nobody looks for.
#[derive(Debug)]
pub(super) struct NewFile<'a> {
    pub(super) file: OwnedFd,
    parent: BorrowedFd<'a>,
    /// `None`: it has no name, and is gone with its descriptor.
    name: Option<CString>,
}

impl<'a> NewFile<'a> {
    pub(super) fn make(parent: BorrowedFd<'a>) -> io::Result<Self> {
        let mode = Mode::RUSR | Mode::WUSR;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(parent, c".", flags | OFlags::TMPFILE, mode) {
            Ok(file) => Ok(Self {
                file,
                parent,
                name: None,
            }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let name = new_name();
                let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let file = rustix::fs::openat(parent, &name, flags, mode)?;
                let name = Some(name);
                Ok(Self { file, parent, name })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives it its name, which another file may have had.
    pub(super) fn put(mut self, name: &CStr) -> io::Result<()> {
        if let Some(new) = self.name.take() {
            let put = replace(self.parent, &new, name);
            if put.is_err() {
                self.name = Some(new);
            }
            return put;
        }
        let file = proc_path(&self.file);
        put(self.parent, name, |at| {
            rustix::fs::linkat(CWD, &file, self.parent, at, AtFlags::SYMLINK_FOLLOW)
        })
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            rustix::fs::unlinkat(self.parent, name, AtFlags::empty()).ok();
        }
    }
}

/// Makes a thing of this name, or makes it beside and puts it in the place of what has the name.
pub(super) fn put(
    parent: BorrowedFd<'_>,
    name: &CStr,
    make: impl Fn(&CStr) -> rustix::io::Result<()>,
) -> io::Result<()> {
    match make(name) {
        Err(Errno::EXIST) => {}
        made => return Ok(made?),
    }
    is_replaceable(parent, name)?;
    let new = new_name();
    let put = make(&new).map_err(io::Error::from);
    let put = put.and_then(|()| replace(parent, &new, name));
    // Two names of one file are left as they are by a rename, and so is all by one that failed.
    rustix::fs::unlinkat(parent, &new, AtFlags::empty()).ok();
    put
}

fn replace(parent: BorrowedFd<'_>, new: &CStr, name: &CStr) -> io::Result<()> {
    is_replaceable(parent, name)?;
    Ok(rustix::fs::renameat(parent, new, parent, name)?)
}

fn is_replaceable(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            Err(Errno::ISDIR.into())
        }
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn new_name() -> CString {
    let name = format!("{NEW_PREFIX}{:016x}", state::store::random());
    CString::new(name).unwrap_or_default()
}

fn proc_path(file: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// Takes the access lists from a new file that its directory has for what is made in it: they are none
/// of the archive's.
pub(super) fn bare(file: BorrowedFd<'_>) -> io::Result<()> {
    for name in ["system.posix_acl_access", "system.posix_acl_default"] {
        match rustix::fs::fremovexattr(file, name) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP | Errno::ACCESS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Gives an open file what its entry tells, but for its time. The owner first, whose change takes
/// permissions and capabilities away. Answers the attributes that the disk does not know.
pub(super) fn give(file: BorrowedFd<'_>, entry: &ArchiveEntry) -> io::Result<u64> {
    let (uid, gid) = owner(entry);
    rustix::fs::fchown(file, Some(uid), Some(gid))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
    Ok(xattrs::give(file, &entry.xattrs)? + entry.unread)
}

/// Makes a link or a pipe, and gives it what its entry tells; or leaves none.
pub(super) fn make_node(
    parent: BorrowedFd<'_>,
    name: &CStr,
    kind: FileType,
    entry: &ArchiveEntry,
) -> rustix::io::Result<()> {
    if kind == FileType::Symlink {
        rustix::fs::symlinkat(&entry.link[..], parent, name)?;
    } else {
        rustix::fs::mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, 0)?;
    }
    match give_node(parent, name, kind, entry) {
        // A container took it away meanwhile.
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => {
            rustix::fs::unlinkat(parent, name, AtFlags::empty()).ok();
            Err(error)
        }
    }
}

/// Gives a node what its entry tells, by its descriptor: a container may have put another thing there
/// meanwhile.
fn give_node(
    parent: BorrowedFd<'_>,
    name: &CStr,
    kind: FileType,
    entry: &ArchiveEntry,
) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let found = rustix::fs::fstat(&node)?;
    if FileType::from_raw_mode(found.st_mode) != kind {
        return Ok(());
    }
    let (uid, gid) = owner(entry);
    rustix::fs::chownat(&node, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    if kind != FileType::Symlink {
        let mode = Mode::from_raw_mode(entry.mode);
        rustix::fs::chmodat(CWD, proc_path(&node), mode, AtFlags::empty())?;
    }
    rustix::fs::utimensat(&node, c"", &times(entry.mtime), AtFlags::EMPTY_PATH)
}

fn owner(entry: &ArchiveEntry) -> (Uid, Gid) {
    (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid))
}

/// Time of the last change; that of the last look stays.
pub(super) fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds.into(),
        },
    }
}
