//! A single HTTP request to a registry: hosts that may be reached in the clear, redirects followed,
//! and secrets kept from other hosts.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Client, Method, Response, Url};
use state::reason::Reason;
use tokio::time::timeout;

use super::authority::authority;
use super::clients::Clients;
use super::config::{InvalidRegistryConfig, RegistryConfig};
use super::endpoint::Endpoint;
use super::fault::RegistryError;
use super::flow::{Flow, FlowError};

/// Redirects followed for one request: real registries need one, to the store of their blobs; two
/// with a mirror.
const REDIRECTS_MAX: usize = 5;

/// Times that a small body may take as long as a large one may stall.
const SMALL_BODY_STALLS: u32 = 4;

/// HTTP for registries, with the hosts that may be reached without TLS.
#[derive(Debug)]
pub(crate) struct Http {
    clients: Clients,
    insecure: Vec<String>,
    answer_timeout: Duration,
    stall_timeout: Duration,
}

/// Request on behalf of an endpoint: to itself, or to its token service.
#[derive(Debug)]
pub(super) struct Errand<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) method: Method,
    pub(super) url: Url,
    /// Headers that a redirect's target gets as well.
    pub(super) headers: HeaderMap,
    /// Secret for the origin of `url`, and for no other.
    pub(super) authorization: Option<HeaderValue>,
    /// Form in the body; it follows no redirect.
    pub(super) form: Option<String>,
}

impl<'a> Errand<'a> {
    /// Request without headers, secrets and body.
    pub(super) fn new(endpoint: &'a Endpoint, method: Method, url: Url) -> Self {
        Self {
            endpoint,
            method,
            url,
            headers: HeaderMap::new(),
            authorization: None,
            form: None,
        }
    }
}

impl Http {
    /// HTTP for the configured hosts and certificates.
    ///
    /// # Errors
    /// When the CA file cannot be read or holds no certificates, or a proxy cannot be used.
    pub(crate) fn new(config: &RegistryConfig) -> Result<Self, InvalidRegistryConfig> {
        Ok(Self {
            clients: Clients::new(config)?,
            insecure: config
                .insecure
                .iter()
                .map(|host| host.to_ascii_lowercase())
                .collect(),
            answer_timeout: config.answer_timeout,
            stall_timeout: config.stall_timeout,
        })
    }

    /// Clients that the requests are sent with.
    pub(super) fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Response to a request, redirects followed.
    ///
    /// # Errors
    /// When no response comes, or a redirect leads where it must not. Any status is a response.
    pub(super) async fn send(&self, errand: &Errand<'_>) -> Result<Response, RegistryError> {
        let mut at = errand.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.hop(errand, &at).await?;
            match location(&response) {
                Some(next) if errand.form.is_none() => at = next?,
                _ => return Ok(response),
            }
        }
        let message = format!(
            "registry {} redirects more than {REDIRECTS_MAX} times",
            authority(&errand.url)
        );
        Err(RegistryError::lasting(
            Reason::RegistryRedirectRefused,
            message,
        ))
    }

    async fn hop(&self, errand: &Errand<'_>, at: &Url) -> Result<Response, RegistryError> {
        let endpoint = errand.endpoint;
        let is_own = at.origin() == endpoint.root.origin();
        if is_own {
            self.clients.trust_name_of(at);
        } else {
            self.check(at)?;
        }
        let mut request = self
            .client(errand)
            .request(errand.method.clone(), at.clone())
            .headers(errand.headers.clone());
        if is_own {
            request = request.headers(endpoint.headers.clone());
        }
        if let Some(form) = &errand.form {
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            request = request.header(CONTENT_TYPE, kind).body(form.clone());
        }
        let secret = errand.authorization.as_ref();
        if let Some(secret) = secret.filter(|_| at.origin() == errand.url.origin()) {
            // In place of one that the endpoint's headers hold.
            request = request.headers(HeaderMap::from_iter([(AUTHORIZATION, secret.clone())]));
        }
        let answer = timeout(self.answer_timeout, request.send()).await;
        answer
            .map_err(|_| self.silent(at, self.answer_timeout))?
            .map_err(|error| self.broken(&error, at))
    }

    /// Client for a hop. A host whose certificate is not checked may lead secrets to another one,
    /// whose certificate is.
    fn client(&self, errand: &Errand<'_>) -> Client {
        let endpoint = errand.endpoint;
        let has_secret = errand.authorization.is_some() || errand.form.is_some();
        let is_elsewhere = errand.url.origin() != endpoint.root.origin();
        let own = endpoint.client.clone();
        own.filter(|_| !(endpoint.is_blind && has_secret && is_elsewhere))
            .unwrap_or_else(|| self.clients.general())
    }

    /// Failure that an error on the way to or from `url` means.
    pub(super) fn broken(&self, error: &reqwest::Error, url: &Url) -> RegistryError {
        let proxy = self.clients.proxies().of(url);
        RegistryError::transport(error, url, proxy.as_deref())
    }

    /// Failure of a host that sent nothing for so long.
    fn silent(&self, url: &Url, waited: Duration) -> RegistryError {
        RegistryError::silent(
            &authority(url),
            self.clients.proxies().of(url).as_deref(),
            waited,
        )
    }

    /// Body of a response.
    pub(super) fn flow(&self, response: Response) -> Flow {
        Flow::new(response, self.stall_timeout)
    }

    /// Failure that the early end of a body means.
    pub(super) fn ended(&self, error: FlowError, url: &Url) -> RegistryError {
        match error {
            FlowError::Stalled => self.silent(url, self.stall_timeout),
            FlowError::Broken(error) => self.broken(&error, url),
        }
    }

    /// Body that must be small. `what` names it in the error.
    ///
    /// # Errors
    /// [`Reason::ImageInvalid`] when it has more than `bytes_max` bytes; [`RegistryError::Passing`]
    /// when the connection broke, or it took too long.
    pub(super) async fn read(
        &self,
        response: Response,
        bytes_max: usize,
        what: &str,
    ) -> Result<Bytes, RegistryError> {
        let url = response.url().clone();
        let time_max = self.stall_timeout * SMALL_BODY_STALLS;
        let read = timeout(time_max, self.read_on(response, bytes_max, what)).await;
        read.unwrap_or_else(|_| {
            let message = format!(
                "{} did not send the {what} within {} s",
                authority(&url),
                time_max.as_secs_f32()
            );
            Err(RegistryError::passing(Reason::RegistryTimeout, message))
        })
    }

    async fn read_on(
        &self,
        response: Response,
        bytes_max: usize,
        what: &str,
    ) -> Result<Bytes, RegistryError> {
        let url = response.url().clone();
        let (mut flow, mut bytes) = (self.flow(response), Vec::new());
        while let Some(chunk) = flow.next().await.map_err(|error| self.ended(error, &url))? {
            if bytes.len() + chunk.len() > bytes_max {
                let message = format!(
                    "{} sent a {what} larger than {bytes_max} bytes",
                    authority(&url)
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
    fn only_listed_hosts_are_led_to_in_the_clear() {
        let http = http(&["127.0.0.1:5000", "Plain.example", "eighty.example:80"]);
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
