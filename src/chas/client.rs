//! HTTP client for the CHaS API: makes one call at a time, bounded in time and size.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, USER_AGENT};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use super::ChasCalls;
use super::credentials::ChasCredentials;
use super::wire::{RegisterReply, Registration, Report, ReportReply, SetReply};
use crate::cause;
use crate::config::Secret;
use crate::otlp::{Span, SpanFact, SpanOf};

mod answer;
mod error;
mod set;

use answer::{parse_reply, read_body};
pub use error::{ChasError, ChasErrorKind};
use error::{problem, retry_after};
use set::{SetAnswer, SetReader};

/// Longest answer to a poll: two thousand containers of two kilobytes.
const SET_BYTES_MAX: usize = 4 << 20;
/// Longest answer to any other call.
const ANSWER_BYTES_MAX: usize = 64 << 10;

const TLS_ADVICE: &str =
    "check chas.ca_file (who is trusted), chas.cert_file and chas.key_file (who the agent is)";

/// Timeouts of one call.
#[derive(Clone, Copy, Debug)]
pub struct CallTimeouts {
    /// Time from the request to the head of the answer, in addition to the wait of a poll.
    pub answer: Duration,
    /// Time for the body of the answer.
    pub body: Duration,
}

impl Default for CallTimeouts {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(20),
            body: Duration::from_secs(30),
        }
    }
}

/// The answer to a poll.
#[derive(Debug)]
pub enum PollReply {
    /// The set that CHaS lists is still the one tagged in the poll.
    Unchanged {
        /// Whether CHaS keeps polls open while there is no other set.
        waited: bool,
    },
    /// The set that CHaS lists.
    Set(Box<SetReply>),
}

/// A client of the CHaS API for one node.
#[derive(Debug)]
pub struct ChasClient {
    url: Url,
    node_id: String,
    credentials: ChasCredentials,
    sets: SetReader,
    timeouts: CallTimeouts,
}

/// A request that is ready to be sent, with the credentials it uses.
#[derive(Debug)]
struct PreparedCall {
    name: &'static str,
    method: Method,
    request: RequestBuilder,
    token: Option<Secret>,
    credentials_fingerprint: u64,
    is_registration: bool,
}

impl PreparedCall {
    fn with(self, change: impl FnOnce(RequestBuilder) -> RequestBuilder) -> Self {
        Self {
            request: change(self.request),
            ..self
        }
    }
}

fn agent_is_stopping<E>(_: E) -> ChasError {
    ChasError::new(ChasErrorKind::Unreachable, "the agent is stopping")
}

impl ChasClient {
    /// A client for the node `node_id` at the server whose paths begin with `url`, which ends with
    /// a slash.
    #[must_use]
    pub fn new(url: Url, node_id: String, credentials: ChasCredentials) -> Self {
        Self {
            url,
            node_id,
            credentials,
            sets: SetReader::new(None),
            timeouts: CallTimeouts::default(),
        }
    }

    /// The same client, which takes no set that none of these keys signed.
    #[must_use]
    pub fn with_set_keys(mut self, file: Option<PathBuf>) -> Self {
        self.sets = SetReader::new(file);
        self
    }

    /// The same client with other timeouts.
    #[must_use]
    pub fn with_timeouts(mut self, timeouts: CallTimeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    async fn prepare(
        &self,
        name: &'static str,
        method: Method,
        path: &str,
    ) -> Result<PreparedCall, ChasError> {
        let credentials = self.credentials.clone();
        let (credentials_fingerprint, current) = if credentials.reads_files() {
            tokio::task::spawn_blocking(move || credentials.current())
                .await
                .map_err(agent_is_stopping)?
        } else {
            credentials.current()
        };
        let (client, token) = current.map_err(|error| ChasError {
            credentials_fingerprint,
            ..ChasError::new(ChasErrorKind::TlsRejected, error.to_string())
        })?;
        let url = self.url.join(path).map_err(|error| {
            ChasError::new(
                ChasErrorKind::Refused,
                format!("{path:?} is not a valid path: {error}; check node.id"),
            )
        })?;
        let request = client.request(method.clone(), url);
        let request = match &token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        };
        Ok(PreparedCall {
            name,
            method,
            request,
            token,
            credentials_fingerprint,
            is_registration: false,
        })
    }

