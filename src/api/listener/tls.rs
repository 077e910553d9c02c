//! TLS of the network's door: what the agent shows, whom it believes, and the names that a client's
//! certificate bears. The files may be replaced while it runs.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use state::access::certificate_name;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use webpki::{EndEntityCert, KeyUsage};

use crate::api::caller::ShownCertificate;
use crate::config::ApiTls;
use crate::config::owned::{self, Others};

/// Bytes of a file with certificates or a key.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Names of a client's certificate that are looked at.
const NAMES_MAX: usize = 64;
/// Protocols that are spoken within.
const PROTOCOL: &[u8] = b"http/1.1";

/// Certificate, key and authorities, as they were read.
#[derive(Clone, Debug)]
pub(crate) struct TlsMaterial {
    config: Arc<ServerConfig>,
    /// First and last moment at which the agent's certificate counts.
    valid: (SystemTime, SystemTime),
    /// Last moment at which every certificate behind it does. `None`: there is none behind it.
    chain_last: Option<SystemTime>,
    /// Authorities whose certificates of clients are believed.
    authorities: Vec<CertificateDer<'static>>,
    /// End of that belief.
    distrusted: CancellationToken,
}

/// TLS in force; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsInForce(Arc<RwLock<Option<TlsMaterial>>>);

impl TlsMaterial {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// One of them cannot be used, in a sentence.
    pub(crate) fn read(files: &ApiTls) -> Result<Self, String> {
        let chain = certificates(&files.certificate, &bytes(&files.certificate)?)?;
        let valid = validity(&chain[0]).map_err(|fault| told(&files.certificate, &fault))?;
        let chain_last = chain[1..].iter().filter_map(last_of_issuer).min();
        let key = PrivateKeyDer::from_pem_slice(&bytes(&files.key)?);
        let key = key.map_err(|_| told(&files.key, &"it holds no private key in PEM"))?;
        let provider = Arc::new(ring::default_provider());
        let building = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let mut authorities = Vec::new();
        let building = match &files.client_authorities {
            None => building.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                // Whoever may write it makes certificates of any client.
                let text = owned::read(path, Others::MayRead)?;
                let text = text.ok_or_else(|| told(path, &"there is no such file"))?;
                authorities = certificates(path, text.as_bytes())?;
                for authority in authorities.iter().cloned() {
                    roots.add(authority).map_err(|error| told(path, &error))?;
                }
                let roots = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                // Who shows none has a token, or is a probe.
                let verifier = roots.allow_unauthenticated().build();
                building.with_client_cert_verifier(verifier.map_err(|error| told(path, &error))?)
            }
        };
        let built = building.with_single_cert(chain, key).map_err(|error| {
            let both = format!(
                "{} and {}",
                files.certificate.display(),
                files.key.display()
            );
            format!("{both} are no pair: {error}")
        });
        let mut config = built?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        // A session that is taken up again would bring a certificate that nobody has looked at.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            config: Arc::new(config),
            valid,
            chain_last,
            authorities,
            distrusted: CancellationToken::new(),
        })
    }

    /// Time for which the agent's certificate still counts, and that for which it does in all.
    /// `None`: it does not.
    pub(crate) fn left(&self, now: SystemTime) -> Option<(Duration, Duration)> {
        let (first, last) = self.valid;
        let left = last.duration_since(now).ok()?;
        now.duration_since(first).ok()?;
        Some((left, last.duration_since(first).unwrap_or_default()))
    }

    /// The last moment at which the agent's certificate counts.
    pub(crate) const fn last(&self) -> SystemTime {
        self.valid.1
    }

    /// The last moment at which it counts with all that are sent behind it. A client may know
    /// another way to an authority, so it may count longer.
    pub(crate) fn chain_last(&self) -> Option<SystemTime> {
        self.chain_last
    }
}

impl TlsInForce {
    /// Takes other material from now on. Where its authorities are others than before, what clients
    /// have shown until then proves nothing any more.
    pub(crate) fn replace(&self, mut material: TlsMaterial) {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = now.take() {
            if before.authorities == material.authorities {
                material.distrusted = before.distrusted;
            } else {
                before.distrusted.cancel();
            }
        }
        *now = Some(material);
    }

