//! Failures as RFC 9457 problems. The only place that names a status code of a failure.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use state::spec::parse::FieldError;

/// A failure, as it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The request itself is wrong: 400.
    Request(String),
    /// No token, or one that nobody has: 401.
    Unauthorized,
    /// Somebody else's token: 403.
    Forbidden(String),
    /// No such node is registered, and it should register: 404.
    NodeUnknown(String),
    /// Nobody wrote a set that this node is to have: 404.
    NoSet(String),
    /// There is nothing at this path: 404.
    NoSuchPath(String),
    /// What is at this path does not take this method: 405.
    NoSuchMethod,
    /// Another node has this name: 409.
    IdentityConflict(String),
    /// The set is kept in a file, and changed there: 409.
    SetInFile(String),
    /// It is not as the caller believes (`If-Match`, `If-None-Match`, `generation`): 412.
    Precondition(String),
    /// The body is larger than so many bytes: 413.
    TooLarge(usize),
    /// The body is not valid: 422, with every fault.
    Invalid(Vec<FieldError>),
    /// The change could not be written to the disk: 503. It did not happen.
    NotStored(String),
    /// There are as many as there may be: 507.
    Full(String),
}

impl Problem {
    /// One fault of a body.
    pub(super) fn fault(field: &str, message: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError {
            field: field.to_owned(),
            message: message.into(),
        }])
    }

    /// The status, the code that programs go by, and the title.
    const fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Request(_) => (
                StatusCode::BAD_REQUEST,
                "bad_request",
                "the request is wrong",
            ),
            Self::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "credentials are needed",
            ),
            Self::Forbidden(_) => (
                StatusCode::FORBIDDEN,
                "forbidden",
                "these credentials are for something else",
            ),
            Self::NodeUnknown(_) => (
                StatusCode::NOT_FOUND,
                "node_unknown",
                "there is no such node",
            ),
            Self::NoSet(_) => (
                StatusCode::NOT_FOUND,
                "no_set",
                "there is no set for this node",
            ),
            Self::NoSuchPath(_) => (StatusCode::NOT_FOUND, "not_found", "there is nothing here"),
            Self::NoSuchMethod => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this is not done here",
            ),
            Self::IdentityConflict(_) => (
                StatusCode::CONFLICT,
                "identity_conflict",
                "another node has this name",
            ),
            Self::SetInFile(_) => (
                StatusCode::CONFLICT,
                "set_in_file",
                "the set is kept in a file",
            ),
            Self::Precondition(_) => (
                StatusCode::PRECONDITION_FAILED,
                "precondition_failed",
                "it is not as you believe",
            ),
            Self::TooLarge(_) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                "the body is too large",
            ),
            Self::Invalid(_) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid",
                "the body is not valid",
            ),
            Self::NotStored(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "not_stored",
                "the change cannot be stored",
            ),
            Self::Full(_) => (
                StatusCode::INSUFFICIENT_STORAGE,
                "full",
                "there are as many as there may be",
            ),
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Request(detail)
            | Self::Forbidden(detail)
            | Self::NodeUnknown(detail)
            | Self::NoSet(detail)
            | Self::NoSuchPath(detail)
            | Self::IdentityConflict(detail)
            | Self::SetInFile(detail)
            | Self::Precondition(detail)
            | Self::NotStored(detail)
            | Self::Full(detail) => detail.clone(),
            Self::Unauthorized => "send a valid token as \"Authorization: Bearer …\"".to_owned(),
            Self::NoSuchMethod => "openapi.json lists what there is".to_owned(),
            Self::TooLarge(bytes_max) => format!("a body is {bytes_max} bytes at most"),
            Self::Invalid(faults) => {
                let faults: Vec<_> = faults
                    .iter()
                    .map(|fault| format!("{}: {}", fault.field, fault.message))
                    .collect();
                faults.join("; ")
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, code, title) = self.kind();
        let mut body = json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": self.detail(), "code": code});
        if let Self::Invalid(faults) = &self {
            body["errors"] = json!(faults);
        }
        let mut response = (
            status,
            [(header::CONTENT_TYPE, "application/problem+json")],
            body.to_string(),
        )
            .into_response();
        let told = match status {
            // RFC 9110, 15.5.2: a 401 says how to authenticate.
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
            StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, "5")),
            _ => None,
        };
        if let Some((name, value)) = told {
            response
                .headers_mut()
                .insert(name, header::HeaderValue::from_static(value));
        }
        response
    }
}
