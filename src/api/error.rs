//! Failures as RFC 9457 problems. The only place that names a status code of a failure.

use std::any::Any;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use state::reason::Reason;
use state::spec::parse::FieldError;
use tokio::time::Instant;

use super::Refusal;

/// A failure, as it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The request itself is wrong: 400.
    Request(String),
    /// No credentials, or wrong ones: 401.
    Unauthorized,
    /// The body is too large: 413.
    TooLarge,
    /// The body is not valid: 422.
    Invalid(Vec<FieldError>),
    /// The container failed while the caller waited: 422.
    Failed(Reason, String),
    /// Time is up while the caller waited; the work goes on: 504.
    Timeout(String),
    /// As many do this already as may: 429.
    Busy(String),
    /// The agent did not take it.
    Refused(Refusal),
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(faults) => Self::Invalid(faults),
            other @ (Refusal::Conflict(_)
            | Refusal::NotFound(_)
            | Refusal::Reused(_)
            | Refusal::Full(_)
            | Refusal::Unavailable(_)) => Self::Refused(other),
        }
    }
}

impl Problem {
    fn status(&self) -> StatusCode {
        match self {
            Self::Request(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            // As the IETF's draft-ietf-httpapi-idempotency-key-header has it.
            Self::Refused(Refusal::Reused(_) | Refusal::Invalid(_))
            | Self::Invalid(_)
            | Self::Failed(..) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Refused(Refusal::Conflict(_)) => StatusCode::CONFLICT,
            Self::Refused(Refusal::NotFound(_)) => StatusCode::NOT_FOUND,
            Self::Refused(Refusal::Full(_)) => StatusCode::INSUFFICIENT_STORAGE,
            Self::Refused(Refusal::Unavailable(_)) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn title(&self) -> &'static str {
        match self {
            Self::Request(_) => "the request is wrong",
            Self::Unauthorized => "credentials are needed",
            Self::TooLarge => "the body is too large",
            Self::Invalid(_) => "the container's specification is not valid",
            Self::Failed(reason, _) => reason.meaning(),
            Self::Timeout(_) => "time is up; the work goes on",
            Self::Busy(_) => "too many do this at once",
            Self::Refused(Refusal::Conflict(_)) => "it contradicts what is there",
            Self::Refused(Refusal::NotFound(_)) => "there is no such container",
            Self::Refused(Refusal::Reused(_)) => "the Idempotency-Key was used already",
            Self::Refused(Refusal::Full(_)) => "the node has no room for it",
            Self::Refused(Refusal::Unavailable(_)) => "it cannot be taken now",
            Self::Refused(Refusal::Invalid(_)) => "it is not valid",
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Unauthorized => "send the node's token as \"Authorization: Bearer …\"".to_owned(),
            Self::TooLarge => "a body is 1 MiB at most".to_owned(),
            Self::Invalid(faults) => {
                let fields = faults
                    .iter()
                    .map(|fault| format!("{}: {}", fault.field, fault.message));
                fields.collect::<Vec<_>>().join("; ")
            }
            Self::Refused(Refusal::Invalid(_)) => String::new(),
            Self::Request(detail)
            | Self::Failed(_, detail)
            | Self::Timeout(detail)
            | Self::Busy(detail)
            | Self::Refused(
                Refusal::Conflict(detail)
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
        let status = self.status();
        let mut body = json!({"type": "about:blank", "title": self.title(), "status": status.as_u16(), "detail": self.detail()});
        match &self {
            Self::Invalid(faults) => body["errors"] = json!(faults),
            Self::Failed(reason, _) => body["reason"] = json!(reason),
            Self::Request(_)
            | Self::Unauthorized
            | Self::TooLarge
            | Self::Timeout(_)
            | Self::Busy(_)
            | Self::Refused(_) => {}
        }
        let mut response = problem(status, &body);
        if status == StatusCode::TOO_MANY_REQUESTS {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
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

fn problem(status: StatusCode, body: &Value) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/problem+json")],
        body.to_string(),
    )
        .into_response()
}

fn plain(status: StatusCode, detail: &str) -> Response {
    problem(
        status,
        &json!({"type": "about:blank", "title": status.canonical_reason(), "status": status.as_u16(), "detail": detail}),
    )
}

pub(super) async fn no_such_path(uri: Uri) -> Response {
    std::future::ready(plain(
        StatusCode::NOT_FOUND,
        &format!("there is nothing at {}", uri.path()),
    ))
    .await
}

pub(super) async fn no_such_method(method: Method, uri: Uri) -> Response {
    std::future::ready(plain(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("{} does not take {method}", uri.path()),
    ))
    .await
}

#[allow(clippy::needless_pass_by_value, reason = "the layer calls it so")]
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> axum::http::Response<Body> {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(
        panic = text.unwrap_or("without a text"),
        "a request failed by a fault of the agent"
    );
    plain(
        StatusCode::INTERNAL_SERVER_ERROR,
        "a fault of the agent; its log says more",
    )
}

/// A line for each request: changes at info, looks at debug.
pub(super) async fn access_log(request: Request, next: Next) -> Response {
    let (method, path, began) = (
        request.method().clone(),
        request.uri().path().to_owned(),
        Instant::now(),
    );
    let response = next.run(request).await;
    let (status, ms) = (response.status().as_u16(), began.elapsed().as_millis());
    if method == Method::GET {
        tracing::debug!(target: "chas_node_agent::api", %method, path, status, ms, "request");
    } else {
        tracing::info!(target: "chas_node_agent::api", %method, path, status, ms, "request");
    }
    response
}
