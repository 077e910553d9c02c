//! Unpacking: a tar stream becomes files of a directory.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::place::{self, NewFile};
use super::read::{ArchiveEntries, ArchiveEntry, EntryKind};
use super::{ArchiveFault, ArchivedAmount, DEPTH_MAX, OwnerShift, PART_BYTES, PATH_BYTES_MAX};
use crate::within;

/// Bytes of a part of a path.
const NAME_BYTES_MAX: usize = 255;

/// Bytes of the disk that an entry takes beside its content.
const ENTRY_BYTES: u64 = 4096;

/// Archive that is being unpacked.
struct Unpack<'a, R, T> {
    base: BorrowedFd<'a>,
    owners: Option<OwnerShift>,
    entries: ArchiveEntries<R>,
    /// Takes a file with so many bytes of it from what the disk has.
    take: T,
    part: Vec<u8>,
    amount: ArchivedAmount,
    /// Directories on the way to the last entry that the archive had, and their times.
    open: Vec<(EntryPath, (i64, u32))>,
}

/// Parts of the path of an entry, without what can be left out; none: the directory itself.
type EntryPath = Vec<CString>;

/// Error of one entry, before its name is added.
enum EntryError {
    /// Failure with all that is known.
    Told(ArchiveFault),
    /// An entry that cannot be where it is to be.
    Misplaced(&'static str),
    /// The disk failed.
    Disk(io::Error),
}

impl From<io::Error> for EntryError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl From<Errno> for EntryError {
    fn from(error: Errno) -> Self {
        Self::Disk(error.into())
    }
}

impl From<ArchiveFault> for EntryError {
    fn from(fault: ArchiveFault) -> Self {
        Self::Told(fault)
    }
}

/// Unpacks an archive below `base`, an open directory: what is there stays, but for what the archive
/// names. `take` is asked before each file and each part of one, and refuses what the disk has no room
/// for.
pub(crate) fn unpack(
    base: BorrowedFd<'_>,
    reader: impl Read,
    owners: Option<OwnerShift>,
    take: impl FnMut(u64) -> io::Result<()>,
) -> Result<ArchivedAmount, ArchiveFault> {
    let mut unpack = Unpack {
        base,
        owners,
        entries: ArchiveEntries::new(reader),
        take,
        part: vec![0; PART_BYTES],
        amount: ArchivedAmount::default(),
        open: Vec::new(),
    };
    while let Some(mut entry) = unpack.entries.next()? {
        if let Err(error) = unpack.own(&mut entry).and_then(|()| unpack.entry(&entry)) {
            return Err(unpack.told(error));
        }
    }
    let closed = unpack.close(&[]);
    closed.map_err(|error| unpack.told(error))?;
    Ok(unpack.amount)
}

impl<R: Read, T: FnMut(u64) -> io::Result<()>> Unpack<'_, R, T> {
    fn told(&self, error: EntryError) -> ArchiveFault {
        let entry = self.entries.name();
        let source = match error {
            EntryError::Told(fault) => return fault,
            EntryError::Misplaced(fault) => {
                let fault = fault.to_owned();
                return ArchiveFault::Misplaced { entry, fault };
            }
            EntryError::Disk(source) => source,
        };
        let misplaced = match Errno::from_io_error(&source) {
            _ if source.kind() == io::ErrorKind::StorageFull => {
                return ArchiveFault::Full { entry, source };
            }
            Some(Errno::NOSPC | Errno::DQUOT) => return ArchiveFault::Full { entry, source },
            Some(Errno::ISDIR) => "a directory has this name; remove it first",
            Some(Errno::NOTDIR) => "on its way is something else than a directory",
            Some(Errno::LOOP) => "on its way, or in its place, is a link that leads nowhere",
            // A mount of a user namespace's, in which the agent itself has no id.
            Some(Errno::OVERFLOW) => {
                "it lies on a mount whose owners are mapped, since its container has ids of its own; \
                 write to the volume (PUT /volumes/NAME/archive), or by a program in the container \
                 (exec)"
            }
            Some(Errno::XDEV) => "something else is mounted there, or it would lead out",
            Some(Errno::NOENT) => "what it links to, or a link on its way, leads nowhere",
            Some(Errno::ROFS) => "the file system is read-only",
            Some(Errno::NAMETOOLONG) => "its path is too long",
            _ => return ArchiveFault::Failed { entry, source },
        };
        let fault = misplaced.to_owned();
        ArchiveFault::Misplaced { entry, fault }
    }

