//! What the agent shows to CHaS, and what it trusts it by. Files are read anew for every call, so that they can be changed.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::config::{Chas, Secret};

/// Name servers and hosts that do not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that vanished is noticed while a poll is held.
const KEEPALIVE: Duration = Duration::from_secs(20);
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
    /// What is in the files cannot be used.
    #[error("chas.ca_file, chas.cert_file or chas.key_file cannot be used: {0}")]
    Tls(reqwest::Error),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(path: &Path) -> Result<Vec<u8>, CredentialsError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|source| CredentialsError::File { path: path.to_owned(), source })
}

/// The HTTP client: made anew when the certificates' files change. Many links may share one.
#[derive(Debug, Default)]
pub struct Transport {
    ca_file: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    /// `None` for the client: nothing can be made of the files.
    made: Mutex<Option<(Pem, Option<reqwest::Client>)>>,
}

/// What stands in the files: of the authorities, and of the agent itself with its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Pem {
    authorities: Vec<u8>,
    identity: Vec<u8>,
}

impl Transport {
    /// A client for this server.
    #[must_use]
    pub fn new(chas: &Chas) -> Self {
        Self { ca_file: chas.ca_file.clone(), identity: chas.identity.clone(), made: Mutex::default() }
    }

    /// The client, with what is in the files now. Blocks.
    ///
    /// # Errors
    /// What cannot be read or used.
    pub fn client(&self) -> Result<reqwest::Client, CredentialsError> {
        let pem = self.read()?;
        let mut made = lock(&self.made);
        if let Some((before, Some(client))) = &*made
            && *before == pem
        {
            return Ok(client.clone());
        }
        let built = self.build(&pem);
        *made = Some((pem, built.as_ref().ok().cloned()));
        built.map_err(CredentialsError::Tls)
    }

    /// Whether something else is in the files than at the last call. Blocks.
    #[must_use]
    pub fn has_others(&self) -> bool {
        let Ok(pem) = self.read() else { return false };
        lock(&self.made).as_ref().is_none_or(|(before, _)| *before != pem)
    }

    fn read(&self) -> Result<Pem, CredentialsError> {
        let mut pem = Pem::default();
        if let Some(path) = &self.ca_file {
            pem.authorities = read(path)?;
        }
        if let Some((certificate, key)) = &self.identity {
            pem.identity = [read(certificate)?, b"\n".to_vec(), read(key)?].concat();
        }
        Ok(pem)
    }

    fn build(&self, pem: &Pem) -> reqwest::Result<reqwest::Client> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("chas-node-agent/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE)
            // A redirect is a captive portal's answer, or would take the token elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            // A held poll and a report are two connections: one that hangs does not hold the other.
            .http1_only();
        if self.ca_file.is_some() {
            builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem.authorities)?);
        }
        if self.identity.is_some() {
            builder = builder.identity(reqwest::Identity::from_pem(&pem.identity)?);
        }
        builder.build()
    }
}

/// The token that is shown: what CHaS gave to the node, or what the operator gave.
#[derive(Debug)]
pub struct Tokens {
    given: Option<Secret>,
    given_file: Option<PathBuf>,
    /// Where CHaS's own is kept. `None`: nowhere.
    issued_file: Option<PathBuf>,
    issued: Mutex<Issued>,
}

#[derive(Debug, Default)]
struct Issued {
    /// `None`: there is none, or it was refused.
    token: Option<Secret>,
    /// What was given when it was issued; `None`: before the agent started.
    under: Option<Option<Secret>>,
    /// What was shown last.
    shown: Option<Secret>,
}

impl Tokens {
    /// The tokens for this server; what it issues is kept in `issued_file`. Blocks.
    #[must_use]
    pub fn new(chas: &Chas, issued_file: Option<PathBuf>) -> Self {
        let kept = issued_file.as_ref().and_then(|path| read(path).ok());
        let token = kept.and_then(|bytes| secret(&bytes));
        let issued = Mutex::new(Issued { token, ..Issued::default() });
        Self { given: chas.token.clone(), given_file: chas.token_file.clone(), issued_file, issued }
    }

    fn given(&self) -> Result<Option<Secret>, CredentialsError> {
        match &self.given_file {
            Some(path) => read(path).map(|bytes| secret(&bytes)),
            None => Ok(self.given.clone()),
        }
    }

    /// What is to be shown now: what CHaS issued, unless it refused that, or the operator gave another since. Blocks.
    ///
    /// # Errors
    /// The operator's file cannot be read, and there is no other.
    pub fn current(&self) -> Result<Option<Secret>, CredentialsError> {
        let given = self.given();
        let mut issued = lock(&self.issued);
        if let (Ok(given), Some(under)) = (&given, &issued.under)
            && given != under
        {
            issued.token = None;
        }
        let token = match issued.token.clone() {
            Some(token) => Some(token),
            None => given?,
        };
        issued.shown.clone_from(&token);
        Ok(token)
    }

    /// Whether another token would be shown than the last time. Blocks.
    #[must_use]
    pub fn has_another(&self) -> bool {
        let shown = lock(&self.issued).shown.clone();
        self.current().is_ok_and(|token| token != shown)
    }

    /// CHaS refused the token. `true`: it was the one that it had issued itself, and there is the operator's to try.
    #[must_use]
    pub fn refused(&self) -> bool {
        let had = lock(&self.issued).token.take().is_some();
        had && self.given().is_ok_and(|given| given.is_some())
    }

    /// CHaS issued a token. Kept over restarts; if that cannot be, until the next one. Blocks.
    pub fn issue(&self, token: &str) {
        let Some(token) = secret(token.as_bytes()) else {
            return tracing::warn!("CHaS issued a token that no HTTP header takes; it is not used");
        };
        let given = self.given().ok();
        let mut issued = lock(&self.issued);
        issued.under = given;
        if issued.token.replace(token.clone()).as_ref() == Some(&token) {
            return;
        }
        if let Some(path) = &self.issued_file
            && let Err(error) = keep(path, token.expose())
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

fn keep(path: &Path, token: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(token.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

/// Both, as they are shared by the calls of one link.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The client.
    pub transport: Arc<Transport>,
    /// The token.
    pub tokens: Arc<Tokens>,
}
