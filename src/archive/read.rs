//! Reading of a tar stream, one entry after the other: ustar, pax, GNU's and old headers.

use std::io::{self, Read};

use tar::Header;

use super::acl;
use super::sparse::SparseRegion;
use super::xattrs::{self, Xattr};
use super::{ArchiveFault, BLOCK, EntryName, PATH_BYTES_MAX, padding, pax, told};

mod maps;

/// Bytes of GNU's headers with a long name, which end with a NUL.
const LONG_NAME_BYTES_MAX: u64 = PATH_BYTES_MAX as u64 + 1;
/// Bytes after the end of an archive that are read, and count for nothing: GNU tar fills up 10 KiB.
const TRAILER_BYTES_MAX: usize = 1 << 20;

/// Kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    Regular,
    Directory,
    Link,
    Symlink,
    Fifo,
    CharacterDevice,
    BlockDevice,
    /// A regular file with GNU's old map of its holes.
    OldSparse,
    /// Another one, by its letter.
    Other(u8),
}

/// Entry of an archive.
#[derive(Debug)]
pub(super) struct ArchiveEntry {
    pub(super) name: Vec<u8>,
    pub(super) kind: EntryKind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970 and a part in nanoseconds.
    pub(super) mtime: (i64, u32),
    pub(super) link: Vec<u8>,
    pub(super) xattrs: Vec<Xattr>,
    /// Access lists in words that nobody here understands.
    pub(super) unread: u64,
    /// Bytes of the file.
    pub(super) size: u64,
    /// Regions of it with data, in order; the data follow.
    pub(super) regions: Vec<SparseRegion>,
}

/// Reader of the entries of one archive.
#[derive(Debug)]
pub(super) struct ArchiveEntries<R> {
    reader: R,
    /// Bytes of the last entry that are still to come.
    left: u64,
    padding: usize,
    /// Entry under way, for errors.
    name: EntryName,
}

/// Pax records of an entry, by what they tell.
#[derive(Debug, Default)]
struct Extended {
    is_given: bool,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<Xattr>,
    unread: u64,
    sparse: SparseRecords,
}

/// Pax records about a sparse file, of formats 0.0, 0.1 and 1.0.
#[derive(Debug, Default)]
struct SparseRecords {
    is_map_in_data: bool,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    numbers: Vec<u64>,
}

type EntryRead<T> = Result<T, ArchiveFault>;

impl<R: Read> ArchiveEntries<R> {
    pub(super) fn new(reader: R) -> Self {
        Self {
            reader,
            left: 0,
            padding: 0,
            name: None,
        }
    }

    pub(super) fn name(&self) -> EntryName {
        self.name.clone()
    }

    fn malformed<T>(&self, fault: impl Into<String>) -> EntryRead<T> {
        Err(ArchiveFault::Malformed {
            entry: self.name(),
            fault: fault.into(),
        })
    }

    fn exact(&mut self, bytes: &mut [u8]) -> EntryRead<()> {
        let read = self.reader.read_exact(bytes);
        read.map_err(|source| ArchiveFault::Cut {
            entry: self.name(),
            source,
        })
    }

