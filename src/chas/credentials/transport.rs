//! The HTTP client for CHaS, with the authorities it trusts and the node's own certificate.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use super::{CredentialsError, read};
use crate::config::ChasSection;
use crate::lock::lock;
use crate::lookup::Lookup;

/// Timeout of the connection to a name server or host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of TCP keepalives: a peer that vanished is noticed during a waited poll. Reports come
/// as often, so that their connection sends none.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Factory of the HTTP client, built again when the certificates' files change. Many links may
/// share one.
#[derive(Debug, Default)]
pub struct Transport {
    is_tls: bool,
    ca_file: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    /// Client that was built last, and the files' content it was built from.
    built: Mutex<Option<(Pem, reqwest::Client)>>,
}

/// Content of the certificates' files: the authorities, and the agent's own certificate with its
/// key.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Pem {
    authorities: Vec<u8>,
    identity: Vec<u8>,
}

impl Transport {
    /// A transport for the server in `chas`.
    #[must_use]
    pub fn new(chas: &ChasSection) -> Self {
        Self {
            is_tls: chas.url.scheme() == "https",
            ca_file: chas.ca_file.clone(),
            identity: chas.identity.clone(),
            built: Mutex::default(),
        }
    }

    pub(super) const fn reads_files(&self) -> bool {
        self.ca_file.is_some() || self.identity.is_some()
    }

    /// The files' content now. Blocks.
    pub(super) fn read(&self) -> Result<Pem, CredentialsError> {
        let mut pem = Pem::default();
        if let Some(path) = &self.ca_file {
            pem.authorities = read(path)?;
        }
        if let Some((certificate, key)) = &self.identity {
            pem.identity = [read(certificate)?, b"\n".to_vec(), read(key)?].concat();
        }
        Ok(pem)
    }

    /// The client for this content of the files. Blocks where it is built.
    pub(super) fn client(&self, pem: Pem) -> Result<reqwest::Client, CredentialsError> {
        let mut built = lock(&self.built);
        if let Some((of, client)) = &*built
            && *of == pem
        {
            return Ok(client.clone());
        }
        let client = self.build(&pem).map_err(CredentialsError::Tls)?;
        *built = Some((pem, client.clone()));
        Ok(client)
    }

    /// A client of its own, whose answers tell the certificate that the server showed. Blocks.
    ///
    /// # Errors
    /// A file cannot be read, or holds nothing that can be used.
    pub(crate) fn looking(&self) -> Result<reqwest::Client, CredentialsError> {
        let pem = self.read()?;
        let builder = reqwest::Client::builder().tls_info(true);
        let built = self.configured(builder, &pem);
        built
            .and_then(reqwest::ClientBuilder::build)
            .map_err(CredentialsError::Tls)
    }

    fn build(&self, pem: &Pem) -> reqwest::Result<reqwest::Client> {
        self.configured(reqwest::Client::builder(), pem)?.build()
    }

    fn configured(
        &self,
        builder: reqwest::ClientBuilder,
        pem: &Pem,
    ) -> reqwest::Result<reqwest::ClientBuilder> {
        let mut builder = builder
            .dns_resolver(Lookup::default())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE)
            // A redirect is a captive portal's answer, or would send the token elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            // With HTTP/1, a waited poll and a report use two connections: one that hangs does not
            // hold up the other.
            .http1_only();
        if self.ca_file.is_some() {
            builder =
                builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem.authorities)?);
        } else if !self.is_tls {
            // Plain HTTP needs no authorities, and a node may have none.
            builder = builder.tls_certs_only([]);
        }
        if self.identity.is_some() {
            builder = builder.identity(reqwest::Identity::from_pem(&pem.identity)?);
        }
        Ok(builder)
    }
}
