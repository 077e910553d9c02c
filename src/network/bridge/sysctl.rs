//! Kernel switches (sysctl) of the calling thread's netns.

use std::io;
use std::path::Path;

use crate::network::NetworkError;

/// Writes a sysctl (`a/b/c`) if it has another value, and answers whether it had.
///
/// # Errors
/// The sysctl cannot be written. A missing one is an error for IPv4 only.
pub(super) fn set(key: &str, value: &str) -> Result<bool, NetworkError> {
    let path = Path::new("/proc/sys").join(key);
    let result = std::fs::read_to_string(&path).and_then(|old| {
        let wrong = old.trim() != value;
        if wrong {
            std::fs::write(&path, value).map(|()| true)
        } else {
            Ok(false)
        }
    });
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound && key.starts_with("net/ipv6/") => {
            Ok(false)
        }
        other => other
            .map_err(|error| NetworkError::failed(format!("cannot set {}", path.display()), error)),
    }
}
