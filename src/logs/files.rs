//! Files of a container's log directory: their names, and how one is opened.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Largest number of a file, far beyond all that are ever reached. One with a larger number is not
/// the logger's: there would be no number after it.
const NUMBER_MAX: u64 = u64::MAX / 2;

/// Names in a directory that are taken by what is no file, and are passed over.
const PASSED_OVER_MAX: u64 = 16;

/// Path of a directory's file number `number`.
pub(super) fn file_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.log"))
}

/// Numbers of a directory's files in order; the last one is being written. What else has such a name
/// is left out: reading or writing it could block for ever, or lead out of the directory.
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
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        numbers.extend(number.filter(|_| is_file));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Opens the file of this number, or of the next one whose name is not taken by something else: by
/// what is no file, by a file with a name elsewhere too, or by one of another user.
pub(super) fn open_from(dir: &Path, number: u64) -> io::Result<(File, u64)> {
    for number in number..=number + PASSED_OVER_MAX {
        let path = file_path(dir, number);
        match open_file(&path) {
            Ok(Some(file)) => return Ok((file, number)),
            Ok(None) => {}
            Err(error) if is_taken(&error) => {}
            Err(error) => return Err(error),
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
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(no_detour()?).open(path)
}

/// Flags with which an open follows no link and waits for nobody.
pub(super) const NO_DETOUR: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK);

/// The same for the library's opens.
pub(super) fn no_detour() -> io::Result<i32> {
    i32::try_from(NO_DETOUR.bits()).map_err(io::Error::other)
}

/// Whether an error says that a name is taken by something that cannot be written.
fn is_taken(error: &io::Error) -> bool {
    let of_name = [
        Errno::LOOP,
        Errno::NXIO,
        Errno::ISDIR,
        Errno::ACCESS,
        Errno::PERM,
    ];
    Errno::from_io_error(error).is_some_and(|errno| of_name.contains(&errno))
}

/// Opens a file to write; `None`: it is not the log's own.
fn open_file(path: &Path) -> io::Result<Option<File>> {
    // Appending, so that two writers never overwrite each other; readable, to find the last line.
    // Output may be secret.
    let mut options = OpenOptions::new();
    options.create(true).append(true).read(true).mode(0o640);
    let file = options.custom_flags(no_detour()?).open(path)?;
    let found = file.metadata()?;
    // A file of no name was removed just now.
    Ok((found.is_file() && found.nlink() <= 1).then_some(file))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_name_that_leads_out_of_the_directory_is_neither_written_nor_listed() {
        let root = tempfile::tempdir().unwrap();
        let (dir, outside) = (root.path().join("log"), root.path().join("outside"));
        fs::create_dir(&dir).unwrap();
        fs::write(&outside, "as it was").unwrap();
        symlink(&outside, file_path(&dir, 1)).unwrap();
        fs::hard_link(&outside, file_path(&dir, 2)).unwrap();
        fs::create_dir(file_path(&dir, 3)).unwrap();
        symlink(dir.join("nowhere"), file_path(&dir, 4)).unwrap();
        let (mut file, number) = open_from(&dir, 1).unwrap();
        file.write_all(b"line").unwrap();
        assert_eq!(number, 5);
        assert_eq!(fs::read_to_string(&outside).unwrap(), "as it was");
        assert!(!dir.join("nowhere").exists());
        assert_eq!(file_numbers(&dir).unwrap(), [2, 5]);
        assert!(open_to_read(&file_path(&dir, 1)).is_err());
    }
}
