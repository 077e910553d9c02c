//! Files of a container's log directory: their names, and how one is opened.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Largest number of a file, far beyond all that are ever reached. One with a larger number is not
/// the logger's: there would be no number after it.
const NUMBER_MAX: u64 = u64::MAX / 2;

/// Names in a directory that are taken by what is no file, and are passed over.
const PASSED_OVER_MAX: u64 = 16;

/// Path of a directory's file number `number`.
pub(super) fn file_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.log"))
}

/// Numbers of a directory's files in order; the last one is being written. Directories, pipes and
/// sockets with such names are left out: reading or writing one could block for ever.
pub(super) fn file_numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_suffix(".log"))
            .and_then(|digits| digits.parse().ok())
            .filter(|number| {
                *number <= NUMBER_MAX && file_path(dir, *number).file_name() == Some(&name)
            });
        let is_file = |kind: fs::FileType| {
            !kind.is_dir() && !kind.is_fifo() && !kind.is_socket() && !kind.is_block_device()
        };
        numbers.extend(number.filter(|_| entry.file_type().is_ok_and(is_file)));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Opens the file of this number, or of the next one whose name is not taken by something else.
pub(super) fn open_from(dir: &Path, number: u64) -> io::Result<(File, u64)> {
    for number in number..=number + PASSED_OVER_MAX {
        let path = file_path(dir, number);
        let is_free = fs::symlink_metadata(&path).map_or_else(
            |error| error.kind() == io::ErrorKind::NotFound,
            |found| found.is_file() || found.is_symlink(),
        );
        if is_free {
            return Ok((open_file(&path)?, number));
        }
    }
    let error = format!(
        "{} and the names after it are taken by what is no file",
        file_path(dir, number).display()
    );
    Err(io::Error::new(io::ErrorKind::AlreadyExists, error))
}

/// Opens a file to read it: whoever writes a log is nobody to be led elsewhere by, nor to wait for.
pub(super) fn open_to_read(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn open_file(path: &Path) -> io::Result<File> {
    // Appending, so that two writers never overwrite each other; readable, to find the last line.
    // Output may be secret.
    OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o640)
        .open(path)
}
