//! One call to the CHaS API at a time: bounded in time and size, and its faults cut by what is to be done next.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, USER_AGENT};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;

use super::Calls;
use super::credentials::Credentials;
use super::wire::{self, Acknowledgement, Listing, Registration, Report, Welcome};
use crate::cause;
use crate::config::Secret;

mod error;

pub use error::{Fault, FaultKind};
use error::{retry_after, said};

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From the request to the answer's head, besides what it may be held.
    pub answer: Duration,
    /// For the answer's body.
    pub body: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(20),
            body: Duration::from_secs(30),
        }
    }
}

/// A set: two thousand containers of two kilobytes.
const SET_BYTES_MAX: usize = 4 << 20;
/// A set of more than that is not read beside other work.
const LARGE: usize = 32 << 10;
/// Any other answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// What a poll came to.
#[derive(Debug)]
pub enum Polled {
    /// What is stored is what CHaS lists.
    Unchanged {
        /// CHaS holds polls in which nothing is new.
        held: bool,
    },
    /// What it lists.
    Listing {
        /// The set.
        listing: Box<Listing>,
    },
}

/// Speaks to the CHaS API for one node.
#[derive(Debug)]
pub struct Client {
    url: Url,
    node_id: String,
    credentials: Credentials,
    timeouts: Timeouts,
}

impl Client {
    /// A client for the node at the server whose paths begin with `url`, which ends with a slash.
    #[must_use]
    pub fn new(url: Url, node_id: String, credentials: Credentials) -> Self {
        Self {
            url,
            node_id,
            credentials,
            timeouts: Timeouts::default(),
        }
    }

    /// With other timeouts than usual.
    #[must_use]
    pub const fn timing(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    async fn request(&self, method: Method, path: &str) -> Result<Prepared, Fault> {
        let credentials = self.credentials.clone();
        let (shown, current) = if credentials.reads_files() {
            let ended = |_| Fault::new(FaultKind::Away, "the agent is ending");
            tokio::task::spawn_blocking(move || credentials.current())
                .await
                .map_err(ended)?
        } else {
            credentials.current()
        };
        let (client, token) = current.map_err(|e| Fault {
            shown,
            ..Fault::new(FaultKind::Untrusted, e.to_string())
        })?;
        let url = self
            .url
            .join(path)
            .map_err(|error| Fault::new(FaultKind::Refused, format!("{path}: {error}")))?;
        let request = client.request(method, url);
        let request = match &token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        };
        Ok(Prepared {
            request,
            token,
            shown,
        })
    }

    /// Sends a request; an answer that is no success is a fault.
    async fn answer(
        &self,
        prepared: Prepared,
        timeout: Duration,
        is_success: fn(StatusCode) -> bool,
    ) -> Result<Response, Fault> {
        let Prepared {
            request,
            token,
            shown,
        } = prepared;
        let silence = |kind, message: String| Fault {
            shown,
            ..Fault::new(kind, message)
        };
        let sent = tokio::time::timeout(timeout, request.send()).await;
        let late = |_| {
            silence(
                FaultKind::Away,
                format!("no answer within {} s", timeout.as_secs()),
            )
        };
        let response = sent.map_err(late)?.map_err(|error| {
            let root = cause::root(&error);
            if cause::chain(&error).any(|cause| cause.is::<rustls::Error>()) {
                let advice = "chas.ca_file says whom to trust, chas.cert_file and chas.key_file are what is shown";
                return silence(FaultKind::Untrusted, format!("TLS: {root} ({advice})"));
            }
            Fault { is_cut: !error.is_connect() && !error.is_timeout(), ..silence(FaultKind::Away, root) }
        })?;
        let status = response.status();
        if is_success(status) {
            return Ok(response);
        }
        let retry_after = retry_after(response.headers());
        let words = self
            .body(response, ANSWER_BYTES_MAX)
            .await
            .unwrap_or_default();
        let (code, words) = said(&words);
        let kind = self.judge(status, &code, token.as_ref());
        Err(Fault {
            kind,
            message: format!("{status}{words}"),
            retry_after,
            is_answer: true,
            is_cut: false,
            shown,
        })
    }