    /// Sends a call and waits `timeout` for the head of its answer; a status that is no success is
    /// an error.
    async fn send(
        &self,
        call: PreparedCall,
        timeout: Duration,
        is_success: fn(StatusCode) -> bool,
    ) -> Result<Response, ChasError> {
        let PreparedCall {
            name,
            method,
            request,
            token,
            credentials_fingerprint,
            is_registration,
        } = call;
        let mut span = Span::begin(SpanOf::ChasCall);
        span.text(SpanFact::Call, || name.to_owned());
        span.text(SpanFact::Method, || method.to_string());
        let sent = tokio::time::timeout(timeout, request.send()).await;
        if let Ok(Ok(response)) = &sent {
            span.number(SpanFact::Status, response.status().as_u16().into());
        }
        let error = match sent {
            Ok(Ok(response)) if is_success(response.status()) => return Ok(response),
            Ok(Ok(response)) => {
                self.refusal(response, token.as_ref(), is_registration)
                    .await
            }
            Ok(Err(error)) => transport_error(&error),
            Err(_) => ChasError::new(
                ChasErrorKind::Unreachable,
                format!("no answer within {} s", timeout.as_secs()),
            ),
        };
        span.fail(error.kind.as_str());
        Err(ChasError {
            credentials_fingerprint,
            ..error
        })
    }

    /// The error that an answer without success stands for.
    async fn refusal(
        &self,
        response: Response,
        token: Option<&Secret>,
        is_registration: bool,
    ) -> ChasError {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let body = self.body(response, ANSWER_BYTES_MAX).await;
        let (code, text) = problem(&body.unwrap_or_default());
        let is_issued_token_refused = match status {
            StatusCode::UNAUTHORIZED => self.credentials.tokens.refused(token),
            // A server may answer 403 for a token it does not know; then the next registration uses
            // the operator's.
            StatusCode::FORBIDDEN if is_registration => {
                self.credentials.tokens.refused(token);
                false
            }
            _ => false,
        };
        let kind = if is_issued_token_refused {
            // The token CHaS issued is void, as after a loss of its state: register again with the
            // operator's.
            ChasErrorKind::NodeUnknown
        } else {
            error_kind(status, &code)
        };
        let separator = if text.is_empty() { "" } else { ": " };
        ChasError {
            retry_after,
            is_answer: true,
            ..ChasError::new(kind, format!("{status}{separator}{text}"))
        }
    }

    /// The whole body of an answer, within its limits of size and time.
    async fn body(&self, response: Response, bytes_max: usize) -> Result<Vec<u8>, ChasError> {
        let timeout = self.timeouts.body;
        tokio::time::timeout(timeout, read_body(response, bytes_max))
            .await
            .map_err(|_| {
                ChasError::invalid(format!(
                    "the answer is incomplete after {} s",
                    timeout.as_secs()
                ))
            })?
    }
}

fn transport_error(error: &reqwest::Error) -> ChasError {
    let root = cause::root(error);
    if cause::chain(error).any(|cause| cause.is::<rustls::Error>()) {
        let message = format!("TLS handshake failed: {root}; {TLS_ADVICE}");
        return ChasError::new(ChasErrorKind::TlsRejected, message);
    }
    ChasError {
        is_cut: !error.is_connect() && !error.is_timeout(),
        ..ChasError::new(ChasErrorKind::Unreachable, root)
    }
}

fn error_kind(status: StatusCode, code: &str) -> ChasErrorKind {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ChasErrorKind::Unauthorized,
        StatusCode::NOT_FOUND if code == "node_unknown" => ChasErrorKind::NodeUnknown,
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
            ChasErrorKind::NotOffered
        }
        StatusCode::CONFLICT => ChasErrorKind::IdentityConflict,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => ChasErrorKind::Unreachable,
        status if status.is_server_error() => ChasErrorKind::Unreachable,
        status if status.is_client_error() => ChasErrorKind::Refused,
        _ => ChasErrorKind::InvalidResponse,
    }
}

