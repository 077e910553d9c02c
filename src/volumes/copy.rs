//! Copy of a directory with all that is in it, as it is: owners, permissions, times, extended
//! attributes (access lists and capabilities are such), hard links, holes, pipes and devices.
//!
//! The source is an image's, whose author may have made anything of it: no link is followed, and no
//! depth, number or size of files makes the copy take more than its disk leaves.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom as Place};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;

use super::room::DiskBudget;

/// Depth of directories that are copied. Each takes three descriptors while what is in it is copied.
const DEPTH_MAX: usize = 256;
/// Bytes that are written between two looks at the disk.
const PART_BYTES: u64 = 16 << 20;
/// Bytes of a path that the kernel takes.
const PATH_BYTES: usize = 4096;
/// Bytes of the first names of files with several: of what comes later, each name is a copy.
const LINKED_BYTES_MAX: usize = 32 << 20;
/// Bytes of the names of a file's extended attributes, and of one value: the kernel's own limit.
const XATTR_BYTES_MAX: usize = 64 << 10;
/// Extended attributes that say something about where a file was, not about it: layers of an overlay,
/// and SELinux's label of the place.
const OF_THE_PLACE: [&str; 3] = ["trusted.overlay.", "user.overlay.", "security.selinux"];

/// Amount that was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CopiedFiles {
    /// Files and directories.
    pub(super) files: u64,
    /// Bytes of the files, without their holes.
    pub(super) bytes: u64,
    /// Devices that may not be made here; in a volume none could be used.
    pub(super) left_out: u64,
}

/// Copy under way.
struct Copy<'a> {
    budget: &'a mut DiskBudget,
    /// Directory that is copied to, from which the first name of a file is found again.
    root: BorrowedFd<'a>,
    /// Files with several names: device and inode of the source, and the first name of the copy.
    linked: HashMap<(u64, u64), CString>,
    linked_bytes: usize,
    copied: CopiedFiles,
}

/// Copies what is in `from`, and its own owner and permissions, to `to`, an empty directory.
pub(super) fn copy(
    from: &OwnedFd,
    to: &OwnedFd,
    budget: &mut DiskBudget,
) -> io::Result<CopiedFiles> {
    let mut copy = Copy {
        budget,
        root: to.as_fd(),
        linked: HashMap::new(),
        linked_bytes: 0,
        copied: CopiedFiles::default(),
    };
    copy.directory(from.as_fd(), to.as_fd(), &mut Vec::new())?;
    Ok(copy.copied)
}

impl Copy<'_> {
    /// `names`: the way from the root to this directory.
    fn directory(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        names: &mut Vec<CString>,
    ) -> io::Result<()> {
        if names.len() > DEPTH_MAX {
            let message = format!("its directories are more than {DEPTH_MAX} deep");
            return Err(io::Error::other(message));
        }
        for entry in Dir::read_from(from)? {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push(name.to_owned());
                self.entry(from, to, names)?;
                names.pop();
            }
        }
        let stat = rustix::fs::fstat(from)?;
        give(from, to, &stat)
    }

    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        names: &mut Vec<CString>,
    ) -> io::Result<()> {
        let name = names.last().cloned().unwrap_or_default();
        let stat = rustix::fs::statat(from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        self.budget.take(0)?;
        self.copied.files += 1;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let from = open(from, &name, flags)?;
            rustix::fs::mkdirat(to, &name, Mode::RWXU)?;
            let to = open(to, &name, flags)?;
            return self.directory(from.as_fd(), to.as_fd(), names);
        }
        let key = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.linked.get(&key) {
            let first = first.as_c_str();
            return Ok(rustix::fs::linkat(
                self.root,
                first,
                to,
                &name,
                AtFlags::empty(),
            )?);
        }
        if kind == FileType::RegularFile {
            self.file(from, to, &name, &stat)?;
        } else if !self.node(from, to, &name, &stat)? {
            return Ok(());
        }
        let first = (stat.st_nlink > 1).then(|| joined(names));
        // One whose path the kernel would not take is copied again under its other names.
        let first = first.filter(|first| {
            first.count_bytes() < PATH_BYTES && self.linked_bytes < LINKED_BYTES_MAX
        });
        if let Some(first) = first {
            self.linked_bytes += first.count_bytes();
            self.linked.insert(key, first);
        }
        Ok(())
    }

    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
    ) -> io::Result<()> {
        let from = File::from(open(from, name, OFlags::RDONLY | OFlags::NONBLOCK)?);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let to = File::from(open(to, name, flags)?);
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        to.set_len(size)?;
        self.data(&from, &to, size)?;
        give(from.as_fd(), to.as_fd(), stat)
    }

    /// Copies what is between the holes.
    fn data(&mut self, mut from: &File, mut to: &File, size: u64) -> io::Result<()> {
        let mut at = 0;
        while at < size {
            let begin = match rustix::fs::seek(from, SeekFrom::Data(at)) {
                Ok(begin) => begin,
                // Nothing but a hole is left.
                Err(Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            };
            let end = rustix::fs::seek(from, SeekFrom::Hole(begin))?.min(size);
            at = begin;
            from.seek(Place::Start(at))?;
            to.seek(Place::Start(at))?;
            while at < end {
                let part = (end - at).min(PART_BYTES);
                self.budget.take(part)?;
                let copied = io::copy(&mut from.take(part), &mut to)?;
                if copied == 0 {
                    let message = "a file became shorter while it was copied";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
                }
                at += copied;
                self.copied.bytes += copied;
            }
        }
        Ok(())
    }

    /// Copies what is neither file nor directory; false: it is left out.
    fn node(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
    ) -> io::Result<bool> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mode = Mode::from_raw_mode(stat.st_mode);
        if kind == FileType::Symlink {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target, to, name)?;
        } else {
            match rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev) {
                Ok(()) => {}
                Err(Errno::PERM) => {
                    self.copied.left_out += 1;
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        let (uid, gid) = owner(stat);
        rustix::fs::chownat(to, name, Some(uid), Some(gid), nofollow)?;
        if kind != FileType::Symlink {
            // The umask has taken something away.
            rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
        }
        rustix::fs::utimensat(to, name, &times(stat), nofollow)?;
        Ok(true)
    }
}

fn joined(names: &[CString]) -> CString {
    let names: Vec<_> = names.iter().map(|name| name.to_bytes()).collect();
    CString::new(names.join(&b'/')).unwrap_or_default()
}

fn open(at: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::RUSR | Mode::WUSR)
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.try_into().unwrap_or_default(),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Gives a copy what is known of its source. The owner first, whose change takes permissions and
/// capabilities away.
fn give(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = owner(stat);
    rustix::fs::fchown(to, Some(uid), Some(gid))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    attributes(from, to)?;
    Ok(rustix::fs::futimens(to, &times(stat))?)
}

fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut names = vec![MaybeUninit::uninit(); XATTR_BYTES_MAX];
    let names = match rustix::fs::flistxattr(from, &mut names[..]) {
        Ok((names, _)) => &*names,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut value = Vec::new();
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let says_where = |prefix: &&str| name.starts_with(prefix.as_bytes());
        if OF_THE_PLACE.iter().any(says_where) {
            continue;
        }
        value.resize(XATTR_BYTES_MAX, MaybeUninit::uninit());
        let (read, _) = rustix::fs::fgetxattr(from, name, &mut value[..])?;
        match rustix::fs::fsetxattr(to, name, read, XattrFlags::empty()) {
            // The disk of the volumes knows none of this kind.
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
