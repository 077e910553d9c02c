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
use super::leading::{self, Leading};
use crate::cause;
use crate::lookup::{NearAddresses, NearName};

/// Redirects followed for one request: real registries need one, to the store of their blobs; two
/// with a mirror.
const REDIRECTS_MAX: usize = 5;

/// Times that a small body may take as long as a large one may stall.
const SMALL_BODY_STALLS: u32 = 4;

/// HTTP for registries, with the rules of where they may lead.
#[derive(Debug)]
pub(crate) struct Http {
    clients: Clients,
    leading: Leading,
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
    /// Whether the endpoint answered from an address of this node; told by its answers.
    pub(super) is_near: bool,
}

/// Request of an errand to one host: to where it was sent, or to where it was led.
#[derive(Debug)]
struct Hop {
    at: Url,
    /// Host that led there.
    from: Url,
    /// Whether the endpoint itself is at an address of this node.
    is_near: bool,
    /// Whether it is, or was, at another host than the errand's: no secret goes along, nor comes
    /// back.
    has_left: bool,
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
            is_near: false,
        }
    }
}

impl Http {
    /// HTTP for the configured hosts and certificates.
    ///
    /// # Errors
    /// When the CA file cannot be read or holds no certificates, or a proxy cannot be used.
    pub(crate) fn new(config: &RegistryConfig) -> Result<Self, InvalidRegistryConfig> {
        let near = NearAddresses::new(config.containers);
        Ok(Self {
            clients: Clients::new(config, near)?,
            leading: Leading::new(&config.insecure, &config.token_hosts, near),
            answer_timeout: config.answer_timeout,
            stall_timeout: config.stall_timeout,
        })
    }

    /// Clients that the requests are sent with.
    pub(super) fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Rules of where registries may lead.
    pub(super) fn leading(&self) -> &Leading {
        &self.leading
    }

    /// Response to a request, redirects followed.
    ///
    /// # Errors
    /// When no response comes, or a redirect leads where it must not. Any status is a response.
    pub(super) async fn send(&self, errand: &Errand<'_>) -> Result<Response, RegistryError> {
        let mut hop = Hop {
            at: errand.url.clone(),
            from: errand.endpoint.root.clone(),
            is_near: errand.is_near,
            has_left: false,
        };
        for _ in 0..=REDIRECTS_MAX {
            hop.has_left |= hop.at.origin() != errand.url.origin();
            let response = self.go(errand, &hop).await?;
            match location(&response) {
                Some(next) if errand.form.is_none() => {
                    let is_own = hop.at.origin() == errand.endpoint.root.origin();
                    if is_own && !hop.has_left {
                        hop.is_near = self.is_near(errand.endpoint, &response);
                    }
                    hop.from = std::mem::replace(&mut hop.at, next?);
                }
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

    /// Whether an endpoint answered from an address of this node. Of one behind a proxy only an
    /// address in its URL tells.
    pub(super) fn is_near(&self, endpoint: &Endpoint, response: &Response) -> bool {
        let near = self.leading.near();
        let address = leading::address(&endpoint.root).or_else(|| {
            let is_direct = self.clients.proxies().of(&endpoint.root).is_none();
            let address = response.remote_addr().filter(|_| is_direct);
            address.map(|address| address.ip())
        });
        address.is_some_and(|address| near.holds(address))
    }

    async fn go(&self, errand: &Errand<'_>, hop: &Hop) -> Result<Response, RegistryError> {
        let (endpoint, at) = (errand.endpoint, &hop.at);
        let is_own = at.origin() == endpoint.root.origin();
        if is_own {
            self.clients.trust_name_of(at);
        } else {
            let secret = errand.authorization.is_some() || errand.form.is_some();
            let has_secret = secret && !hop.has_left;
            self.leading.check(&hop.from, at, hop.is_near, has_secret)?;
        }
        let is_walled = !is_own && !hop.is_near && !self.leading.is_named(at);
        let mut request = self
            .client(errand, is_walled)?
            .request(errand.method.clone(), at.clone())
            .headers(errand.headers.clone());
        if is_own && !hop.has_left {
            request = request.headers(endpoint.headers.clone());
        }
        if let Some(form) = &errand.form {
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            request = request.header(CONTENT_TYPE, kind).body(form.clone());
        }
        let secret = errand.authorization.as_ref();
        if let Some(secret) = secret.filter(|_| !hop.has_left) {
            // In place of one that the endpoint's headers hold.
            request = request.headers(HeaderMap::from_iter([(AUTHORIZATION, secret.clone())]));
        }
        let answer = timeout(self.answer_timeout, request.send()).await;
        match answer {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if is_own => Err(self.broken(&error, at)),
            Err(_) if is_own => Err(self.silent(at, self.answer_timeout)),
            Ok(Err(error)) if is_near_name(&error) => Err(self.leading.inward(&hop.from, at)),
            Ok(Err(error)) => Err(led_astray(errand, at, &cause::all(&error))),
            Err(_) => Err(led_astray(errand, at, "no answer in time")),
        }
    }

    /// Client for a hop; one that is `walled` is not led to this node. A host whose certificate is
    /// not checked may lead secrets to another one, whose certificate is.
    fn client(&self, errand: &Errand<'_>, is_walled: bool) -> Result<Client, RegistryError> {
        let endpoint = errand.endpoint;
        let has_secret = errand.authorization.is_some() || errand.form.is_some();
        let is_elsewhere = errand.url.origin() != endpoint.root.origin();
        let own = endpoint.clients.as_ref();
        match own.filter(|_| !(endpoint.is_blind && has_secret && is_elsewhere)) {
            Some(own) if is_walled => Ok(own.walled.clone()),
            Some(own) => Ok(own.open.clone()),
            None if is_walled => self.clients.general_walled(),
            None => Ok(self.clients.general()),
        }
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
}

/// Whether a name was not looked up because it is this node's.
fn is_near_name(error: &reqwest::Error) -> bool {
    cause::chain(error).any(|error| error.downcast_ref::<NearName>().is_some())
}

/// Failure of a host that a registry leads to. It tells no more: whoever owns the registry would
/// learn from it which doors are open where only this node is let in.
fn led_astray(errand: &Errand<'_>, at: &Url, fault: &str) -> RegistryError {
    let (registry, host) = (errand.endpoint.authority(), authority(at));
    tracing::warn!(%registry, %host, fault, "registry redirect failed");
    RegistryError::passing(
        Reason::RegistryUnreachable,
        format!(
            "{host}, where registry {registry} leads, does not answer as it should; \
             the agent's log on the node says why"
        ),
    )
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
