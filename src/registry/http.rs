//! A single HTTP request to a registry: hosts that may be reached in the clear, redirects followed,
//! and secrets kept from other hosts.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Method, Response, Url};
use state::reason::Reason;

use super::config::{InvalidRegistryConfig, RegistryConfig};
use super::fault::RegistryError;
use crate::lookup::Lookup;

/// Time for a name lookup, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Redirects followed for one request: real registries need one, to the store of their blobs; two
/// with a mirror.
const REDIRECTS_MAX: usize = 5;

/// HTTP client for registries, with the hosts that may be reached without TLS.
#[derive(Debug)]
pub(crate) struct Http {
    client: Client,
    insecure: Vec<String>,
    stall_timeout: Duration,
}

impl Http {
    /// Client for the configured hosts and certificates.
    ///
    /// # Errors
    /// When the CA file cannot be read, or holds no certificates.
    pub(crate) fn new(config: &RegistryConfig) -> Result<Self, InvalidRegistryConfig> {
        // Fails when there is one already, which is then the one that is used.
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let extra = config
            .ca_file
            .as_deref()
            .map_or_else(|| Ok(Vec::new()), certificates)?;
        let base = || {
            Client::builder()
                .user_agent(concat!("chas-node-agent/", env!("CARGO_PKG_VERSION")))
                .redirect(Policy::none())
                .dns_resolver(Lookup::default())
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(config.stall_timeout)
                .pool_idle_timeout(Duration::from_secs(30))
        };
        let trusting = |builder: ClientBuilder| builder.tls_certs_merge(extra.clone()).build();
        let client = trusting(base()).or_else(|error| {
            // A node without the system's certificates can still use the registries it has listed.
            tracing::warn!(%error, "system CA certificates unusable; only registry.ca_file and registry.insecure are used");
            base().tls_certs_only(extra.clone()).build().map_err(InvalidRegistryConfig::Tls)
        })?;
        let insecure = config
            .insecure
            .iter()
            .map(|host| host.to_ascii_lowercase())
            .collect();
        Ok(Self {
            client,
            insecure,
            stall_timeout: config.stall_timeout,
        })
    }

    /// URL of `path` at a registry's host: plain HTTP if it is listed, else TLS.
    ///
    /// # Errors
    /// [`RegistryError::Lasting`] when host and path make no URL.
    pub(crate) fn url(&self, authority: &str, path: &str) -> Result<Url, RegistryError> {
        let scheme = if self.insecure.iter().any(|host| host == authority) {
            "http"
        } else {
            "https"
        };
        parse(&format!("{scheme}://{authority}{path}"))
    }

    /// Response to a request, redirects followed. `authorization` goes to `url`'s own origin only.
    ///
    /// # Errors
    /// When no response comes, or a redirect leads where it must not. Any status is a response.
    pub(crate) async fn send(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            self.check(&at)?;
            let mut request = self
                .client
                .request(method.clone(), at.clone())
                .headers(headers.clone());
            if let Some(secret) = authorization.filter(|_| at.origin() == url.origin()) {
                request = request.header(AUTHORIZATION, secret);
            }
            let response = request
                .send()
                .await
                .map_err(|error| self.broken(&error, &at))?;
            match location(&response) {
                Some(next) => at = next?,
                None => return Ok(response),
            }
        }
        let message = format!(
            "registry {} redirects more than {REDIRECTS_MAX} times",
            authority(url)
        );
        Err(RegistryError::lasting(
            Reason::RegistryRedirectRefused,
            message,
        ))
    }

    /// Failure that an error on the way to or from `url` means.
    pub(crate) fn broken(&self, error: &reqwest::Error, url: &Url) -> RegistryError {
        RegistryError::transport(error, &authority(url), self.stall_timeout)
    }

    /// Body that must be small. `what` names it in the error.
    ///
    /// # Errors
    /// [`Reason::ImageInvalid`] when it has more than `bytes_max` bytes; [`RegistryError::Passing`]
    /// when the connection broke.
    pub(crate) async fn read(
        &self,
        mut response: Response,
        bytes_max: usize,
        what: &str,
    ) -> Result<Bytes, RegistryError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.broken(&error, response.url()))?
        {
            if bytes.len() + chunk.len() > bytes_max {
                let message = format!(
                    "{} sent a {what} larger than {bytes_max} bytes",
                    authority(response.url())
                );
                return Err(RegistryError::lasting(Reason::ImageInvalid, message));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.into())
    }

    fn check(&self, url: &Url) -> Result<(), RegistryError> {
        let authority = authority(url);
        let listed = || {
            self.insecure
                .iter()
                .any(|host| *host == authority || host.strip_suffix(":80") == Some(&authority))
        };
        match url.scheme() {
            "https" => Ok(()),
            "http" if listed() => Ok(()),
            _ => Err(RegistryError::lasting(
                Reason::RegistryRedirectRefused,
                format!(
                    "the registry leads to {}://{authority}, which is not TLS; list {authority} under registry.insecure if you trust it",
                    url.scheme()
                ),
            )),
        }
    }
}