    /// Makes the owners of an entry those that they are on the host.
    fn own(&self, entry: &mut ArchiveEntry) -> Result<(), EntryError> {
        let Some(owners) = self.owners else {
            return Ok(());
        };
        let none = EntryError::Misplaced("the container has no such user or group as its owner");
        match owners.outside(entry.uid).zip(owners.outside(entry.gid)) {
            Some((uid, gid)) => {
                (entry.uid, entry.gid) = (uid, gid);
                Ok(())
            }
            None => Err(none),
        }
    }

    fn entry(&mut self, entry: &ArchiveEntry) -> Result<(), EntryError> {
        let path = path(&entry.name)?;
        self.close(&path)?;
        let attributes = entry.xattrs.iter().map(|(_, value)| value.len() as u64);
        (self.take)(ENTRY_BYTES + entry.link.len() as u64 + attributes.sum::<u64>())?;
        self.amount.files += 1;
        let Some((name, above)) = path.split_last() else {
            if entry.kind != EntryKind::Directory {
                return Err(EntryError::Misplaced("it has no name"));
            }
            return self.give_directory(self.base, &path, entry);
        };
        let parent = self.parent(above)?;
        let parent = parent.as_fd();
        match entry.kind {
            EntryKind::Directory => self.directory(parent, name, &path, entry),
            EntryKind::Regular | EntryKind::OldSparse => self.file(parent, name, entry),
            EntryKind::Link => self.link(parent, name, entry),
            EntryKind::Symlink => self.node(parent, name, FileType::Symlink, entry),
            EntryKind::Fifo => self.node(parent, name, FileType::Fifo, entry),
            // None could be used in a container, and on the host somebody might.
            EntryKind::CharacterDevice | EntryKind::BlockDevice => {
                self.amount.left_out += 1;
                Ok(())
            }
            EntryKind::Other(kind) => Err(EntryError::Told(ArchiveFault::Malformed {
                entry: self.entries.name(),
                fault: format!("entries of type {:?} are not known", char::from(kind)),
            })),
        }
    }

