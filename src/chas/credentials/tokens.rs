//! Tokens for CHaS: the one that CHaS issued to the node, and the one that the operator gave.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{CredentialsError, read};
use crate::config::{ChasSection, Secret};
use crate::lock::lock;

/// Tokens for one server.
#[derive(Debug)]
pub struct Tokens {
    url: String,
    given: Option<Secret>,
    given_file: Option<PathBuf>,
    /// Digest of the certificates' files that are configured.
    trust_sha256: String,
    /// File that keeps the issued token over restarts. `None`: it is kept in RAM only.
    issued_file: Option<PathBuf>,
    /// Whether nobody on the way to the server reads what it issues, or an operator accepts that
    /// somebody might. Else it is not kept: one moment in the middle would open the node for ever.
    is_kept: bool,
    /// Whether the file of the issued token is there and could not be read so far.
    is_unread: AtomicBool,
    state: Mutex<TokenState>,
}

#[derive(Debug, Default)]
struct TokenState {
    issued: Option<IssuedToken>,
    /// Whether CHaS refused its own token; the operator's is used until that one is refused too.
    is_refused: bool,
}

/// A token that CHaS issued.
#[derive(Debug)]
struct IssuedToken {
    token: Secret,
    /// Digest of the operator's token at that time. Once the operator gives another, the issued one
    /// is void.
    given_sha256: String,
}

/// An issued token as its file keeps it.
#[derive(Serialize, Deserialize)]
struct StoredToken {
    /// URL of the server that issued it; no other server is sent it.
    url: String,
    given_sha256: String,
    /// Digest of the configured certificates' files at that time; with others the token is void.
    /// `None`: an older agent did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trust_sha256: Option<String>,
    token: String,
}

impl Tokens {
    /// The tokens for the server in `chas`; an issued one is kept in `issued_file`. Blocks.
    #[must_use]
    pub fn new(chas: &ChasSection, issued_file: Option<PathBuf>) -> Self {
        let url = chas.url.to_string();
        let tokens = Self {
            url,
            given: chas.token.clone(),
            given_file: chas.token_file.clone(),
            trust_sha256: trust_sha256(chas),
            is_kept: chas.is_private() || chas.plain_http,
            is_unread: AtomicBool::new(issued_file.is_some()),
            issued_file,
            state: Mutex::default(),
        };
        if tokens.is_unread() {
            tracing::warn!(path = ?tokens.issued_file, "token issued by CHaS not read, retrying");
        }
        tokens
    }

    pub(super) fn reads_files(&self) -> bool {
        self.given_file.is_some() || self.is_unread.load(Ordering::Relaxed)
    }

    /// Whether there is an issued token that cannot be read; tried again with each call. Meanwhile
    /// the operator's is used. Blocks while there is one.
    pub(super) fn is_unread(&self) -> bool {
        let Some(path) = self
            .issued_file
            .as_deref()
            .filter(|_| self.is_unread.load(Ordering::Relaxed))
        else {
            return false;
        };
        match read(path) {
            Err(CredentialsError::File { source, .. }) if source.kind() != ErrorKind::NotFound => {
                tracing::debug!(error = %source, "token issued by CHaS not read");
                true
            }
            read => {
                let mut state = lock(&self.state);
                // CHaS may have issued another one meanwhile.
                if self.is_unread.swap(false, Ordering::Relaxed) {
                    state.issued = read.ok().and_then(|bytes| self.issued(&bytes));
                }
                false
            }
        }
    }

    /// The operator's token. Blocks where it stands in a file.
    pub(super) fn given(&self) -> Result<Option<Secret>, CredentialsError> {
        let Some(path) = &self.given_file else {
            return Ok(self.given.clone());
        };
        // A file is empty for a moment while it is being written.
        parse_token(&read(path)?)
            .map(Some)
            .ok_or_else(|| CredentialsError::NoToken { path: path.clone() })
    }

