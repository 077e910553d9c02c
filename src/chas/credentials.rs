//! Credentials for CHaS: the node's token and certificate, and the authorities it trusts. Files are
//! read for every call, so that they can be replaced while the agent runs.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cause;
use crate::config::Secret;

mod tokens;
mod transport;

pub use tokens::Tokens;
pub use transport::Transport;

/// Bytes read of a token or certificate file; any real one is smaller.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Credentials that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file is missing, or may not be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
    /// The content of a token file is not a token.
    #[error("{} holds no token: write one line of printable ASCII without spaces", path.display())]
    NoToken {
        /// Path of the file.
        path: PathBuf,
    },
    /// The certificates or the key cannot be used, or the system has no certificate authorities.
    #[error(
        "cannot set up TLS: {}; check chas.ca_file, chas.cert_file, chas.key_file, or the system's CAs",
        cause::root(.0)
    )]
    Tls(reqwest::Error),
}

/// Token and TLS credentials, shared by the calls of one link.
#[derive(Clone, Debug)]
pub struct ChasCredentials {
    /// HTTP client with the TLS credentials.
    pub transport: Arc<Transport>,
    /// Tokens of the node.
    pub tokens: Arc<Tokens>,
}

impl ChasCredentials {
    /// Whether [`Self::current`] reads files, which blocks.
    #[must_use]
    pub fn reads_files(&self) -> bool {
        self.transport.reads_files() || self.tokens.reads_files()
    }

    /// The client and the token for the next call, after a fingerprint of everything that the
    /// operator gave: another fingerprint means that a refused call may succeed now. Blocks.
    pub fn current(
        &self,
    ) -> (
        u64,
        Result<(reqwest::Client, Option<Secret>), CredentialsError>,
    ) {
        let pem = self.transport.read();
        let (given, is_unread) = (self.tokens.given(), self.tokens.is_unread());
        let mut hasher = DefaultHasher::new();
        (pem.as_ref().ok(), given.as_ref().ok(), is_unread).hash(&mut hasher);
        let token = self.tokens.current(given);
        let current = pem.and_then(|pem| Ok((self.transport.client(pem)?, token?)));
        (hasher.finish(), current)
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, CredentialsError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    read.map(|_| bytes)
        .map_err(|source| CredentialsError::File {
            path: path.to_owned(),
            source,
        })
}