/// `host[:port]` of a URL, the port only where it is not the scheme's own.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// URL that a registry, or a reference, gave.
///
/// # Errors
/// [`RegistryError::Lasting`] when it is none.
pub(crate) fn parse(text: &str) -> Result<Url, RegistryError> {
    let shown: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    Url::parse(text).map_err(|error| {
        RegistryError::lasting(
            Reason::RegistryAnswerInvalid,
            format!("{shown:?} is no URL: {error}"),
        )
    })
}

/// Target of a redirect; `None`: the response is none.
fn location(response: &Response) -> Option<Result<Url, RegistryError>> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let target = response.headers().get(LOCATION)?.to_str().ok()?;
    let wrong = |_| {
        RegistryError::lasting(
            Reason::RegistryRedirectRefused,
            "the registry redirects to something that is no URL",
        )
    };
    Some(response.url().join(target).map_err(wrong))
}

fn certificates(file: &Path) -> Result<Vec<Certificate>, InvalidRegistryConfig> {
    let text = std::fs::read(file).map_err(|source| InvalidRegistryConfig::CaFile {
        file: file.to_owned(),
        fault: source.to_string(),
    })?;
    match Certificate::from_pem_bundle(&text) {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(InvalidRegistryConfig::CaFile {
            file: file.to_owned(),
            fault: "it holds no PEM certificate".to_owned(),
        }),
        Err(error) => Err(InvalidRegistryConfig::CaFile {
            file: file.to_owned(),
            fault: error.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(insecure: &[&str]) -> Http {
        let insecure = insecure.iter().map(|&host| host.to_owned()).collect();
        Http::new(&RegistryConfig {
            insecure,
            ..RegistryConfig::default()
        })
        .unwrap()
    }

    #[test]
    fn only_listed_hosts_are_spoken_to_in_the_clear() {
        let http = http(&["127.0.0.1:5000", "Plain.example", "eighty.example:80"]);
        for (authority, url) in [
            ("127.0.0.1:5000", "http://127.0.0.1:5000/v2/"),
            ("127.0.0.1:5001", "https://127.0.0.1:5001/v2/"),
            ("plain.example", "http://plain.example/v2/"),
            ("localhost", "https://localhost/v2/"),
        ] {
            assert_eq!(http.url(authority, "/v2/").unwrap().as_str(), url);
        }
        for (url, allowed) in [
            ("https://anywhere.example/x", true),
            ("http://127.0.0.1:5000/x", true),
            ("http://eighty.example/x", true),
            ("http://127.0.0.1/x", false),
            ("http://plain.example:8080/x", false),
            ("ftp://plain.example/x", false),
        ] {
            assert_eq!(
                http.check(&Url::parse(url).unwrap()).is_ok(),
                allowed,
                "{url}"
            );
        }
    }
}
