//! The token that the agent makes for callers where none is configured: root alone reads it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::config::Secret;

/// Bytes of a token: nobody guesses as many.
const TOKEN_BYTES: usize = 32;
/// Bytes read of the file; the agent writes far fewer.
const FILE_BYTES_MAX: u64 = 4 << 10;

/// The token in the file at `path`: the one that was made before, or a new one. Blocks.
///
/// # Errors
/// The file cannot be written.
pub(super) fn admin_token(path: &Path) -> io::Result<Secret> {
    match kept(path) {
        Ok(token) => Ok(token),
        Err(fault) => {
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

/// The token that the file holds; or what is wrong with it, and nothing if there is no file.
fn kept(path: &Path) -> Result<Secret, Option<String>> {
    let mut text = String::new();
    let file = File::open(path)
        .map_err(|error| (error.kind() != io::ErrorKind::NotFound).then(|| error.to_string()))?;
    let mode = file
        .metadata()
        .map(|data| data.permissions().mode() & 0o077);
    match mode {
        Ok(0) => {}
        Ok(_) => return Err(Some("others could read the file".to_owned())),
        Err(error) => return Err(Some(error.to_string())),
    }
    let read = file.take(FILE_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| error.to_string())
        .and_then(|_| text.parse())
        .map_err(Some)
}

/// Writes a new token: all of it or nothing, and for this user alone from the first byte.
fn make(path: &Path) -> io::Result<Secret> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    let text = BASE64_URL_SAFE_NO_PAD.encode(bytes);
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
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory)?.sync_all()?;
    Ok(Secret::new(&text))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

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
        let spoil: [&dyn Fn(); 4] = [
            &|| fs::write(&path, "").unwrap(),
            &|| fs::write(&path, [0xff; 40]).unwrap(),
            &|| fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap(),
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
