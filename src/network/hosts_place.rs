//! HostsWriter of a container's hosts files: a small file system (tmpfs) of its own, so that a container
//! may write to its files and fills nobody's memory but its own share.
//!
//! The version before had them in a plain directory, for the container to read only. Files that are
//! there go on as they are: a running container has them mounted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{
    FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink,
};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::mounts::on_host;

/// Size and number of files of a container's place. Three files need a page each; the rest is the
/// container's.
const LIMITS: &std::ffi::CStr = c"size=256k,nr_inodes=16,mode=0755";

/// Largest file in bytes that is kept current. A container can make a file that looks longer than
/// any memory.
const FILE_BYTES_MAX: u64 = 128 << 10;

/// Most file systems on top of each other at one place. One is the rule.
const STACKED_MOUNTS_MAX: u32 = 16;

/// Owner of what is in the hosts files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostsWriter {
    /// The container may write to them.
    Container,
    /// Only the agent writes to them.
    Agent,
}

/// Directory beside the places, for the file systems themselves. A place is a link to one of them:
/// the version before removes a place as a directory, which it cannot while one is mounted on it.
pub(super) const MEMORY_DIR: &str = ".memory";

/// Owner of the files at a place, or of those that [`ensure`] would make there.
pub(super) fn writer(dir: &Path) -> io::Result<HostsWriter> {
    let plain_files =
        || -> io::Result<bool> { Ok(!is_mounted(dir)? && fs::read_dir(dir)?.next().is_some()) };
    match plain_files() {
        Ok(true) => Ok(HostsWriter::Agent),
        Ok(false) => Ok(HostsWriter::Container),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HostsWriter::Container),
        Err(error) => Err(error),
    }
}

/// Makes the place of a container's hosts files, or finds the one that is there.
pub(super) fn ensure(dir: &Path) -> io::Result<HostsWriter> {
    if writer(dir)? == HostsWriter::Agent {
        return Ok(HostsWriter::Agent);
    }
    if is_mounted(dir).unwrap_or(false) {
        return Ok(HostsWriter::Container);
    }
    let memory = memory_of(dir).ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(&memory)?;
    if !is_mounted(&memory)? {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        on_host(|| Ok(mount("chas-hosts", &memory, "tmpfs", flags, LIMITS)?))?;
    }
    remove_entry(dir)?;
    symlink(&memory, dir)?;
    Ok(HostsWriter::Container)
}

/// Removes a place and all in it. Answers whether there was one.
pub(super) fn remove(dir: &Path) -> io::Result<bool> {
    let place = clear(dir)?;
    let memory = memory_of(dir).map(|memory| clear(&memory)).transpose()?;
    Ok(place || memory == Some(true))
}

fn memory_of(dir: &Path) -> Option<PathBuf> {
    Some(dir.parent()?.join(MEMORY_DIR).join(dir.file_name()?))
}

fn clear(dir: &Path) -> io::Result<bool> {
    for _ in 0..STACKED_MOUNTS_MAX {
        match is_mounted(dir) {
            Ok(true) => on_host(|| Ok(unmount(dir, UnmountFlags::DETACH)?))?,
            Ok(false) | Err(_) => break,
        }
    }
    remove_entry(dir)
}

/// Removes a directory with all in it, or a link without what it leads to. Answers whether there
/// was one.
fn remove_entry(path: &Path) -> io::Result<bool> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a file system is mounted on `dir`.
fn is_mounted(dir: &Path) -> io::Result<bool> {
    let Some(parent) = dir.parent() else {
        return Ok(true);
    };
    Ok(fs::metadata(dir)?.dev() != fs::metadata(parent)?.dev())
}

/// Makes a file's content what `content` makes of the present one, keeping the file itself; a new
/// one is readable by all. Answers whether the content differed. `None` leaves the file alone.
///
/// One write, then the cut: a reader meanwhile sees the new lines, and at worst old ones after
/// them. A line that the container appends in the same microseconds may be lost.
pub(super) fn rewrite(
    path: &Path,
    content: impl Fn(Option<&[u8]>) -> Option<Vec<u8>>,
) -> io::Result<bool> {
    let mut options = OpenOptions::new();
    // A lease that the container holds on the file would make the opening wait for its end.
    let nonblock = OFlags::NONBLOCK.bits().cast_signed();
    options.read(true).write(true).custom_flags(nonblock);
    match options.open(path) {
        Ok(mut file) => {
            let old = read(&mut file)?;
            match content(Some(&old)) {
                Some(new) if new != old => replace(&file, &new).map(|()| true),
                Some(_) | None => Ok(false),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Some(new) = content(None) else {
                return Ok(false);
            };
            create(path, &new).map(|()| true)
        }
        Err(error) => Err(error),
    }
}

fn read(file: &mut File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
    if u64::try_from(read).is_ok_and(|read| read <= FILE_BYTES_MAX) {
        Ok(content)
    } else {
        Err(io::ErrorKind::FileTooLarge.into())
    }
}

fn replace(file: &File, content: &[u8]) -> io::Result<()> {
    let length = u64::try_from(content.len()).expect("a text in memory is shorter than 2^64");
    // Half of a content would be worse than the old one.
    fallocate(file, FallocateFlags::KEEP_SIZE, 0, length)?;
    file.write_all_at(content, 0)?;
    file.set_len(length)
}

/// Makes a file that is whole from the moment at which it has its name.
fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    fs::write(&unfinished, content)?;
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o644))?;
    fs::rename(unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_its_inode_when_its_content_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        let write = |text: &str| rewrite(&path, |_| Some(text.into())).unwrap();
        assert!(write("a long first text\n"));
        let inode = fs::metadata(&path).unwrap().ino();
        assert!(write("short\n"));
        assert!(!write("short\n"), "nothing to do");
        assert_eq!(fs::read_to_string(&path).unwrap(), "short\n");
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert!(!rewrite(&path, |_| None).unwrap(), "left alone");
    }

    #[test]
    fn a_file_that_looks_endless_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        let endless = File::create(&path).unwrap();
        endless.set_len(1 << 40).unwrap();
        let refused = rewrite(&path, |_| Some(b"x".to_vec())).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(endless.metadata().unwrap().len(), 1 << 40);
    }

    #[test]
    fn files_of_the_version_before_stay_the_agents() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("hosts"), "").unwrap();
        assert_eq!(writer(dir.path()).unwrap(), HostsWriter::Agent);
        assert_eq!(ensure(dir.path()).unwrap(), HostsWriter::Agent);
        assert!(remove(dir.path()).unwrap());
        assert!(!remove(dir.path()).unwrap());
        assert_eq!(writer(dir.path()).unwrap(), HostsWriter::Container);
    }
}
