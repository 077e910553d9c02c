//! Files with secrets: written for their owner alone; and whether others can read or change them.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Permissions of a file's group and of all others.
const OTHERS: u32 = 0o077;

/// Whether a user can do with the agent's files as it likes: root, and the agent's own.
#[must_use]
pub fn is_own(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Writes a file: all of it or nothing, and for this user alone from the first byte.
///
/// # Errors
/// It, or its directory, cannot be written.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    write_bytes(path, text.as_bytes())
}

/// Writes a file as [`write()`] does, of bytes that are no text.
///
/// # Errors
/// It, or its directory, cannot be written.
pub fn write_bytes(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory)?.sync_all()
}

/// Fault of a file with secrets, with its remedy. `None`: it is its owner's alone, or there is none
/// to look at.
#[must_use]
pub fn fault(path: &Path) -> Option<String> {
    let found = fs::metadata(path).ok().filter(|found| found.is_file())?;
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    let path = path.display();
    if !is_own(owner) {
        Some(format!(
            "{path} holds a secret and belongs to user {owner}, who can change it: chown root {path}"
        ))
    } else if mode & OTHERS != 0 {
        Some(format!(
            "{path} holds a secret, and others than its owner may use it (mode {mode:04o}): chmod \
             600 {path}"
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    #[test]
    fn a_file_is_private_if_its_owner_alone_may_use_it_wherever_a_link_leads() {
        let dir = tempfile::tempdir().unwrap();
        let [file, link] = ["secret", "link"].map(|name| dir.path().join(name));
        fs::write(&file, "x").unwrap();
        symlink(&file, &link).unwrap();
        for (mode, is_private) in [
            (0o600, true),
            (0o400, true),
            (0o700, true),
            (0o640, false),
            (0o620, false),
            (0o604, false),
            (0o602, false),
        ] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            for path in [&file, &link] {
                let fault = fault(path);
                assert_eq!(fault.is_none(), is_private, "{mode:o}: {fault:?}");
                if let Some(fault) = fault {
                    assert!(
                        fault.contains(&format!("(mode {mode:04o}): chmod 600")),
                        "{fault}"
                    );
                }
            }
        }
        assert_eq!(fault(&dir.path().join("absent")), None);
        assert_eq!(fault(dir.path()), None);
    }

    #[test]
    fn a_file_of_another_user_is_not_private() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // Only root can give a file away.
        if chown(file.path(), Some(65534), None).is_ok() {
            let fault = fault(file.path()).unwrap();
            assert!(fault.contains("belongs to user 65534"), "{fault}");
        }
    }
}
