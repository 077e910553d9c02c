//! Extended attributes of files: access lists and capabilities are such.

use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// Beginning of a pax key with the name of an attribute.
pub(super) const KEY: &str = "SCHILY.xattr.";
/// Bytes of the names of a file's attributes, and of one value: the kernel's own limit.
const BYTES_MAX: usize = 64 << 10;
/// Kinds of attributes that are of the file, and go where it goes.
const OF_THE_FILE: [&str; 4] = [
    "user.",
    "security.capability",
    "system.posix_acl_",
    "trusted.",
];
/// Attributes of these kinds that say where a file was: layers of an overlay.
const OF_THE_PLACE: [&str; 2] = ["trusted.overlay.", "user.overlay."];

/// Name and value of an attribute.
pub(super) type Xattr = (Vec<u8>, Vec<u8>);

fn is_of_the_file(name: &[u8]) -> bool {
    let begins = |prefix: &&str| name.starts_with(prefix.as_bytes());
    OF_THE_FILE.iter().any(begins) && !OF_THE_PLACE.iter().any(begins)
}

/// Attributes of an open file, by name.
pub(super) fn of(file: BorrowedFd<'_>) -> rustix::io::Result<Vec<Xattr>> {
    // Nearly all files have none, and are asked without a buffer.
    match rustix::fs::flistxattr_query(file) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(error) => return Err(error),
    }
    let mut names = vec![MaybeUninit::uninit(); BYTES_MAX];
    let (names, _) = rustix::fs::flistxattr(file, &mut names[..])?;
    let mut value = vec![MaybeUninit::uninit(); BYTES_MAX];
    let mut found = Vec::new();
    for name in names.split(|byte| *byte == 0) {
        if !is_of_the_file(name) {
            continue;
        }
        match rustix::fs::fgetxattr(file, name, &mut value[..]) {
            Ok((read, _)) => found.push((name.to_vec(), read.to_vec())),
            // Somebody took it away.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Gives a file these attributes; those that it has are none of an archive's business. Answers how
/// many its disk does not know.
pub(super) fn give(file: BorrowedFd<'_>, attributes: &[Xattr]) -> rustix::io::Result<u64> {
    let mut left_out = 0;
    for (name, value) in attributes {
        if !is_of_the_file(name) {
            continue;
        }
        match rustix::fs::fsetxattr(file, &name[..], value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOTSUP) => left_out += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(left_out)
}

/// Name as it stands in a pax key: a key ends with `=`. As GNU tar has it.
pub(super) fn encoded(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    text.replace('%', "%25").replace('=', "%3D")
}

pub(super) fn decoded(name: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(name);
    text.replace("%3D", "=").replace("%25", "%").into_bytes()
}
