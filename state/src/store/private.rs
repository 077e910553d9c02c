//! The state directory closed to other users: environment values may be secrets, and whoever writes
//! into it decides what the node runs.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use super::has_begun;

/// Permissions of an owner. Set-user-id and its like are none that state needs, and may not be
/// settable.
const OWNERS: u32 = 0o700;
/// Permissions of a group and of all others.
const OTHERS: u32 = 0o077;
/// Entries of sled's directory that are looked at. It has a few; with thousands it is damaged.
const ENTRIES_MAX: usize = 10_000;

/// Closes an open state directory, and the `files` in it (a directory), to other users.
///
/// # Errors
/// It belongs to another user, and no agent has used it so far.
pub(super) fn close(directory: &File, path: &Path, files: &Path) -> io::Result<()> {
    let found = directory.metadata()?;
    let agent = rustix::process::geteuid().as_raw();
    if found.uid() != agent && !has_begun(path) {
        let (path, owner) = (path.display(), found.uid());
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{path} belongs to user {owner}, who can change what is in it; chown it"),
        ));
    }
    // A directory in use is used, whatever keeps it from being closed: a read-only file system, a
    // sandbox in which no set-group-id bit may be set, a file system of another host.
    if found.mode() & OTHERS != 0
        && let Err(error) = directory.set_permissions(Permissions::from_mode(found.mode() & OWNERS))
    {
        tracing::warn!(path = %path.display(), %error, "state directory not closed to others");
    }
    // Left by a version before, or under a more open umask. Nobody gets there any more: a second
    // belt.
    for files in [files, &files.join("blobs")] {
        if let Err(error) = close_files(files) {
            tracing::warn!(%error, "sled's files not closed to others");
        }
    }
    Ok(())
}

/// Closes a directory, and the files in it. A link in it leads anywhere, and is left alone.
fn close_files(path: &Path) -> io::Result<()> {
    let directory = match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    close_one(&directory)?;
    for entry in fs::read_dir(path)?.take(ENTRIES_MAX) {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            close_one(&open(&entry.path())?)?;
        }
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    File::options().read(true).custom_flags(flags).open(path)
}

fn close_one(file: &File) -> io::Result<()> {
    let mode = file.metadata()?.mode();
    if mode & OTHERS == 0 {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(mode & OWNERS))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::super::state_dir::SLED;
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_others_could_read_is_its_owners_alone_and_a_link_is_left() {
        let (dir, outside) = (
            tempfile::tempdir().unwrap(),
            tempfile::NamedTempFile::new().unwrap(),
        );
        let sled = dir.path().join(SLED);
        let blobs = sled.join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        let files = [sled.join("db"), sled.join("conf"), blobs.join("7")];
        for file in &files {
            fs::write(file, "x").unwrap();
            set(file, 0o644);
        }
        set(outside.path(), 0o644);
        symlink(outside.path(), sled.join("snap.link")).unwrap();
        for open in [dir.path(), &sled, &blobs] {
            set(open, 0o2755);
        }
        for _ in 0..2 {
            close(&File::open(dir.path()).unwrap(), dir.path(), &sled).unwrap();
            for closed in [dir.path(), &sled, &blobs] {
                assert_eq!(mode(closed), 0o700, "{closed:?}");
            }
            for file in &files {
                assert_eq!(mode(file), 0o600, "{file:?}");
            }
            assert_eq!(mode(outside.path()), 0o644);
        }
    }

    #[test]
    fn a_new_directory_of_another_user_is_refused_and_one_in_use_only_closed() {
        let dir = tempfile::tempdir().unwrap();
        // Only root can give a directory away.
        if chown(dir.path(), Some(65534), None).is_err() {
            return;
        }
        let opened = File::open(dir.path()).unwrap();
        let sled = dir.path().join(SLED);
        let refused = close(&opened, dir.path(), &sled).unwrap_err();
        assert!(
            refused.to_string().contains("belongs to user 65534"),
            "{refused}"
        );
        fs::create_dir(&sled).unwrap();
        set(dir.path(), 0o777);
        close(&opened, dir.path(), &sled).unwrap();
        assert_eq!(mode(dir.path()), 0o700);
    }
}
