//! Errors as RFC 9457 problems. No other file names the status code of an error.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use state::spec::parse::FieldError;

/// An error, as it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// Malformed request: 400.
    Request(String),
    /// Missing or unknown token: 401.
    Unauthorized,
    /// Token of another node or role: 403.
    Forbidden(String),
    /// Node that is not registered, and should register: 404.
    NodeUnknown(String),
    /// Node without a set: 404.
    NoSet(String),
    /// Unknown path: 404.
    NoSuchPath(String),
    /// Method that the path does not allow: 405.
    NoSuchMethod,
    /// Node id that another node uses: 409.
    IdentityConflict(String),
    /// Set that comes from a file, and is changed there: 409.
    SetInFile(String),
    /// Condition that does not hold (`If-Match`, `If-None-Match`, `generation`): 412.
    Precondition(String),
    /// Body larger than this many bytes: 413.
    TooLarge(usize),
    /// Invalid body: 422, with every error.
    Invalid(Vec<FieldError>),
    /// Change that could not be written to the disk, and is not made: 503.
    NotStored(String),
    /// Limit that is reached: 507.
    Full(String),
}

impl Problem {
    /// The problem of a body with one invalid field.
    pub(super) fn field_error(field: &str, message: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError {
            field: field.to_owned(),
            message: message.into(),
        }])
    }

    /// The status, the code for programs, and the title.
    const fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Request(_) => (StatusCode::BAD_REQUEST, "bad_request", "malformed request"),
            Self::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "authentication required",
            ),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden", "permission denied"),
            Self::NodeUnknown(_) => (StatusCode::NOT_FOUND, "node_unknown", "node not registered"),
            Self::NoSet(_) => (StatusCode::NOT_FOUND, "no_set", "no set for this node"),
            Self::NoSuchPath(_) => (StatusCode::NOT_FOUND, "not_found", "unknown path"),
            Self::NoSuchMethod => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "method not allowed",
            ),
            Self::IdentityConflict(_) => (
                StatusCode::CONFLICT,
                "identity_conflict",
                "node id in use by another node",
            ),
            Self::SetInFile(_) => (StatusCode::CONFLICT, "set_in_file", "set comes from a file"),
            Self::Precondition(_) => (
                StatusCode::PRECONDITION_FAILED,
                "precondition_failed",
                "precondition failed",
            ),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", "body too large"),
            Self::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid", "invalid body"),
            Self::NotStored(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "not_stored",
                "change not stored",
            ),
            Self::Full(_) => (StatusCode::INSUFFICIENT_STORAGE, "full", "limit reached"),
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
            Self::NoSuchMethod => "openapi.json lists the methods of each path".to_owned(),
            Self::TooLarge(bytes_max) => {
                format!("a body has at most {bytes_max} bytes: send a shorter one")
            }
            Self::Invalid(errors) => {
                let errors: Vec<_> = errors
                    .iter()
                    .map(|error| format!("{}: {}", error.field, error.message))
                    .collect();
                errors.join("; ")
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, code, title) = self.kind();
        let mut body = json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": self.detail(), "code": code});
        if let Self::Invalid(errors) = &self {
            body["errors"] = json!(errors);
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
