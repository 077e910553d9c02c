//! Errors of registries: whether a repetition may help, and the sentence a person reads.

use std::time::{Duration, SystemTime};

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use state::failure::Failure;
use state::reason::Reason;
use state::text::shown;

use super::authority::authority;
use crate::{backoff, cause};

/// Bytes of an error's body that are read for its message.
const BODY_BYTES_MAX: usize = 16 << 10;

/// Time for that body: its words are not worth more.
const BODY_TIME_MAX: Duration = Duration::from_secs(5);

/// Characters of a registry's own words that are repeated.
const WORDS_MAX: usize = 200;

/// Longest `Retry-After` that is believed: a registry's clock may be wrong.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(6 * 3600);

/// Error of a request to a registry, cut by whether a repetition within the same pull may help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    /// Failure that may pass by itself.
    #[error(transparent)]
    Passing(Failure),
    /// Failure that stays until somebody changes something.
    #[error(transparent)]
    Lasting(Failure),
}

impl RegistryError {
    /// Passing failure of `reason`.
    pub(crate) fn passing(reason: Reason, message: impl Into<String>) -> Self {
        Self::Passing(Failure::new(reason, message))
    }

    /// Lasting failure of `reason`.
    pub(crate) fn lasting(reason: Reason, message: impl Into<String>) -> Self {
        Self::Lasting(Failure::new(reason, message))
    }

    /// The same failure under another code, where it had the code `from`.
    #[must_use]
    pub(crate) fn renamed(mut self, from: Reason, to: Reason) -> Self {
        let (Self::Passing(failure) | Self::Lasting(failure)) = &mut self;
        if failure.reason == from {
            failure.reason = to;
        }
        self
    }

    /// Failure of a connection to the host of `url` that broke, or never came to be. `proxy` is what
    /// it went through.
    pub(super) fn transport(error: &reqwest::Error, url: &Url, proxy: Option<&str>) -> Self {
        let authority = &authority(url);
        if let Some(failure) = Self::tls(error, authority) {
            return failure;
        }
        let root = cause::root(error);
        if let Some(proxy) = proxy
            && error.is_connect()
        {
            return Self::proxy(error, authority, proxy);
        }
        let (reason, message) = if is_unresolved(error) {
            (
                Reason::RegistryNameUnknown,
                format!("the name of registry {authority} cannot be resolved: {root}"),
            )
        } else if error.is_timeout() && error.is_connect() {
            (
                Reason::RegistryTimeout,
                format!("connecting to registry {authority} timed out"),
            )
        } else if error.is_connect() && root.contains("handshake") {
            (
                Reason::RegistryNotTls,
                format!(
                    "registry {authority} does not speak TLS properly ({root}); if it speaks plain HTTP, list it under registry.insecure if you trust the network"
                ),
            )
        } else if error.is_connect() {
            (
                Reason::RegistryUnreachable,
                format!("registry {authority} cannot be reached: {root}"),
            )
        } else if error.is_body() || error.is_decode() {
            (
                Reason::ImageDownloadInterrupted,
                format!("the connection to registry {authority} broke: {root}"),
            )
        } else if url.scheme() == "http" && root.contains("HTTP") {
            (
                Reason::RegistryNotInsecure,
                format!(
                    "registry {authority} does not speak plain HTTP ({root}); if it speaks TLS, take it out of registry.insecure"
                ),
            )
        } else {
            let hint = if url.scheme() == "http" {
                "; if it speaks TLS, take it out of registry.insecure"
            } else {
                ""
            };
            (
                Reason::RegistryUnreachable,
                format!(
                    "registry {authority} closed the connection without an answer: {root}{hint}"
                ),
            )
        };
        Self::passing(reason, message)
    }

    /// Failure of the proxy on the way to `authority`.
    fn proxy(error: &reqwest::Error, authority: &str, proxy: &str) -> Self {
        let root = cause::root(error);
        let refused = [
            "unsuccessful",
            "authorization required",
            "unexpected end of file",
        ];
        let sentence = if error.is_timeout() {
            "does not answer".to_owned()
        } else if refused.iter().any(|word| root.contains(word)) {
            format!("refuses the connection: {root}")
        } else {
            format!("cannot be reached: {root}")
        };
        Self::passing(
            Reason::RegistryProxyFailed,
            format!(
                "the proxy {proxy}, by which registry {authority} is to be reached, {sentence}"
            ),
        )
    }

    /// Failure of a host that sent nothing, or hardly anything, for so long.
    pub(super) fn silent(authority: &str, proxy: Option<&str>, waited: Duration) -> Self {
        let way = proxy.map_or(String::new(), |proxy| format!(" through the proxy {proxy}"));
        let seconds = waited.as_secs_f32();
        Self::passing(
            Reason::RegistryTimeout,
            format!("registry {authority} sent nothing for {seconds} s{way}"),
        )
    }

