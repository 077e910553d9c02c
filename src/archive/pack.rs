//! Packing: what is in a directory becomes a tar stream.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{AtFlags, Dir, FileType, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use tar::EntryType;

use super::header::{self, NewEntry};
use super::sparse::{self, SparseRegion};
use super::{
    ArchiveFault, ArchivedAmount, BLOCK, DEPTH_MAX, OwnerShift, PART_BYTES, PATH_BYTES_MAX,
    padding, told,
    xattrs::{self, Xattr},
};
use crate::within;

/// Bytes of the first names of files with several: of what comes later, each name is a file.
const LINKED_BYTES_MAX: usize = 32 << 20;

/// Thing to be packed.
#[derive(Debug)]
pub(crate) enum PackedFrom<'a> {
    /// All that is in an open directory, and its own owner and permissions; under this name, which
    /// ends with a slash.
    Directory(BorrowedFd<'a>, &'a [u8]),
    /// Entry of an open directory, which is no directory, under its own name.
    Entry(BorrowedFd<'a>, &'a CStr),
}

/// Bytes that one takes in memory beside its name.
const LINKED_BYTES: usize = 96;

/// File with several names: device, inode, and the time of the last change of either. Another file may
/// have the inode by now.
type LinkedFile = (u64, u64, i64, u64);

/// Archive that is being made.
struct Pack<'a, W: ?Sized> {
    out: &'a mut W,
    owners: Option<OwnerShift>,
    part: Vec<u8>,
    /// Files with several names, and of each the name that is in the archive already.
    linked: HashMap<LinkedFile, Vec<u8>>,
    linked_bytes: usize,
    amount: ArchivedAmount,
    /// Name of the entry under way.
    name: Vec<u8>,
    /// Whether a file that is mounted from elsewhere is packed, since it was asked for by name.
    is_mount_taken: bool,
}

/// Writes the archive of `from`. What is mounted below it is not entered.
pub(crate) fn pack(
    from: &PackedFrom<'_>,
    owners: Option<OwnerShift>,
    out: &mut (impl Write + ?Sized),
) -> Result<ArchivedAmount, ArchiveFault> {
    let mut pack = Pack {
        out,
        owners,
        part: vec![0; PART_BYTES],
        linked: HashMap::new(),
        linked_bytes: 0,
        amount: ArchivedAmount::default(),
        name: Vec::new(),
        is_mount_taken: false,
    };
    let packed = match from {
        PackedFrom::Directory(directory, name) => {
            pack.name.extend_from_slice(name);
            pack.directory(*directory, 0)
        }
        PackedFrom::Entry(parent, name) => {
            pack.is_mount_taken = true;
            pack.entry(*parent, name, 0)
        }
    };
    let ended = packed.and_then(|()| {
        pack.name.clear();
        pack.out.write_all(&[0; 2 * BLOCK])?;
        pack.out.flush()
    });
    let entry = (!pack.name.is_empty()).then(|| told(&pack.name));
    match ended {
        Ok(()) => Ok(pack.amount),
        Err(source) => Err(ArchiveFault::Failed { entry, source }),
    }
}

