//! The token that the agent makes for callers where none is configured: root alone reads it.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::config::{Secret, private};

/// Bytes read of the file; the agent writes far fewer.
const FILE_BYTES_MAX: u64 = 4 << 10;

/// The token in the file at `path`: the one that was made before, or a new one. Blocks.
///
/// # Errors
/// The file cannot be written.
pub(super) fn admin_token(path: &Path) -> io::Result<Secret> {
    match kept(path) {
        Ok(token) => Ok(token),
        Err(KeptFault::Unread(error)) => Err(error),
        Err(KeptFault::None(fault)) => {
            let token = make(path)?;
            let path = path.display();
            match fault {
                None => tracing::info!(%path, "admin token made"),
                Some(fault) => tracing::warn!(%path, fault, "admin token made anew"),
            }
            Ok(token)
        }
    }
}

/// Fault for which a file holds no token.
enum KeptFault {
    /// No file, or something else in it.
    None(Option<String>),
    /// A file that cannot be read now.
    Unread(io::Error),
}

/// The token that the file holds.
fn kept(path: &Path) -> Result<Secret, KeptFault> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            KeptFault::None(None)
        } else {
            KeptFault::Unread(error)
        }
    })?;
    let data = file.metadata().map_err(KeptFault::Unread)?;
    if data.uid() != rustix::process::geteuid().as_raw() {
        return Err(KeptFault::None(Some("it is another user's".to_owned())));
    }
    // One that others may read is an alarm: callers have it, and it is not made anew behind their back.
    let read = file.take(FILE_BYTES_MAX).read_to_end(&mut bytes);
    read.map_err(KeptFault::Unread)?;
    let text = String::from_utf8(bytes);
    text.map_err(|_| "it is no text".to_owned())
        .and_then(|text| text.parse())
        .map_err(|fault| KeptFault::None(Some(fault)))
}

/// Writes a new token.
fn make(path: &Path) -> io::Result<Secret> {
    let token = Secret::random()?;
    private::write(path, &format!("{}\n", token.expose()))?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_is_made_once_and_again_where_it_is_none_or_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/admin-token");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        let first = admin_token(&path).unwrap();
        assert_eq!((mode(), first.expose().len()), (0o600, 43));
        assert_eq!(admin_token(&path).unwrap(), first);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim(), first.expose());
        // One that a crash left half written.
        fs::write(path.with_extension("new"), "half").unwrap();
        // Callers that are members of a group have it, and keep it.
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert_eq!(admin_token(&path).unwrap(), first);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let spoil: [&dyn Fn(); 3] = [
            &|| fs::write(&path, "").unwrap(),
            &|| fs::write(&path, [0xff; 40]).unwrap(),
            &|| fs::remove_file(&path).unwrap(),
        ];
        for spoil in spoil {
            let before = admin_token(&path).unwrap();
            spoil();
            let after = admin_token(&path).unwrap();
            assert_ne!(before, after);
            assert_eq!((mode(), admin_token(&path).unwrap()), (0o600, after));
        }
        assert_eq!(
            fs::read_dir(directory.path().join("state"))
                .unwrap()
                .count(),
            1
        );
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error() {
        assert!(admin_token(Path::new("/proc/self/admin-token")).is_err());
    }
}