    /// Failure of TLS itself; `None`: the error is another.
    fn tls(error: &reqwest::Error, authority: &str) -> Option<Self> {
        let fault = cause::chain(error).find_map(|error| error.downcast_ref());
        let (reason, message) = match fault {
            Some(rustls::Error::InvalidMessage(_)) => (
                Reason::RegistryNotTls,
                format!(
                    "registry {authority} answered in plain HTTP; list it under registry.insecure if you trust it"
                ),
            ),
            Some(rustls::Error::InvalidCertificate(fault)) => (
                Reason::RegistryCertificateInvalid,
                format!(
                    "the certificate of registry {authority} is not trusted ({fault}); \
                     if an authority of your own signed it, name that in registry.ca_file"
                ),
            ),
            _ => return None,
        };
        Some(Self::lasting(reason, message))
    }

    /// Failure that a status other than success means. `wanted` names what was asked for, as in
    /// `manifest of r.example/web:1`.
    pub(crate) async fn status(response: Response, authority: &str, wanted: &str) -> Self {
        let (status, retry_after) = (response.status(), asked_for(&response));
        let body = body(response).await;
        if status == StatusCode::BAD_REQUEST && is_tls(&body) {
            let message =
                format!("registry {authority} speaks TLS; take it out of registry.insecure");
            return Self::lasting(Reason::RegistryNotInsecure, message);
        }
        let who = format!("registry {authority}");
        Self::told(status, retry_after, &who, &words(&body), wanted)
    }

    /// The same for a host that the registry `own` led to. Nothing of its own words is repeated: it
    /// may be a page that only this node can read, and not the reader of the message.
    pub(super) fn led(response: &Response, own: &str, wanted: &str) -> Self {
        let (status, retry_after) = (response.status(), asked_for(response));
        let who = format!("{}, where registry {own} leads,", authority(response.url()));
        match status {
            // The signature of a redirect's URL has a life of its own; the next try gets a new one.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::passing(
                Reason::RegistryError,
                format!("{who} refused the {wanted} ({status})"),
            ),
            _ => Self::told(status, retry_after, &who, "", wanted),
        }
    }

    fn told(
        status: StatusCode,
        retry_after: Option<Duration>,
        who: &str,
        words: &str,
        wanted: &str,
    ) -> Self {
        let sentence = |what: &str| match words {
            "" => format!("{who} {what} ({status}) for the {wanted}"),
            words => format!("{who} {what} ({status}: {words}) for the {wanted}"),
        };
        let passing = |reason, what| {
            Self::Passing(Failure::new(reason, sentence(what)).with_retry_after(retry_after))
        };
        match status {
            StatusCode::UNAUTHORIZED => {
                Self::lasting(Reason::RegistryUnauthorized, sentence("gives no access"))
            }
            StatusCode::FORBIDDEN => {
                Self::lasting(Reason::RegistryForbidden, sentence("gives no access"))
            }
            StatusCode::NOT_FOUND => {
                Self::lasting(Reason::ImageNotFound, format!("{who} has no {wanted}"))
            }
            StatusCode::TOO_MANY_REQUESTS => {
                passing(Reason::RegistryRateLimited, "asks for fewer requests")
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => {
                Self::passing(Reason::RegistryError, sentence("gave up"))
            }
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => Self::lasting(
                Reason::RegistryProxyFailed,
                format!("the proxy before {who} asks for a user and a password"),
            ),
            status if status.is_server_error() => passing(Reason::RegistryError, "failed"),
            _ => Self::lasting(Reason::RegistryError, sentence("refused")),
        }
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        let (RegistryError::Passing(failure) | RegistryError::Lasting(failure)) = error;
        failure
    }
}

fn asked_for(response: &Response) -> Option<Duration> {
    let wait = backoff::retry_after(
        response.headers().get(RETRY_AFTER)?.to_str().ok()?,
        SystemTime::now(),
    )?;
    Some(wait.min(RETRY_AFTER_MAX))
}

/// Whether the name could not be resolved, which hyper tells in these words only.
fn is_unresolved(error: &reqwest::Error) -> bool {
    cause::chain(error).any(|error| error.to_string() == "dns error")
}

#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Beginning of an error's body; what does not come in time is left out.
async fn body(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk[..chunk.len().min(BODY_BYTES_MAX - body.len())]);
            if body.len() == BODY_BYTES_MAX {
                break;
            }
        }
    };
    drop(tokio::time::timeout(BODY_TIME_MAX, read).await);
    body
}

/// Whether a server says that its port speaks TLS: Go's, nginx and Apache each in their own words.
fn is_tls(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    ["HTTPS server", "HTTPS port", "SSL-enabled server port"]
        .iter()
        .any(|words| text.contains(words))
}

/// Registry's own words (OCI distribution specification, "Error Codes"), fit for one line.
fn words(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<ErrorBody>(body)
        .ok()
        .and_then(|body| body.errors.into_iter().next())
    {
        Some(entry) if entry.message.is_empty() => entry.code,
        Some(entry) => entry.message,
        // A page of HTML is of no use in a message.
        None if body.trim_ascii_start().starts_with(b"<") => String::new(),
        None => String::from_utf8_lossy(body).into_owned(),
    };
    let words: Vec<_> = text.split_whitespace().take(WORDS_MAX).collect();
    shown(&words.join(" "), WORDS_MAX).into_owned()
}
