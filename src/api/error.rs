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

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, title, detail) = match &self {
            Self::Request(detail) => (StatusCode::BAD_REQUEST, "the request is wrong", detail.clone()),
            Self::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                "credentials are needed",
                "send the node's token as \"Authorization: Bearer …\"".to_owned(),
            ),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large", "a body is 1 MiB at most".to_owned()),
            Self::Invalid(faults) => {
                let fields: Vec<_> = faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect();
                (StatusCode::UNPROCESSABLE_ENTITY, "the container's specification is not valid", fields.join("; "))
            }
            Self::Failed(reason, detail) => (StatusCode::UNPROCESSABLE_ENTITY, reason.meaning(), detail.clone()),
            Self::Timeout(detail) => (StatusCode::GATEWAY_TIMEOUT, "time is up; the work goes on", detail.clone()),
            Self::Busy(detail) => (StatusCode::TOO_MANY_REQUESTS, "too many do this at once", detail.clone()),
            Self::Refused(Refusal::Conflict(detail)) => (StatusCode::CONFLICT, "it contradicts what is there", detail.clone()),
            Self::Refused(Refusal::NotFound(detail)) => (StatusCode::NOT_FOUND, "there is no such container", detail.clone()),
            // As the IETF's draft-ietf-httpapi-idempotency-key-header has it.
            Self::Refused(Refusal::Reused(detail)) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "the Idempotency-Key was used already", detail.clone())
            }
            Self::Refused(Refusal::Full(detail)) => {
                (StatusCode::INSUFFICIENT_STORAGE, "the node has no room for it", detail.clone())
            }
            Self::Refused(Refusal::Unavailable(detail)) => {
                (StatusCode::SERVICE_UNAVAILABLE, "it cannot be taken now", detail.clone())
            }
            Self::Refused(Refusal::Invalid(_)) => (StatusCode::UNPROCESSABLE_ENTITY, "it is not valid", String::new()),
        };
        let mut body = json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail});
        match &self {
            Self::Invalid(faults) => body["errors"] = json!(faults),
            Self::Failed(reason, _) => body["reason"] = json!(reason),
            Self::Request(_) | Self::Unauthorized | Self::TooLarge | Self::Timeout(_) | Self::Busy(_) | Self::Refused(_) => {}
        }
        let mut response = problem(status, &body);
        if status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110, 15.5.2: a 401 says how to authenticate.
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

fn problem(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

fn plain(status: StatusCode, detail: &str) -> Response {
    problem(
        status,
        &json!({"type": "about:blank", "title": status.canonical_reason(), "status": status.as_u16(), "detail": detail}),
    )
}

pub(super) async fn no_such_path(uri: Uri) -> Response {
    std::future::ready(plain(StatusCode::NOT_FOUND, &format!("there is nothing at {}", uri.path()))).await
}

pub(super) async fn no_such_method(method: Method, uri: Uri) -> Response {
    std::future::ready(plain(StatusCode::METHOD_NOT_ALLOWED, &format!("{} does not take {method}", uri.path()))).await
}

#[allow(clippy::needless_pass_by_value, reason = "the layer calls it so")]
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> axum::http::Response<Body> {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("without a text"), "a request failed by a fault of the agent");
    plain(StatusCode::INTERNAL_SERVER_ERROR, "a fault of the agent; its log says more")
}

/// A line for each request: changes at info, looks at debug.
pub(super) async fn access_log(request: Request, next: Next) -> Response {
    let (method, path, began) = (request.method().clone(), request.uri().path().to_owned(), Instant::now());
    let response = next.run(request).await;
    let (status, ms) = (response.status().as_u16(), began.elapsed().as_millis());
    if method == Method::GET {
        tracing::debug!(target: "chas_node_agent::api", %method, path, status, ms, "request");
    } else {
        tracing::info!(target: "chas_node_agent::api", %method, path, status, ms, "request");
    }
    response
}
