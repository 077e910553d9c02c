//! The HTTP client: whom it trusts, and how it proves who it is.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use super::{CredentialsError, Latest, lock, read};
use crate::config::Chas;
use crate::lookup::Lookup;

/// Name servers and hosts that do not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that vanished is noticed while a poll is held. Reports come as often, so that it costs their connection nothing.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The HTTP client: made anew when the certificates' files change. Many links may share one.
#[derive(Debug, Default)]
pub struct Transport {
    is_tls: bool,
    ca_file: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    made: Mutex<Made>,
}

/// What was made of the files last.
#[derive(Debug, Default)]
struct Made {
    of: Latest<Pem>,
    /// `None`: nothing can be made of them.
    client: Option<reqwest::Client>,
}

/// What stands in the files: of the authorities, and of the agent itself with its key.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pem {
    authorities: Vec<u8>,
    identity: Vec<u8>,
}

impl Transport {
    /// A client for this server.
    #[must_use]
    pub fn new(chas: &Chas) -> Self {
        let is_tls = chas.url.scheme() == "https";
        Self {
            is_tls,
            ca_file: chas.ca_file.clone(),
            identity: chas.identity.clone(),
            made: Mutex::default(),
        }
    }

    pub(super) const fn reads_files(&self) -> bool {
        self.ca_file.is_some() || self.identity.is_some()
    }

    /// The client with what is in the files now, and their version. Blocks.
    pub(super) fn client(&self) -> (u64, Result<reqwest::Client, CredentialsError>) {
        let pem = match self.read() {
            Ok(pem) => pem,
            Err(error) => return (lock(&self.made).of.is(None), Err(error)),
        };
        let mut made = lock(&self.made);
        let is_same = made.of.value.as_ref() == Some(&pem);
        let client = match made.client.take().filter(|_| is_same) {
            Some(client) => Ok(client),
            None => self.build(&pem).map_err(CredentialsError::Tls),
        };
        made.client = client.as_ref().ok().cloned();
        (made.of.is(Some(pem)), client)
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
            .dns_resolver(Lookup::default())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE)
            // A redirect is a captive portal's answer, or would take the token elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            // A held poll and a report are two connections: one that hangs does not hold the other.
            .http1_only();
        if self.ca_file.is_some() {
            builder =
                builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem.authorities)?);
        } else if !self.is_tls {
            // The system's are not needed, and a node may have none.
            builder = builder.tls_certs_only([]);
        }
        if self.identity.is_some() {
            builder = builder.identity(reqwest::Identity::from_pem(&pem.identity)?);
        }
        builder.build()
    }
}
