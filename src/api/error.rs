//! Failures as RFC 9457 problems. No other file names the status code of a failure.

use std::any::Any;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use state::policy;
use state::reason::Reason;
use state::spec::parse::FieldError;
use state::text::shown;

use super::Refusal;
use super::answer::line;
use crate::view::FindError;

mod kind;

pub(super) use kind::ProblemKind;

/// Characters of a problem's detail, in which all faults of a body stand.
const DETAIL_CHARS_MAX: usize = 64 << 10;

/// A failed request, as it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// A malformed request: 400.
    Request(String),
    /// Credentials are missing or wrong, with what would help: 401.
    Unauthorized(String),
    /// The caller tried too many tokens, and waits so long until another is looked at: 429.
    Guessed(Duration),
    /// The request is meant for another host: 421.
    Misdirected(String),
    /// A page in a browser asked for it, as this header tells: 403.
    Page(String),
    /// The caller's role is too low: 403.
    Role(String),
    /// The caller has nothing to do with containers of this name: 403.
    Scope(String),
    /// The body is too large: 413.
    TooLarge,
    /// The body took too long: 408.
    Slow,
    /// The body is of another type: 415.
    MediaType(String),
    /// The body is no archive by its head: 415.
    ArchiveType(String),
    /// The request expects something that the agent does not do: 417.
    Expectation,
    /// The body is not valid: 422.
    Invalid(Vec<FieldError>),
    /// The container failed while the caller waited: 422.
    Failed(Reason, String),
    /// The caller's wait timed out; the work goes on: 504.
    Timeout(String),
    /// A program did not come to its end, with what it printed: 504, 409 or 503.
    Unfinished(Unfinished, String, Value),
    /// Too many concurrent requests of this kind: 429.
    Busy(String),
    /// The agent refused the change.
    Refused(Refusal),
}

/// Code of the problem that an answer tells, for those who count it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProblemCode(pub(super) &'static str);

/// Cause for which a program in a container did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfinished {
    /// End of its time: 504.
    TimedOut,
    /// End of its container: 409.
    ContainerEnded,
    /// The agent stops, or lost it: 503.
    Lost,
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        if let Refusal::Invalid(errors) = refusal {
            Self::Invalid(errors)
        } else {
            Self::Refused(refusal)
        }
    }
}

impl From<FindError> for Problem {
    fn from(error: FindError) -> Self {
        let text = error.to_string();
        match error {
            FindError::Unknown(_) | FindError::UnknownPrefix(_) | FindError::OnlyPrefix { .. } => {
                Self::Refused(Refusal::NotFound(text))
            }
            FindError::StateUnknown(_) => Self::Refused(Refusal::Unavailable(text)),
            FindError::Ambiguous(_) => Self::Request(text),
            FindError::IdAndName { .. } => Self::Refused(Refusal::Conflict(text)),
        }
    }
}

