//! What the agent shows to CHaS, and what it trusts it by. Files are read anew for every call, so that they can be changed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cause;
use crate::config::Secret;

mod tokens;
mod transport;

pub use tokens::Tokens;
pub use transport::Transport;

/// A token or a bundle of certificates is smaller.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file is missing, too large, or may not be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is in the file is no token.
    #[error("{} holds no token: it must be one line of visible ASCII characters", path.display())]
    NoToken {
        /// Which.
        path: PathBuf,
    },
    /// What is in the files, or among the system's authorities, cannot be used.
    #[error("chas.ca_file, chas.cert_file and chas.key_file, or without the first this system's authorities, cannot be used: {}", cause::root(.0))]
    Tls(reqwest::Error),
}

/// Both, as they are shared by the calls of one link.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The client.
    pub transport: Arc<Transport>,
    /// The token.
    pub tokens: Arc<Tokens>,
}

impl Credentials {
    /// Whether files have to be read for it, which blocks.
    #[must_use]
    pub fn reads_files(&self) -> bool {
        self.transport.reads_files() || self.tokens.reads_files()
    }

    /// What is to be asked with now, and a number that is another one whenever the operator's part of it is. Blocks.
    pub fn current(
        &self,
    ) -> (
        u64,
        Result<(reqwest::Client, Option<Secret>), CredentialsError>,
    ) {
        let (transport, client) = self.transport.client();
        let (token_version, token) = self.tokens.current();
        // Each of them only grows, so that two sums are equal only if both parts are.
        (
            transport + token_version,
            client.and_then(|client| Ok((client, token?))),
        )
    }
}

/// What was read last, and how often that was something else than before.
#[derive(Debug)]
struct Latest<T> {
    /// `None`: it could not be read.
    value: Option<T>,
    version: u64,
}

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self {
            value: None,
            version: 0,
        }
    }
}

impl<T: PartialEq> Latest<T> {
    fn is(&mut self, value: Option<T>) -> u64 {
        if self.value != value {
            (self.value, self.version) = (value, self.version + 1);
        }
        self.version
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(path: &Path) -> Result<Vec<u8>, CredentialsError> {
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