    /// The token for the next call: the issued one, unless CHaS refused it or the operator has
    /// given another since. An error of the operator's file matters only without an issued token.
    pub(super) fn current(
        &self,
        given: Result<Option<Secret>, CredentialsError>,
    ) -> Result<Option<Secret>, CredentialsError> {
        let mut state = lock(&self.state);
        if let (Ok(given), Some(issued)) = (&given, &state.issued)
            && sha256(given.as_ref()) != issued.given_sha256
        {
            state.issued = None;
        }
        match &state.issued {
            Some(issued) if !state.is_refused => Ok(Some(issued.token.clone())),
            Some(_) | None => given,
        }
    }

    /// Records that CHaS refused `token` (`None`: a call without one). `true`: it was the issued
    /// one, and the operator's is used next. After a refusal of the operator's, the issued one is
    /// tried again, since either answer may be a mistake.
    pub fn refused(&self, token: Option<&Secret>) -> bool {
        let mut state = lock(&self.state);
        let issued = state.issued.as_ref().map(|issued| &issued.token);
        let is_refused = issued.is_some() && issued == token;
        state.is_refused = is_refused;
        is_refused
    }

    /// Takes over a token that CHaS issued, and stores it. Where it cannot be stored, it is used
    /// until the agent stops. Blocks.
    pub fn issue(&self, token: &str) {
        let Some(token) = parse_token(token.as_bytes()) else {
            return tracing::warn!("token issued by CHaS ignored: it does not fit into a header");
        };
        let given = self.given();
        let mut state = lock(&self.state);
        let given_sha256 = match (given, &state.issued) {
            (Err(_), Some(before)) => before.given_sha256.clone(),
            (given, _) => sha256(given.unwrap_or_default().as_ref()),
        };
        let stored = StoredToken {
            url: self.url.clone(),
            given_sha256: given_sha256.clone(),
            trust_sha256: Some(self.trust_sha256.clone()),
            token: token.expose().to_owned(),
        };
        state.is_refused = false;
        self.is_unread.store(false, Ordering::Relaxed);
        state.issued = Some(IssuedToken {
            token,
            given_sha256,
        });
        drop(state);
        let Some(path) = &self.issued_file else {
            return;
        };
        let kept = if self.is_kept {
            store(path, &stored)
        } else {
            forget(path)
        };
        if let Err(error) = kept {
            tracing::warn!(%error, path = %path.display(), "cannot store the token issued by CHaS");
        }
    }

    /// The token in a file's bytes, if this server issued it, under the trust of now.
    fn issued(&self, bytes: &[u8]) -> Option<IssuedToken> {
        let read = serde_json::from_slice(bytes);
        let void = |why: &str| {
            tracing::warn!(
                why,
                "token issued by CHaS is void; the operator's is used until CHaS issues another"
            );
        };
        let stored: StoredToken = read.inspect_err(|_| void("its file is damaged")).ok()?;
        let is_trusted = |trust: &String| *trust == self.trust_sha256;
        if stored.url != self.url {
            void("api.chas_url is another");
            return None;
        }
        if !stored.trust_sha256.as_ref().is_none_or(is_trusted) {
            void("chas.ca_file, chas.cert_file or chas.key_file is another path");
            return None;
        }
        Some(IssuedToken {
            token: parse_token(stored.token.as_bytes())?,
            given_sha256: stored.given_sha256,
        })
    }
}

/// Digest of which files say whom the agent trusts and who it is, in base64. Their content may
/// change, as a certificate does that is renewed.
fn trust_sha256(chas: &ChasSection) -> String {
    let identity = chas
        .identity
        .iter()
        .flat_map(|(certificate, key)| [certificate, key]);
    let files = chas.ca_file.iter().chain(identity);
    let names: Vec<_> = files
        .map(|file| file.as_os_str().as_encoded_bytes())
        .collect();
    BASE64.encode(Sha256::digest(names.join(&b'\n')))
}

fn parse_token(bytes: &[u8]) -> Option<Secret> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let fits = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    fits.then(|| Secret::new(text))
}

/// Digest of the operator's token, in base64; empty without one.
fn sha256(given: Option<&Secret>) -> String {
    given.map_or_else(String::new, |given| {
        BASE64.encode(Sha256::digest(given.expose()))
    })
}

fn forget(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn store(path: &Path, stored: &StoredToken) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&serde_json::to_vec(stored)?)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}
