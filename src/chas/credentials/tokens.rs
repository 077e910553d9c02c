//! The token that is shown: what CHaS gave to the node, or what the operator gave.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{CredentialsError, Latest, lock, read};
use crate::config::{Chas, Secret};

/// The tokens for one server.
#[derive(Debug)]
pub struct Tokens {
    url: String,
    given: Option<Secret>,
    given_file: Option<PathBuf>,
    /// Where CHaS's own is kept. `None`: nowhere.
    issued_file: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    issued: Option<Issued>,
    /// The server refused what it had issued; until it is known to be right again, the operator's is shown.
    is_refused: bool,
    given: Latest<Option<Secret>>,
}

/// What CHaS issued, to whom.
#[derive(Debug)]
struct Issued {
    token: Secret,
    /// Of what the operator gave at that time. Once that is another, this one is worth nothing.
    given: String,
}

/// As it is kept in a file.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// The server that issued it: no other is shown it.
    url: String,
    given_sha256: String,
    token: String,
}

impl Tokens {
    /// The tokens for this server; what it issues is kept in `issued_file`. Blocks.
    #[must_use]
    pub fn new(chas: &Chas, issued_file: Option<PathBuf>) -> Self {
        let url = chas.url.to_string();
        let kept = issued_file.as_ref().and_then(|path| read(path).ok());
        let kept = kept
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .filter(|kept: &Kept| kept.url == url);
        let issued = kept.and_then(|kept| {
            Some(Issued {
                token: secret(kept.token.as_bytes())?,
                given: kept.given_sha256,
            })
        });
        let state = Mutex::new(State {
            issued,
            ..State::default()
        });
        Self {
            url,
            given: chas.token.clone(),
            given_file: chas.token_file.clone(),
            issued_file,
            state,
        }
    }

    pub(super) const fn reads_files(&self) -> bool {
        self.given_file.is_some()
    }

    fn given(&self) -> Result<Option<Secret>, CredentialsError> {
        let Some(path) = &self.given_file else {
            return Ok(self.given.clone());
        };
        // One that is just being written is empty for a moment.
        secret(&read(path)?)
            .map(Some)
            .ok_or_else(|| CredentialsError::NoToken { path: path.clone() })
    }

    /// What is to be shown now: what CHaS issued, unless it refused that, or the operator gave another since. And the version
    /// of what the operator gave, which is what may help where both are refused. Blocks. The operator's file matters only where
    /// there is no other.
    pub(super) fn current(&self) -> (u64, Result<Option<Secret>, CredentialsError>) {
        let given = self.given();
        let mut state = lock(&self.state);
        let version = state.given.is(given.as_ref().ok().cloned());
        if let (Ok(given), Some(issued)) = (&given, &state.issued)
            && fingerprint(given.as_ref()) != issued.given
        {
            state.issued = None;
        }
        let token = match &state.issued {
            Some(issued) if !state.is_refused => Ok(Some(issued.token.clone())),
            Some(_) | None => given,
        };
        (version, token)
    }

    /// CHaS refused this token (`None`: that there was none). `true`: it was the one that it had issued itself, and the
    /// operator's is shown next. If that one was refused, the other is tried again: one of the answers may have been a mistake.
    pub fn refused(&self, shown: Option<&Secret>) -> bool {
        let mut state = lock(&self.state);
        state.is_refused = state
            .issued
            .as_ref()
            .is_some_and(|issued| Some(&issued.token) == shown);
        state.is_refused
    }

    /// CHaS issued a token. Kept over restarts; if that cannot be, until the next one. Blocks.
    pub fn issue(&self, token: &str) {
        let Some(token) = secret(token.as_bytes()) else {
            return tracing::warn!("CHaS issued a token that no HTTP header takes; it is not used");
        };
        let given = self.given();
        let mut state = lock(&self.state);
        let given = match (given, &state.issued) {
            (Err(_), Some(before)) => before.given.clone(),
            (given, _) => fingerprint(given.unwrap_or_default().as_ref()),
        };
        let kept = Kept {
            url: self.url.clone(),
            given_sha256: given.clone(),
            token: token.expose().to_owned(),
        };
        (state.is_refused, state.issued) = (false, Some(Issued { token, given }));
        drop(state);
        if let Some(path) = &self.issued_file
            && let Err(error) = keep(path, &kept)
        {
            tracing::warn!(%error, path = %path.display(), "the token that CHaS issued cannot be kept");
        }
    }
}

fn secret(bytes: &[u8]) -> Option<Secret> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let fits = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    fits.then(|| Secret::new(text))
}

/// Tells whether it is the same; empty for none.
fn fingerprint(given: Option<&Secret>) -> String {
    given.map_or_else(String::new, |given| {
        BASE64.encode(Sha256::digest(given.expose()))
    })
}

fn keep(path: &Path, kept: &Kept) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}