impl Problem {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Request(_) => ProblemKind::InvalidRequest,
            Self::Unauthorized(_) => ProblemKind::Unauthorized,
            Self::Guessed(_) => ProblemKind::TooManyGuesses,
            Self::Misdirected(_) => ProblemKind::UnknownHost,
            Self::Page(_) => ProblemKind::BrowserRequest,
            Self::Role(_) => ProblemKind::RoleTooLow,
            Self::Scope(_) => ProblemKind::NameOutOfScope,
            Self::TooLarge => ProblemKind::BodyTooLarge,
            Self::Slow => ProblemKind::BodyTooSlow,
            Self::MediaType(_) | Self::ArchiveType(_) => ProblemKind::UnsupportedMediaType,
            Self::Expectation => ProblemKind::ExpectationFailed,
            Self::Invalid(_) | Self::Refused(Refusal::Invalid(_)) => ProblemKind::InvalidSpec,
            Self::Failed(..) => ProblemKind::ContainerFailed,
            Self::Timeout(_) => ProblemKind::WaitTimedOut,
            Self::Unfinished(Unfinished::TimedOut, ..) => ProblemKind::ExecTimedOut,
            Self::Unfinished(Unfinished::ContainerEnded, ..) => ProblemKind::ContainerEnded,
            Self::Unfinished(Unfinished::Lost, ..) => ProblemKind::ExecLost,
            Self::Busy(_) => ProblemKind::TooManyRequests,
            Self::Refused(Refusal::Conflict(_)) => ProblemKind::Conflict,
            Self::Refused(Refusal::Unconfirmed(..)) => ProblemKind::Unconfirmed,
            Self::Refused(Refusal::Unmatched(_)) => ProblemKind::ChangedMeanwhile,
            Self::Refused(Refusal::Denied(_)) => ProblemKind::PolicyDenied,
            Self::Refused(Refusal::NotFound(_)) => ProblemKind::NotFound,
            Self::Refused(Refusal::Reused(_)) => ProblemKind::IdempotencyKeyReused,
            Self::Refused(Refusal::Full(_)) => ProblemKind::NodeFull,
            Self::Refused(Refusal::Unavailable(_)) => ProblemKind::Unavailable,
        }
    }

    /// The word by which programs tell problems apart; it never changes its meaning.
    fn code(&self) -> &'static str {
        if let Self::Failed(reason, _) = self {
            return reason.as_str();
        }
        self.kind().code()
    }

    fn title(&self) -> &'static str {
        if let Self::Failed(reason, _) = self {
            return reason.meaning();
        }
        self.kind().title()
    }

    fn detail(&self) -> String {
        match self {
            Self::Guessed(wait) => format!("this address has sent too many wrong tokens; its next one is looked at in {} s", seconds(*wait)),
            Self::Misdirected(host) => format!("{host:?} is not a name of this node; call it by its address, or list the name in api.hosts"),
            Self::Page(header) => format!("the request bears {header:?}, as a browser sends it for a page; this API answers no pages"),
            Self::TooLarge => "the request body is larger than 1 MiB; send a smaller one".to_owned(),
            Self::Slow => "the request body did not come within 30s; send it at once".to_owned(),
            Self::MediaType(given) => format!("a request body with {given} is not read; send JSON in UTF-8, as \"Content-Type: application/json\""),
            Self::ArchiveType(given) => format!("a request body with {given} is not read; send a tar archive, as it is or compressed by zstd with \"Content-Encoding: zstd\""),
            Self::Expectation => "the request's Expect is not 100-continue, which is all that can be expected here; leave it out".to_owned(),
            Self::Invalid(errors) | Self::Refused(Refusal::Invalid(errors)) => {
                let fields = errors
                    .iter()
                    .map(|error| format!("{}: {}", error.field, error.message));
                fields.collect::<Vec<_>>().join("; ")
            }
            Self::Refused(Refusal::Denied(denials)) => policy::told(denials),
            Self::Request(detail)
            | Self::Unauthorized(detail)
            | Self::Role(detail)
            | Self::Scope(detail)
            | Self::Failed(_, detail)
            | Self::Timeout(detail)
            | Self::Unfinished(_, detail, _)
            | Self::Busy(detail)
            | Self::Refused(
                Refusal::Conflict(detail)
                | Refusal::Unconfirmed(_, detail)
                | Refusal::Unmatched(detail)
                | Refusal::NotFound(detail)
                | Refusal::Reused(detail)
                | Refusal::Full(detail)
                | Refusal::Unavailable(detail),
            ) => detail.clone(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.kind().status();
        let mut body = json!({"type": "about:blank", "title": self.title(), "status": status.as_u16(), "detail": self.detail(), "code": self.code()});
        match &self {
            Self::Invalid(errors) => body["errors"] = json!(errors),
            Self::Failed(reason, _) => body["reason"] = json!(reason),
            Self::Unfinished(_, _, Value::Object(printed)) => {
                for (name, value) in printed {
                    body[name] = value.clone();
                }
            }
            Self::Refused(Refusal::Unconfirmed(count, _)) => body["confirm"] = json!(count),
            Self::Refused(Refusal::Denied(denials)) => {
                body["rule"] = json!(denials.first().map(|denial| &denial.rule));
                body["errors"] = json!(denials);
            }
            Self::Request(_)
            | Self::Unauthorized(_)
            | Self::Guessed(_)
            | Self::Misdirected(_)
            | Self::Page(_)
            | Self::Role(_)
            | Self::Scope(_)
            | Self::TooLarge
            | Self::Slow
            | Self::MediaType(_)
            | Self::ArchiveType(_)
            | Self::Expectation
            | Self::Timeout(_)
            | Self::Unfinished(..)
            | Self::Busy(_)
            | Self::Refused(_) => {}
        }
        let mut response = problem(status, body);
        response.extensions_mut().insert(ProblemCode(self.code()));
        if status == StatusCode::TOO_MANY_REQUESTS {
            let wait = if let Self::Guessed(wait) = &self {
                seconds(*wait)
            } else {
                5
            };
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait));
        }
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110, 15.5.2: a 401 says how to authenticate.
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A wait in whole seconds, none of which is too few.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + 1
}

fn problem(status: StatusCode, mut body: Value) -> Response {
    // It may repeat what the caller wrote, or an image's or a registry's words.
    if let Some(Value::String(detail)) = body.get_mut("detail") {
        *detail = shown(detail, DETAIL_CHARS_MAX).into_owned();
    }
    (
        status,
        [(header::CONTENT_TYPE, "application/problem+json")],
        line(&body),
    )
        .into_response()
}

fn plain(kind: ProblemKind, detail: &str) -> Response {
    let status = kind.status();
    let mut response = problem(
        status,
        json!({"type": "about:blank", "title": kind.title(), "status": status.as_u16(), "code": kind.code(), "detail": detail}),
    );
    response.extensions_mut().insert(ProblemCode(kind.code()));
    response
}

pub(super) async fn no_such_path(uri: Uri) -> Response {
    plain(
        ProblemKind::NoSuchPath,
        &format!("no such path: {}", uri.path()),
    )
}

pub(super) async fn no_such_method(method: Method, uri: Uri) -> Response {
    plain(
        ProblemKind::NoSuchMethod,
        &format!("{} does not take {method}", uri.path()),
    )
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "the layer passes the panic by value"
)]
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> axum::http::Response<Body> {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(
        panic = text.unwrap_or("without a text"),
        "request handler panicked"
    );
    plain(
        ProblemKind::InternalError,
        "the agent failed unexpectedly; its log says more",
    )
}