    fn block(&mut self) -> EntryRead<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        self.exact(&mut block)?;
        Ok(block)
    }

    /// Next bytes of the entry's data; 0: there are none left.
    pub(super) fn data(&mut self, part: &mut [u8]) -> EntryRead<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(part.len());
        if most == 0 {
            return Ok(0);
        }
        self.exact(&mut part[..most])?;
        self.left -= most as u64;
        Ok(most)
    }

    /// Passes over what is left of an entry.
    fn pass(&mut self) -> EntryRead<()> {
        let mut part = [0; 16 * BLOCK];
        while self.data(&mut part)? > 0 {}
        let padding = std::mem::take(&mut self.padding);
        self.exact(&mut part[..padding])
    }

    fn expect(&mut self, size: u64) {
        (self.left, self.padding) = (size, padding(size));
    }

    /// The data of an entry that are kept in memory.
    fn all(&mut self, size: u64, most: u64, thing: &str) -> EntryRead<Vec<u8>> {
        if size > most {
            return self.malformed(format!("{thing} has {size} bytes, and {most} are taken"));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        self.expect(size);
        self.data(&mut bytes)?;
        self.pass()?;
        Ok(bytes)
    }

    /// The next entry, whose data can be read then; `None`: the archive is at its end.
    pub(super) fn next(&mut self) -> EntryRead<Option<ArchiveEntry>> {
        self.pass()?;
        let (mut extended, mut long_name, mut long_link) = (Extended::default(), None, None);
        loop {
            let block = self.block()?;
            if block.iter().all(|byte| *byte == 0) {
                self.trailer()?;
                return Ok(None);
            }
            let header = Header::from_byte_slice(&block);
            if !is_header(&block) {
                return self.malformed("what follows is no header of a tar archive");
            }
            let size = self.number(header.entry_size(), "size")?;
            match header.entry_type().as_byte() {
                b'x' => {
                    let most = pax::RECORDS_BYTES_MAX as u64;
                    let records = self.all(size, most, "a pax header")?;
                    extended = self.extended(&records)?;
                }
                b'g' => {
                    self.all(size, pax::RECORDS_BYTES_MAX as u64, "a pax header")?;
                }
                b'L' => {
                    let name = self.all(size, LONG_NAME_BYTES_MAX, "a name")?;
                    long_name = Some(until_nul(name));
                }
                b'K' => {
                    let name = self.all(size, LONG_NAME_BYTES_MAX, "a name")?;
                    long_link = Some(until_nul(name));
                }
                _ => {
                    extended.path = extended.path.or(long_name);
                    extended.link = extended.link.or(long_link);
                    return self.entry(header, size, extended).map(Some);
                }
            }
        }
    }

    /// Reads to the end of the stream, so that the sender's own end is heard.
    fn trailer(&mut self) -> EntryRead<()> {
        let mut part = [0; 16 * BLOCK];
        let mut read = 0;
        self.name = None;
        while read <= TRAILER_BYTES_MAX {
            match self.reader.read(&mut part) {
                Ok(0) => return Ok(()),
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let entry = None;
                    return Err(ArchiveFault::Cut { entry, source });
                }
            }
        }
        self.malformed("more follows the end of the archive")
    }

    fn number(&self, number: io::Result<u64>, of: &str) -> EntryRead<u64> {
        number.or_else(|_| self.malformed(format!("its {of} is no number")))
    }

    fn extended(&self, records: &[u8]) -> EntryRead<Extended> {
        let Some(records) = pax::parse(records) else {
            return self.malformed("a pax header is not well-formed");
        };
        let mut extended = Extended {
            is_given: true,
            ..Extended::default()
        };
        for (key, value) in records {
            let key = String::from_utf8_lossy(key);
            if extended.take(&key, value).is_none() {
                return self.malformed(format!(
                    "the pax record {} is not valid",
                    told(key.as_bytes())
                ));
            }
        }
        Ok(extended)
    }

    fn entry(&mut self, header: &Header, size: u64, extended: Extended) -> EntryRead<ArchiveEntry> {
        let sparse_name = extended.sparse.name.clone();
        let name = sparse_name.or(extended.path);
        let name = name.unwrap_or_else(|| header.path_bytes().into_owned());
        self.name = Some(told(&name));
        let size = extended.size.unwrap_or(size);
        let kind = kind(header, &name);
        let own_link = || header.link_name_bytes().map(|link| link.into_owned());
        let mut entry = ArchiveEntry {
            kind,
            mode: header.mode().unwrap_or_default() & 0o7777,
            uid: self.id(extended.uid, header.uid(), "owner")?,
            gid: self.id(extended.gid, header.gid(), "group")?,
            mtime: match extended.mtime {
                Some(mtime) => mtime,
                // Of a time before 1970, GNU tar writes all bits.
                None => (self.number(header.mtime(), "time")?.cast_signed(), 0),
            },
            link: extended.link.or_else(own_link).unwrap_or_default(),
            xattrs: extended.xattrs,
            unread: extended.unread,
            size: 0,
            regions: Vec::new(),
            name,
        };
        match kind {
            EntryKind::OldSparse | EntryKind::Regular => {
                self.expect(size);
                self.regions(&mut entry, header, &extended.sparse)?;
            }
            // A link that bears its file's data says so in a pax header; others repeat its size.
            EntryKind::Link if extended.is_given => self.expect(size),
            EntryKind::Directory
            | EntryKind::Link
            | EntryKind::Symlink
            | EntryKind::Fifo
            | EntryKind::CharacterDevice
            | EntryKind::BlockDevice
            | EntryKind::Other(_) => {}
        }
        Ok(entry)
    }

    fn id(&self, extended: Option<u64>, own: io::Result<u64>, of: &str) -> EntryRead<u32> {
        let id = match extended {
            Some(id) => id,
            None => self.number(own, of)?,
        };
        // The last one stands for none, to the kernel.
        match u32::try_from(id) {
            Ok(id) if id != u32::MAX => Ok(id),
            _ => self.malformed(format!("its {of} {id} is none")),
        }
    }
}