/// Whether a status answers a poll. Any other 2xx, such as 202 or 206, is not a complete answer.
fn is_poll_success(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::OK | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    )
}

fn is_success(status: StatusCode) -> bool {
    status.is_success()
}

impl ChasCalls for ChasClient {
    /// Registers the node, and keeps the token that CHaS issues.
    async fn register(&self, registration: &Registration) -> Result<RegisterReply, ChasError> {
        // Sent only here: in each report and poll of a large fleet, it would be a twentieth of an
        // idle node's traffic.
        let agent = concat!("chas-node-agent/", env!("CARGO_PKG_VERSION"));
        let call = PreparedCall {
            is_registration: true,
            ..self
                .prepare("register", Method::POST, "nodes/register")
                .await?
        };
        let call = call.with(|request| request.header(USER_AGENT, agent).json(registration));
        let response = self.send(call, self.timeouts.answer, is_success).await?;
        let reply: RegisterReply = parse_reply(&self.body(response, ANSWER_BYTES_MAX).await?)?;
        if let Some(token) = reply.token.clone() {
            let tokens = Arc::clone(&self.credentials.tokens);
            let _kept = tokio::task::spawn_blocking(move || tokens.issue(&token)).await;
        }
        Ok(reply)
    }

    async fn report(&self, report: &Report, is_full: bool) -> Result<ReportReply, ChasError> {
        let path = format!("nodes/{}/health", self.node_id);
        let call = self
            .prepare("report", Method::PUT, &path)
            .await?
            .with(|request| {
                if is_full {
                    request.json(report)
                } else {
                    request.json(&report.heartbeat())
                }
            });
        let response = self.send(call, self.timeouts.answer, is_success).await?;
        parse_reply(&self.body(response, ANSWER_BYTES_MAX).await?)
    }

    async fn poll(
        &self,
        etag: Option<&str>,
        requested_at_seq: u64,
        wait: Duration,
    ) -> Result<PollReply, ChasError> {
        self.sets.rest().await;
        let path = format!("nodes/{}/desired-state", self.node_id);
        let etag = etag.and_then(|etag| HeaderValue::from_str(etag).ok());
        let is_conditional = etag.is_some();
        let call = self
            .prepare("poll", Method::GET, &path)
            .await?
            .with(|request| {
                let prefer = HeaderName::from_static("prefer");
                let request = request.header(prefer, format!("wait={}", wait.as_secs()));
                match etag {
                    Some(etag) => request.header(IF_NONE_MATCH, etag),
                    None => request,
                }
            });
        let response = self
            .send(call, wait + self.timeouts.answer, is_poll_success)
            .await?;
        if response.status() == StatusCode::NOT_MODIFIED {
            if !is_conditional {
                return Err(ChasError::invalid(
                    "the answer is 304, but the poll named no set to compare with",
                ));
            }
            let applied = response.headers().get("preference-applied");
            let waited = applied.is_some_and(|applied| applied.as_bytes().starts_with(b"wait"));
            return Ok(PollReply::Unchanged { waited });
        }
        let etag = response
            .headers()
            .get(ETAG)
            .and_then(|etag| etag.to_str().ok())
            .map(str::to_owned);
        let signatures = set::signatures(response.headers());
        let answer = SetAnswer {
            body: self.body(response, SET_BYTES_MAX).await?,
            signatures,
            etag,
            requested_at_seq,
        };
        let set = self.sets.read(self.node_id.clone(), answer).await?;
        Ok(PollReply::Set(Box::new(set)))
    }

    async fn believes(&self, signed_by: &std::collections::BTreeSet<String>) -> bool {
        self.sets.believes(signed_by).await
    }

    async fn has_other_credentials(&self, than: u64) -> bool {
        let credentials = self.credentials.clone();
        tokio::task::spawn_blocking(move || credentials.current().0 != than)
            .await
            .unwrap_or(false)
    }
}
