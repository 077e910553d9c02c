//! HTTP client for a collector: one call at a time, bounded in time and size.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use reqwest::{Certificate, Client, ClientBuilder, Identity, Response, StatusCode, Url};
use rustls::{AlertDescription, CertificateError};

use super::settings::{CertificateFiles, SignalSettings};
use super::wire::{OtlpAnswer, PartialSuccess};
use crate::cause;
use crate::lookup::Lookup;

/// Longest answer that is read: it is empty, or says what was refused.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Longest text of a collector in the log.
const TOLD_BYTES_MAX: usize = 256;

/// Outcome of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SendOutcome {
    /// The collector has it, but for so many of its items, with the cause.
    Taken { refused: u64, fault: String },
    /// Another try may succeed, not before this time.
    Failed {
        fault: String,
        retry_after: Option<Duration>,
    },
    /// No other try will succeed.
    Refused { fault: String },
}

/// Client for one kind of data.
#[derive(Debug)]
pub(super) struct Collector {
    client: Client,
    signal: SignalSettings,
}

impl Collector {
    /// A client that trusts as these files say.
    ///
    /// # Errors
    /// A file cannot be read, or holds nothing that can be used.
    pub(super) fn new(signal: SignalSettings, files: &CertificateFiles) -> Result<Self, String> {
        let mut builder = Client::builder()
            .dns_resolver(Lookup::default())
            // Another host would hear the headers.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(signal.timeout)
            .pool_idle_timeout(Duration::from_secs(30))
            .http1_only();
        if is_loopback(&signal.url) {
            // The proxy's loopback is another one.
            builder = builder.no_proxy();
        }
        if signal.url.scheme() == "https" {
            builder = trusting(builder, files)?;
        } else {
            // Plain HTTP needs no authorities, and a node may have none.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|error| {
            format!(
                "TLS cannot be set up: {}; check OTEL_EXPORTER_OTLP_CERTIFICATE, \
                 OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY",
                cause::root(&error)
            )
        })?;
        Ok(Self { client, signal })
    }

    /// Host that is called, for the log.
    pub(super) fn host(&self) -> &str {
        self.signal.url.host_str().unwrap_or_default()
    }

    /// Time that a call may take.
    pub(super) fn timeout(&self) -> Duration {
        self.signal.timeout
    }

    /// Sends a request, and reads the answer as far as it is of use.
    pub(super) async fn send(&self, body: Bytes) -> SendOutcome {
        let timeout = self.signal.timeout;
        let answered = tokio::time::timeout(timeout, self.call(body)).await;
        answered.unwrap_or_else(|_| SendOutcome::Failed {
            fault: format!("no whole answer within {timeout:?}"),
            retry_after: None,
        })
    }

    async fn call(&self, body: Bytes) -> SendOutcome {
        let request = self
            .client
            .post(self.signal.url.clone())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(
                USER_AGENT,
                concat!("chas-node-agent/", env!("CARGO_PKG_VERSION")),
            )
            .headers(self.signal.headers.clone())
            .body(body);
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                return SendOutcome::Failed {
                    fault: unanswered(&error),
                    retry_after: None,
                };
            }
        };
        let status = response.status();
        if status.is_success() {
            return taken(&read(response).await);
        }
        let fault = format!("the collector answers {status}");
        // Those that the protocol names.
        if matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        ) {
            let after = response.headers().get(RETRY_AFTER);
            let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
            return SendOutcome::Failed {
                fault,
                retry_after: after.map(Duration::from_secs),
            };
        }
        SendOutcome::Refused { fault }
    }
}

/// Fault of a call that got no answer. Where TLS stands between, it says what to do.
fn unanswered(error: &reqwest::Error) -> String {
    let fault = cause::chain(error).find_map(|cause| cause.downcast_ref());
    match fault {
        Some(rustls::Error::InvalidCertificate(
            fault @ (CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }),
        )) => format!(
            "the collector's certificate is not valid now ({fault}); renew it, or set the clock"
        ),
        Some(rustls::Error::InvalidCertificate(fault)) => format!(
            "the collector's certificate is not trusted ({fault}); name the file of its authority in \
             OTEL_EXPORTER_OTLP_CERTIFICATE, and call it in the endpoint as its certificate does"
        ),
        Some(rustls::Error::AlertReceived(alert)) if is_about_certificate(*alert) => format!(
            "the collector refuses the TLS connection ({alert:?}); check the agent's own certificate and \
             its key, OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY"
        ),
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("the collector refuses the TLS connection ({alert:?})")
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            "the collector does not answer in TLS; its endpoint may begin with http://".to_owned()
        }
        _ => cause::root(error),
    }
}

/// Whether a collector that tells so does not like the agent's certificate, or lacks one.
const fn is_about_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::HandshakeFailure
    )
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

fn trusting(builder: ClientBuilder, files: &CertificateFiles) -> Result<ClientBuilder, String> {
    let read = |path: &std::path::Path| {
        // The agent's start waits for no pipe.
        let read = match std::fs::metadata(path) {
            Ok(found) if !found.is_file() => Err(std::io::Error::other("it is no file")),
            Ok(_) => std::fs::read(path),
            Err(error) => Err(error),
        };
        read.map_err(|error| format!("{} cannot be read: {error}", path.display()))
    };
    let mut builder = builder;
    if let Some(path) = &files.authorities {
        let found = Certificate::from_pem_bundle(&read(path)?);
        let found = found.ok().filter(|found| !found.is_empty());
        let wrong = || format!("{} holds no certificate", path.display());
        builder = builder.tls_certs_only(found.ok_or_else(wrong)?);
    }
    if let Some((certificate, key)) = &files.identity {
        let pem = [read(certificate)?, b"\n".to_vec(), read(key)?].concat();
        let wrong = |_| {
            let (certificate, key) = (certificate.display(), key.display());
            format!("{certificate} and {key} are no certificate with its key")
        };
        builder = builder.identity(Identity::from_pem(&pem).map_err(wrong)?);
    }
    Ok(builder)
}

/// Body of an answer; empty where it is longer than any that is of use, or breaks off.
async fn read(mut response: Response) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Vec::new();
        }
        bytes.extend_from_slice(&chunk);
    }
    bytes
}

/// Outcome of an answer with success. Whatever its body is: the collector has said that it has it.
fn taken(body: &[u8]) -> SendOutcome {
    let answer = OtlpAnswer::decode(body).unwrap_or_default();
    let PartialSuccess {
        rejected,
        mut message,
    } = answer.partial.unwrap_or_default();
    message.truncate(message.floor_char_boundary(TOLD_BYTES_MAX));
    SendOutcome::Taken {
        refused: u64::try_from(rejected).unwrap_or_default(),
        fault: message,
    }
}

#[cfg(test)]
mod tests;
