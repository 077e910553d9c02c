//! Headers of entries as they are written: ustar, with a pax header before it for what ustar has no
//! room for.

use std::io;

use rustix::fs::Stat;
use tar::{EntryType, Header};

use super::xattrs::{self, Xattr};
use super::{BLOCK, padding, pax};

/// Greatest number of an octal field of seven digits.
const OCTAL_7: u64 = 0o777_7777;
/// Greatest number of one of eleven.
const OCTAL_11: u64 = 0o777_7777_7777;

/// Entry of which the header is to be written.
#[derive(Debug)]
pub(super) struct NewEntry<'a> {
    pub(super) kind: EntryType,
    pub(super) name: &'a [u8],
    pub(super) stat: &'a Stat,
    /// Bytes that follow.
    pub(super) size: u64,
    pub(super) link: &'a [u8],
    pub(super) xattrs: &'a [Xattr],
    /// Size of a sparse file, of which a map and its data follow.
    pub(super) sparse: Option<u64>,
}

/// The blocks of an entry's header.
pub(super) fn blocks(entry: &NewEntry<'_>) -> io::Result<Vec<u8>> {
    let stat = entry.stat;
    let mut records = Vec::new();
    let mut header = Header::new_ustar();
    header.set_entry_type(entry.kind);
    header.set_mode(stat.st_mode & 0o7777);
    name(&mut header, entry, &mut records);
    for (key, id) in [("uid", stat.st_uid), ("gid", stat.st_gid)] {
        if u64::from(id) > OCTAL_7 {
            pax::add(&mut records, key, id.to_string().as_bytes());
        }
    }
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    if entry.size > OCTAL_11 {
        pax::add(&mut records, "size", entry.size.to_string().as_bytes());
    }
    header.set_size(entry.size);
    let seconds = u64::try_from(stat.st_mtime).unwrap_or_default();
    let part = u32::try_from(stat.st_mtime_nsec).unwrap_or_default();
    if stat.st_mtime < 0 || seconds > OCTAL_11 || part != 0 {
        let time = pax::time(stat.st_mtime, part);
        pax::add(&mut records, "mtime", time.as_bytes());
    }
    header.set_mtime(seconds.min(OCTAL_11));
    if matches!(entry.kind, EntryType::Char | EntryType::Block) {
        header.set_device_major(rustix::fs::major(stat.st_rdev))?;
        header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
    }
    for (name, value) in entry.xattrs {
        let key = format!("{}{}", xattrs::KEY, xattrs::encoded(name));
        pax::add(&mut records, &key, value);
    }
    if records.len() > pax::RECORDS_BYTES_MAX {
        return Err(io::Error::other("its extended attributes are too large"));
    }
    header.set_cksum();
    let mut blocks = Vec::with_capacity(BLOCK);
    if !records.is_empty() {
        extended(&mut blocks, entry.name, &records);
    }
    blocks.extend_from_slice(header.as_bytes());
    Ok(blocks)
}

/// Names of the entry and of what it links to, in the header if they fit.
fn name(header: &mut Header, entry: &NewEntry<'_>, records: &mut Vec<u8>) {
    if let Some(size) = entry.sparse {
        for (key, value) in [("major", b"1"), ("minor", b"0")] {
            pax::add(records, &format!("GNU.sparse.{key}"), value);
        }
        pax::add(records, "GNU.sparse.name", entry.name);
        pax::add(records, "GNU.sparse.realsize", size.to_string().as_bytes());
    }
    let old = header.as_old_mut();
    let is_cut = cut(&mut old.name, entry.name);
    if is_cut && entry.sparse.is_none() {
        pax::add(records, "path", entry.name);
    }
    if cut(&mut old.linkname, entry.link) {
        pax::add(records, "linkpath", entry.link);
    }
}

/// Puts a name in its field; true: it does not fit.
fn cut(field: &mut [u8; 100], name: &[u8]) -> bool {
    let length = name.len().min(field.len());
    field[..length].copy_from_slice(&name[..length]);
    name.len() > field.len()
}

/// The pax header with these records.
fn extended(blocks: &mut Vec<u8>, name: &[u8], records: &[u8]) {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_mode(0o644);
    let last = name
        .rsplit(|byte| *byte == b'/')
        .find(|part| !part.is_empty());
    let name = [b"PaxHeaders/", last.unwrap_or(b".")].concat();
    cut(&mut header.as_old_mut().name, &name);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(records.len() as u64);
    header.set_cksum();
    blocks.extend_from_slice(header.as_bytes());
    blocks.extend_from_slice(records);
    blocks.resize(blocks.len() + padding(records.len() as u64), 0);
}
