//! The node's key of secrets, from its file. It is made once, where no stored value needs another.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::rand::{GetRandomFlags, getrandom};
use state::seal::{KEY_BYTES, NodeKey, Sealer};

use crate::config::private;

/// Largest key file: whatever is longer is some other file.
const FILE_BYTES_MAX: u64 = 4 << 10;

/// Key in the file at `path`. Where there is no file, one is made if `may_make`. Blocks.
///
/// A file that is there and holds no key is never replaced: it may be the disk that lies.
pub(crate) fn read(path: &Path, may_make: bool) -> NodeKey {
    let shown = path.display();
    match content(path) {
        Ok(content) if content.len() < KEY_BYTES => {
            let fault = "fewer than 32 bytes; put back the file as it was";
            NodeKey::Missing(format!("{shown} has {fault}"))
        }
        Ok(content) => NodeKey::Present(Arc::new(Sealer::new(&content))),
        Err(error) if error.kind() == ErrorKind::NotFound && may_make => match make(path) {
            Ok(key) => {
                tracing::info!(path = %shown, "key of secrets made");
                NodeKey::Present(Arc::new(Sealer::new(&key)))
            }
            Err(error) => NodeKey::Missing(format!("{shown} cannot be made: {error}")),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {
            NodeKey::Missing(format!("{shown} is not there; put it back"))
        }
        Err(error) => NodeKey::Missing(format!("{shown} cannot be read: {error}")),
    }
}

fn content(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe without a writer would hold up the start.
    let nonblock = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options()
        .read(true)
        .custom_flags(nonblock)
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.len() > FILE_BYTES_MAX {
        let message = format!("it is no file of {FILE_BYTES_MAX} bytes at most");
        return Err(io::Error::other(message));
    }
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut content)?;
    Ok(content)
}

fn make(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    while getrandom(&mut key, GetRandomFlags::empty()) != Ok(KEY_BYTES) {}
    private::write_bytes(path, &key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_never_in_place_of_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/secrets.key");
        let name = |key: NodeKey| key.sealer().map(|sealer| sealer.name().to_owned());
        assert!(name(read(&path, false)).is_err(), "and none is made");
        let made = name(read(&path, true)).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(name(read(&path, true)).unwrap(), made);
        fs::write(&path, b"short").unwrap();
        let refused = name(read(&path, true)).unwrap_err();
        assert!(refused.to_string().contains("fewer than 32"), "{refused}");
        fs::write(&path, [1; 40]).unwrap();
        assert_ne!(name(read(&path, true)).unwrap(), made);
    }
}