impl Extended {
    /// Takes in a record; `None`: it is not valid.
    fn take(&mut self, key: &str, value: &[u8]) -> Option<()> {
        if let Some(name) = key.strip_prefix(xattrs::KEY) {
            let name = xattrs::decoded(name.as_bytes());
            self.xattrs.push((name, value.to_vec()));
            return Some(());
        }
        if let Some(kind) = key.strip_prefix(acl::KEY) {
            match acl::attribute(kind).zip(acl::value(value)) {
                Some((name, value)) => self.xattrs.push((name.to_vec(), value)),
                None => self.unread += 1,
            }
            return Some(());
        }
        let text = || std::str::from_utf8(value).ok();
        let number = || text()?.parse::<u64>().ok();
        match key {
            "path" => self.path = Some(value.to_vec()),
            "linkpath" => self.link = Some(value.to_vec()),
            "size" => self.size = Some(number()?),
            "uid" => self.uid = Some(number()?),
            "gid" => self.gid = Some(number()?),
            "mtime" => self.mtime = Some(pax::parse_time(text()?)?),
            "GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            "GNU.sparse.major" => self.sparse.is_map_in_data = number()? == 1,
            "GNU.sparse.realsize" | "GNU.sparse.size" => self.sparse.size = Some(number()?),
            "GNU.sparse.offset" | "GNU.sparse.numbytes" => self.sparse.numbers.push(number()?),
            "GNU.sparse.map" if !value.is_empty() => {
                for number in text()?.split(',') {
                    self.sparse.numbers.push(number.parse().ok()?);
                }
            }
            _ => {}
        }
        Some(())
    }
}

/// Whether the checksum of a header is its own.
fn is_header(block: &[u8; BLOCK]) -> bool {
    let header = Header::from_byte_slice(block);
    let sum = block.iter().enumerate().map(|(at, byte)| match at {
        148..156 => u32::from(b' '),
        _ => u32::from(*byte),
    });
    header.cksum().is_ok_and(|told| told == sum.sum::<u32>())
}

/// Kind of an entry; old writers have a directory's name end with a slash, and no more.
fn kind(header: &Header, name: &[u8]) -> EntryKind {
    match header.entry_type().as_byte() {
        b'0' | b'7' | 0 if name.ends_with(b"/") => EntryKind::Directory,
        b'0' | b'7' | 0 => EntryKind::Regular,
        b'1' => EntryKind::Link,
        b'2' => EntryKind::Symlink,
        b'3' => EntryKind::CharacterDevice,
        b'4' => EntryKind::BlockDevice,
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        b'S' => EntryKind::OldSparse,
        other => EntryKind::Other(other),
    }
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    let end = name.iter().position(|byte| *byte == 0);
    name.truncate(end.unwrap_or(name.len()));
    name
}
