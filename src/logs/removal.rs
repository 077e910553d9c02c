//! Removal of a log directory, whatever its user has put there: however deep it is nested, this
//! takes two open directories and no stack. Blocks.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use uuid::Uuid;

/// Directories that are taken away in one go; who makes more meanwhile is not raced for ever.
const DIRECTORIES_MAX: u32 = 1_000_000;

/// Removes a directory and all that is in it. Links are removed, and not followed.
pub(super) fn remove_all(path: &Path) -> io::Result<()> {
    let top = match open(CWD, path) {
        Ok(top) => top,
        // No directory, or a link: its name goes.
        Err(Errno::NOTDIR | Errno::LOOP) => return std::fs::remove_file(path),
        Err(error) => return Err(error.into()),
    };
    // Nobody can have taken a name that nobody knew.
    let (prefix, mut moved) = (Uuid::new_v4().simple(), 0);
    while let Some(inner) = first_directory(&top)? {
        let opened = open(&top, inner.as_c_str())?;
        // What is in it comes up, so that nothing is ever deeper than this.
        while let Some(deeper) = first_directory(&opened)? {
            moved += 1;
            if moved > DIRECTORIES_MAX {
                return Err(io::Error::other("there are too many directories in it"));
            }
            renameat(
                &opened,
                deeper.as_c_str(),
                &top,
                format!("{prefix}-{moved}"),
            )?;
        }
        unlinkat(&top, inner.as_c_str(), AtFlags::REMOVEDIR)?;
    }
    std::fs::remove_dir(path)
}

fn open(below: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(below, name, flags, Mode::empty())
}

/// Removes what is no directory from one, and answers the first that is; `None`: it is empty.
fn first_directory(dir: &OwnedFd) -> io::Result<Option<CString>> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            return Ok(Some(name.to_owned()));
        }
        match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // A file system that does not tell its kinds.
            Err(Errno::ISDIR) => return Ok(Some(name.to_owned())),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_deep_nest_goes_with_a_small_stack_and_links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (dir, outside) = (root.path().join("log"), root.path().join("outside"));
        std::fs::create_dir_all(dir.join("one/a/b")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "").unwrap();
        symlink(&outside, dir.join("link")).unwrap();
        symlink(&outside, dir.join("one/a/link")).unwrap();
        std::fs::write(dir.join("0000000001.log"), "").unwrap();
        let mut deepest = open(CWD, dir.as_path()).unwrap();
        for _ in 0..20_000 {
            rustix::fs::mkdirat(&deepest, "d", Mode::RWXU).unwrap();
            deepest = open(&deepest, "d").unwrap();
        }
        drop(deepest);
        let removing = dir.clone();
        let thread = std::thread::Builder::new().stack_size(64 << 10);
        let removed = thread.spawn(move || remove_all(&removing)).unwrap();
        removed.join().unwrap().unwrap();
        assert!(!dir.exists() && outside.join("kept").exists());
        let gone = remove_all(&dir).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        symlink(&outside, &dir).unwrap();
        remove_all(&dir).unwrap();
        assert!(dir.symlink_metadata().is_err() && outside.join("kept").exists());
    }
}