    /// Opens a directory, and makes it and those above it where they are missing.
    fn parent(&mut self, path: &[CString]) -> Result<OwnedFd, EntryError> {
        match open(self.base, path) {
            Err(Errno::NOENT) => {}
            opened => return Ok(opened?),
        }
        for depth in 1..=path.len() {
            let (name, above) = path[..depth].split_last().unwrap_or((&path[0], &[]));
            let above = open(self.base, above)?;
            (self.take)(ENTRY_BYTES)?;
            match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    // The umask may have taken something away.
                    let made = open_in(above.as_fd(), name)?;
                    place::bare(made.as_fd())?;
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
                    if let Some(root) = self.owners.and_then(|owners| owners.outside(0)) {
                        let (uid, gid) = (Uid::from_raw(root), Gid::from_raw(root));
                        rustix::fs::fchown(&made, Some(uid), Some(gid))?;
                    }
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(open(self.base, path)?)
    }

    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        path: &[CString],
        entry: &ArchiveEntry,
    ) -> Result<(), EntryError> {
        let is_new = match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error.into()),
        };
        let directory = open_in(parent, name).map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => {
                EntryError::Misplaced("something else than a directory has this name")
            }
            error => error.into(),
        })?;
        if is_new {
            place::bare(directory.as_fd())?;
        }
        self.give_directory(directory.as_fd(), path, entry)
    }

    fn give_directory(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &[CString],
        entry: &ArchiveEntry,
    ) -> Result<(), EntryError> {
        self.amount.left_out += place::give(directory, entry)?;
        self.open.push((path.to_vec(), entry.mtime));
        Ok(())
    }

    /// Gives the directories that the archive has left their times, which each new file changed.
    fn close(&mut self, next: &[CString]) -> Result<(), EntryError> {
        let is_above = |path: &EntryPath| path.len() < next.len() && next.starts_with(path);
        while let Some((path, mtime)) = self.open.pop_if(|(path, _)| !is_above(path)) {
            match open(self.base, &path) {
                Ok(directory) => rustix::fs::futimens(&directory, &place::times(mtime))?,
                // A container took it away meanwhile.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        entry: &ArchiveEntry,
    ) -> Result<(), EntryError> {
        let new = NewFile::make(parent)?;
        let file = File::from(new.file.try_clone()?);
        self.data(&file, entry)?;
        place::bare(file.as_fd())?;
        self.amount.left_out += place::give(file.as_fd(), entry)?;
        rustix::fs::futimens(&file, &place::times(entry.mtime))?;
        Ok(new.put(name)?)
    }

    fn data(&mut self, mut file: &File, entry: &ArchiveEntry) -> Result<(), EntryError> {
        // Before its content: for a file that grows, XFS sets aside as much room again.
        if entry.size > 0 {
            file.set_len(entry.size)?;
        }
        for region in &entry.regions {
            file.seek(SeekFrom::Start(region.offset))?;
            let mut left = region.length;
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX);
                let part = &mut self.part[..most.min(PART_BYTES)];
                let read = self.entries.data(part)?;
                (self.take)(read as u64)?;
                file.write_all(&part[..read])?;
                left -= read as u64;
                self.amount.bytes += read as u64;
            }
        }
        Ok(())
    }

    /// Makes another name of a file that is there.
    fn link(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        entry: &ArchiveEntry,
    ) -> Result<(), EntryError> {
        let target = path(&entry.link)?;
        let Some((file, above)) = target.split_last() else {
            return Err(EntryError::Misplaced("it links to a directory"));
        };
        let above = open(self.base, above)?;
        Ok(place::put(parent, name, |at| {
            rustix::fs::linkat(&above, file, parent, at, AtFlags::empty())
        })?)
    }

    fn node(
        &self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        kind: FileType,
        entry: &ArchiveEntry,
    ) -> Result<(), EntryError> {
        let make = |at: &CStr| place::make_node(parent, at, kind, entry);
        Ok(place::put(parent, name, make)?)
    }
}

/// Directory at a path below `base`: links lead to places below it, and nothing leads into a mount.
fn open(base: BorrowedFd<'_>, path: &[CString]) -> rustix::io::Result<OwnedFd> {
    let parts: Vec<_> = path.iter().map(|part| part.to_bytes()).collect();
    let joined = match &parts[..] {
        [] => b".".to_vec(),
        parts => parts.join(&b'/'),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_XDEV;
    within::open_as(base, &joined[..], flags, resolve)
}

/// Directory that an open one has under this name.
fn open_in(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let below = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    within::open_as(parent, name, flags, below)
}

/// Path of an entry. A slash at its beginning says nothing, as to all readers of archives.
fn path(name: &[u8]) -> Result<EntryPath, EntryError> {
    let parts = name.split(|byte| *byte == b'/');
    let mut path = EntryPath::new();
    for part in parts.filter(|part| !matches!(*part, [] | b".")) {
        if part == b".." {
            return Err(EntryError::Misplaced(
                "its path has a \"..\", which leads out",
            ));
        }
        if part.len() > NAME_BYTES_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        let part = CString::new(part);
        path.push(part.map_err(|_| EntryError::Misplaced("its name has a NUL"))?);
    }
    if name.len() > PATH_BYTES_MAX || path.len() > DEPTH_MAX {
        return Err(Errno::NAMETOOLONG.into());
    }
    Ok(path)
}