    /// A whole body, as far as it is small enough and comes in time.
    async fn body(&self, mut response: Response, bytes_max: usize) -> Result<Vec<u8>, Fault> {
        let read = async {
            let mut bytes = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| {
                Fault::bad(format!("the answer broke off: {}", cause::root(&error)))
            })? {
                if bytes.len() + chunk.len() > bytes_max {
                    return Err(Fault::bad(format!(
                        "the answer is larger than {bytes_max} bytes"
                    )));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        };
        let late = |_| {
            Fault::bad(format!(
                "the answer did not come within {} s",
                self.timeouts.body.as_secs()
            ))
        };
        tokio::time::timeout(self.timeouts.body, read)
            .await
            .map_err(late)?
    }

    fn judge(&self, status: StatusCode, code: &str, token: Option<&Secret>) -> FaultKind {
        match status {
            // What CHaS issued may be worth nothing any more (its state was lost): the node registers anew, with the operator's.
            StatusCode::UNAUTHORIZED if self.credentials.tokens.refused(token) => {
                FaultKind::Unknown
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FaultKind::Unauthorized,
            StatusCode::NOT_FOUND if code == "node_unknown" => FaultKind::Unknown,
            StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => FaultKind::NotOffered,
            StatusCode::CONFLICT => FaultKind::Conflict,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => FaultKind::Away,
            status if status.is_server_error() => FaultKind::Away,
            status if status.is_client_error() => FaultKind::Refused,
            _ => FaultKind::Bad,
        }
    }
}

/// A request, and what it shows.
#[derive(Debug)]
struct Prepared {
    request: RequestBuilder,
    token: Option<Secret>,
    shown: u64,
}

impl Prepared {
    fn with(self, change: impl FnOnce(RequestBuilder) -> RequestBuilder) -> Self {
        Self {
            request: change(self.request),
            ..self
        }
    }
}

impl Calls for Client {
    /// Registers the node, and keeps the token that it is given.
    async fn register(&self, registration: &Registration) -> Result<Welcome, Fault> {
        // Said once: with each report and poll of a large fleet it would be a twentieth of what an idle node costs.
        let agent = concat!("chas-node-agent/", env!("CARGO_PKG_VERSION"));
        let prepared = self.request(Method::POST, "nodes/register").await?;
        let prepared =
            prepared.with(|request| request.header(USER_AGENT, agent).json(registration));
        let token = prepared.token.clone();
        let response = self
            .answer(prepared, self.timeouts.answer, |status| status.is_success())
            .await
            .inspect_err(|fault| {
                // A server that says 403 of a token that it does not know is to be shown the other one, too.
                if fault.kind == FaultKind::Unauthorized {
                    _ = self.credentials.tokens.refused(token.as_ref());
                }
            })?;
        let welcome: Welcome = parsed(&self.body(response, ANSWER_BYTES_MAX).await?)?;
        if let Some(token) = welcome.token.clone() {
            let tokens = Arc::clone(&self.credentials.tokens);
            let _kept = tokio::task::spawn_blocking(move || tokens.issue(&token)).await;
        }
        Ok(welcome)
    }

    /// Reports how the node is.
    async fn report(&self, report: &Report, whole: bool) -> Result<Acknowledgement, Fault> {
        let prepared = self
            .request(Method::PUT, &format!("nodes/{}/health", self.node_id))
            .await?;
        let prepared = prepared.with(|request| {
            if whole {
                request.json(report)
            } else {
                request.json(&report.heartbeat())
            }
        });
        let response = self
            .answer(prepared, self.timeouts.answer, |status| status.is_success())
            .await?;
        parsed(&self.body(response, ANSWER_BYTES_MAX).await?)
    }

    /// Asks what should run, and whether it is still what `etag` stands for.
    async fn poll(
        &self,
        etag: Option<&str>,
        sent_after: u64,
        hold: Duration,
    ) -> Result<Polled, Fault> {
        let path = format!("nodes/{}/desired-state", self.node_id);
        let etag = etag.and_then(|etag| HeaderValue::from_str(etag).ok());
        let is_conditional = etag.is_some();
        let prepared = self.request(Method::GET, &path).await?.with(|request| {
            let request = request.header(
                HeaderName::from_static("prefer"),
                format!("wait={}", hold.as_secs()),
            );
            match etag {
                Some(etag) => request.header(IF_NONE_MATCH, etag),
                None => request,
            }
        });
        // Whatever else is of the hundreds of 200 (a 202, a 206) is no whole answer.
        let is_success = |status| {
            matches!(
                status,
                StatusCode::OK | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            )
        };
        let response = self
            .answer(prepared, hold + self.timeouts.answer, is_success)
            .await?;
        let held = response
            .headers()
            .get("preference-applied")
            .is_some_and(|applied| applied.as_bytes().starts_with(b"wait"));
        if response.status() == StatusCode::NOT_MODIFIED {
            let unasked = || {
                Fault::bad("it answers that nothing has changed, and was not asked whether it has")
            };
            return is_conditional
                .then_some(Polled::Unchanged { held })
                .ok_or_else(unasked);
        }
        let etag = response
            .headers()
            .get(ETAG)
            .and_then(|etag| etag.to_str().ok())
            .map(str::to_owned);
        let body = self.body(response, SET_BYTES_MAX).await?;
        let (node_id, is_large) = (self.node_id.clone(), body.len() > LARGE);
        let read = move || wire::listing(&body, &node_id, etag, sent_after).map_err(Fault::bad);
        // A large set takes a while, and others use this thread, too.
        let ended = |_| Fault::new(FaultKind::Away, "the agent is ending");
        let listing = if is_large {
            tokio::task::spawn_blocking(read).await.map_err(ended)?
        } else {
            read()
        };
        Ok(Polled::Listing {
            listing: Box::new(listing?),
        })
    }

    /// Whether other credentials would be shown than those.
    async fn has_other_credentials(&self, than: u64) -> bool {
        let credentials = self.credentials.clone();
        tokio::task::spawn_blocking(move || credentials.current().0 != than)
            .await
            .unwrap_or(false)
    }
}

/// What an answer says that may be empty. It may hold a token, which is not to be told to anybody.
fn parsed<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Fault> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    let bad = |error: serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        let what = if error.is_data() {
            "not what it should be"
        } else {
            "not JSON"
        };
        Fault::bad(format!(
            "the answer is {what}, from line {line} column {column} on"
        ))
    };
    serde_json::from_slice(body).map_err(bad)
}