    fn now(&self) -> Option<TlsMaterial> {
        let now = self.0.read().unwrap_or_else(PoisonError::into_inner);
        now.clone()
    }

    /// Speaks TLS with a client.
    ///
    /// # Errors
    /// It does not, or there is nothing to show to it yet.
    pub(super) async fn welcome<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<(TlsStream<S>, ShownCertificate)> {
        let material = self.now().ok_or(io::ErrorKind::NotConnected)?;
        let stream = TlsAcceptor::from(material.config).accept(stream).await?;
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates().and_then(<[_]>::first);
        let shown = ShownCertificate {
            names: shown.map(names).unwrap_or_default(),
            last: shown.and_then(|shown| Some(validity(shown).ok()?.1)),
            distrusted: material.distrusted,
        };
        Ok((stream, shown))
    }
}

/// The names (DNS, URI) of a certificate, as they are compared.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else {
        return Vec::new();
    };
    // Nothing keeps a URI from looking like a DNS name, and an authority may be bound to some names
    // of one kind alone.
    let uris = certificate
        .valid_uri_names()
        .filter(|uri| uri.contains(':'));
    let names = certificate.valid_dns_names().chain(uris).take(NAMES_MAX);
    names.map(certificate_name).collect()
}

/// The first and last moment at which a certificate counts. What reads certificates tells them only
/// in refusing one: so it is asked about moments at which none counts.
fn validity(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), String> {
    let parsed = EndEntityCert::try_from(certificate).map_err(|error| error.to_string())?;
    let refusal = |at: u64| {
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
        let usage = KeyUsage::server_auth();
        let verified = parsed.verify_for_usage(&[], &[], &[], at, usage, None, None);
        verified.err()
    };
    let time = |at: UnixTime| SystemTime::UNIX_EPOCH + Duration::from_secs(at.as_secs());
    let first = match refusal(0) {
        Some(webpki::Error::CertNotValidYet { not_before, .. }) => time(not_before),
        _ => SystemTime::UNIX_EPOCH,
    };
    match refusal(u64::MAX) {
        Some(webpki::Error::CertExpired { not_after, .. }) => Ok((first, time(not_after))),
        other => Err(format!("its time cannot be read: {other:?}")),
    }
}

/// The first and last moment at which the first certificate of a file (PEM) counts. Blocks.
///
/// # Errors
/// It cannot be read, in a sentence.
pub(crate) fn file_validity(path: &Path) -> Result<(SystemTime, SystemTime), String> {
    let chain = certificates(path, &bytes(path)?)?;
    validity(&chain[0]).map_err(|fault| told(path, &fault))
}

/// The first and last moment at which a certificate (DER) counts.
///
/// # Errors
/// It cannot be read.
pub(crate) fn validity_of(certificate: &[u8]) -> Result<(SystemTime, SystemTime), String> {
    validity(&CertificateDer::from(certificate.to_vec()))
}

/// The last moment at which a certificate behind the agent's own counts. `None`: it is an
/// authority's own, of which clients have theirs, or its time cannot be read.
fn last_of_issuer(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    if parsed.issuer() == parsed.subject() {
        return None;
    }
    Some(validity(certificate).ok()?.1)
}

/// The certificates in what a file holds; at least one.
fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let read = read.map_err(|error| told(path, &error))?;
    if read.is_empty() {
        return Err(told(path, &"it holds no certificate in PEM"));
    }
    Ok(read)
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let fault = |error: io::Error| told(path, &error);
    let mut bytes = Vec::new();
    // A pipe in its place must not hold the agent up.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let opened = File::options().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(fault)?;
    if !file.metadata().map_err(fault)?.is_file() {
        return Err(told(path, &"it is no regular file"));
    }
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(fault)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(told(path, &"it is larger than 1 MiB"));
    }
    Ok(bytes)
}

fn told(path: &Path, fault: &dyn std::fmt::Display) -> String {
    format!("{}: {fault}", path.display())
}

#[cfg(test)]
mod tests;