impl<W: Write + ?Sized> Pack<'_, W> {
    /// Packs an open directory, whose name ends with a slash.
    fn directory(&mut self, directory: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            let message = format!("directories are more than {DEPTH_MAX} deep");
            return Err(io::Error::other(message));
        }
        let stat = rustix::fs::fstat(directory)?;
        let xattrs = xattrs::of(directory)?;
        self.head(EntryType::Directory, &stat, 0, (&[], &xattrs), None)?;
        let length = self.name.len();
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.entry(directory, name, depth)?;
            self.name.truncate(length);
        }
        Ok(())
    }

    /// Packs an entry of a directory, whose name is added to the directory's. One that has gone
    /// meanwhile is none.
    fn entry(&mut self, parent: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<()> {
        self.name.extend_from_slice(name.to_bytes());
        if self.name.len() > PATH_BYTES_MAX {
            return Err(io::Error::other("the path is too long"));
        }
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            stat => stat?,
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return self.below(parent, name, &stat, depth);
        }
        if stat.st_nlink > 1 && self.is_linked(&stat)? {
            return Ok(());
        }
        let is_packed = match kind {
            FileType::RegularFile => return self.regular(parent, name),
            FileType::Symlink => self.symlink(parent, name, &stat)?,
            FileType::Fifo => self.node(EntryType::Fifo, &stat)?,
            FileType::CharacterDevice => self.node(EntryType::Char, &stat)?,
            FileType::BlockDevice => self.node(EntryType::Block, &stat)?,
            FileType::Socket | FileType::Unknown | FileType::Directory => {
                self.amount.left_out += 1;
                false
            }
        };
        if is_packed {
            self.remember(&stat);
        }
        Ok(())
    }

    /// Packs a file. One that has gone, or is a mount of another one, is left out; and what a container
    /// has put in its place is not opened: a device may act on that.
    fn regular(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        if !self.is_mount_taken {
            resolve |= ResolveFlags::NO_XDEV;
        }
        let place = match within::open_as(parent, name, OFlags::PATH, resolve) {
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return Ok(()),
            Err(Errno::XDEV) => {
                self.amount.left_out += 1;
                return Ok(());
            }
            place => place?,
        };
        let stat = rustix::fs::fstat(&place)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))?;
        let stat = rustix::fs::fstat(&file)?;
        self.file(&file, &stat)?;
        self.remember(&stat);
        Ok(())
    }

    fn symlink(&mut self, parent: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<bool> {
        match rustix::fs::readlinkat(parent, name, Vec::new()) {
            Err(Errno::NOENT | Errno::INVAL) => Ok(false),
            target => {
                let link = target?;
                self.head(EntryType::Symlink, stat, 0, (link.to_bytes(), &[]), None)?;
                Ok(true)
            }
        }
    }

    fn node(&mut self, kind: EntryType, stat: &Stat) -> io::Result<bool> {
        self.head(kind, stat, 0, (&[], &[]), None)?;
        Ok(true)
    }

    fn below(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
        depth: usize,
    ) -> io::Result<()> {
        self.name.push(b'/');
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match open(parent, name, flags) {
            Ok(Some(directory)) => self.directory(directory.as_fd(), depth + 1),
            Ok(None) => Ok(()),
            // Something is mounted on it: there is a directory, and no more is told.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::XDEV) => {
                self.head(EntryType::Directory, stat, 0, (&[], &[]), None)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes a link to a file that is in the archive under another name; false: it is in none.
    fn is_linked(&mut self, stat: &Stat) -> io::Result<bool> {
        let Some(first) = self.linked.get(&linked_file(stat)).cloned() else {
            return Ok(false);
        };
        self.head(EntryType::Link, stat, 0, (&first, &[]), None)?;
        Ok(true)
    }

    fn remember(&mut self, stat: &Stat) {
        if stat.st_nlink > 1 && self.linked_bytes < LINKED_BYTES_MAX {
            self.linked_bytes += self.name.len() + LINKED_BYTES;
            self.linked.insert(linked_file(stat), self.name.clone());
        }
    }

    fn head(
        &mut self,
        kind: EntryType,
        stat: &Stat,
        size: u64,
        (link, xattrs): (&[u8], &[Xattr]),
        sparse: Option<u64>,
    ) -> io::Result<()> {
        self.amount.files += 1;
        let mut stat = *stat;
        if let Some(owners) = self.owners {
            stat.st_uid = owners.inside(stat.st_uid);
            stat.st_gid = owners.inside(stat.st_gid);
        }
        let entry = NewEntry {
            kind,
            name: &self.name,
            stat: &stat,
            size,
            link,
            xattrs,
            sparse,
        };
        self.out.write_all(&header::blocks(&entry)?)
    }

    fn file(&mut self, file: &File, stat: &Stat) -> io::Result<()> {
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let xattrs = xattrs::of(file.as_fd())?;
        let Some(regions) = sparse::find(file.as_fd(), size, stat.st_blocks)? else {
            self.head(EntryType::Regular, stat, size, (&[], &xattrs), None)?;
            let all = SparseRegion {
                offset: 0,
                length: size,
            };
            return self.data(file, &[all]);
        };
        let map = sparse::written(&regions, size);
        let data: u64 = regions.iter().map(|region| region.length).sum();
        let stored = map.len() as u64 + data;
        self.head(EntryType::Regular, stat, stored, (&[], &xattrs), Some(size))?;
        self.out.write_all(&map)?;
        self.data(file, &regions)
    }

    /// Writes the data of these regions. A file that has become shorter is filled up with zeros, for
    /// its length is told already.
    fn data(&mut self, file: &File, regions: &[SparseRegion]) -> io::Result<()> {
        let (mut all, mut is_shorter) = (0, false);
        for region in regions {
            let (mut at, end) = (region.offset, region.offset + region.length);
            while at < end {
                let most = usize::try_from(end - at).unwrap_or(usize::MAX);
                let part = &mut self.part[..most.min(PART_BYTES)];
                let mut read = file.read_at(part, at)?;
                if read == 0 {
                    is_shorter = true;
                    part.fill(0);
                    read = part.len();
                }
                self.out.write_all(&part[..read])?;
                at += read as u64;
            }
            all += region.length;
        }
        self.amount.bytes += all;
        self.amount.changed += u64::from(is_shorter);
        self.out.write_all(&[0; BLOCK][..padding(all)])
    }
}

/// Key of a file with several names. One that changes between two of them is packed twice.
fn linked_file(stat: &Stat) -> LinkedFile {
    (stat.st_dev, stat.st_ino, stat.st_ctime, stat.st_ctime_nsec)
}

/// Opens an entry of a directory, if that is still there; no link is followed, and no mount entered.
fn open(parent: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> io::Result<Option<OwnedFd>> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match within::open_as(parent, name, flags, resolve) {
        // It has gone, or another has its name.
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
        opened => Ok(Some(opened?)),
    }
}
