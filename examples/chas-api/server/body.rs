//! What comes in: names in the path, bodies; and the answers that are JSON.

use axum::body::Bytes;
use axum::extract::{FromRequest as _, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;

use super::problem::Problem;
use super::sets::DEFAULT;

/// A registration or report. A report of a thousand containers is about half of it.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;
/// A set: what agents read at most, but for the fields around it.
pub(super) const SET_BYTES_MAX: usize = 4_000_000;
/// A file is named after it, and with an ending it has 255 bytes at most.
const NAME_BYTES_MAX: usize = 240;

/// A node's name in the path, as it is: what names no node is just not found.
#[derive(Debug)]
pub(super) struct NodeId(pub(super) String);

/// The name of a set in the path: a node's, or [`DEFAULT`].
#[derive(Debug)]
pub(super) struct SetName(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for NodeId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(id)| Self(id))
            .map_err(|error| Problem::Request(error.body_text()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for SetName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let NodeId(name) = NodeId::from_request_parts(parts, state).await?;
        match name_fault(&name) {
            Some(fault) if name != DEFAULT => Err(Problem::fault("node_id", fault)),
            _ => Ok(Self(name)),
        }
    }
}

/// Why no node can be called so.
pub(super) fn name_fault(name: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !begins || name.len() > NAME_BYTES_MAX || !name.chars().all(fits) {
        let how = format!(
            "must be 1 to {NAME_BYTES_MAX} letters, digits, '.', '-' and '_', beginning with a letter or digit"
        );
        return Some(how);
    }
    // Its path is that of a call.
    (name == "register").then(|| "must not be \"register\"".to_owned())
}

/// The body of a request, as it is and as JSON. The route's limit is `bytes_max`.
pub(super) async fn json(request: Request, bytes_max: usize) -> Result<(Bytes, Value), Problem> {
    let sent = Bytes::from_request(request, &())
        .await
        .map_err(|error| match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::TooLarge(bytes_max),
            _ => Problem::Request(error.body_text()),
        })?;
    let body = serde_json::from_slice(&sent)
        .map_err(|error| Problem::Request(format!("the body is not JSON: {error}")))?;
    Ok((sent, body))
}

/// A body that is JSON already.
pub(super) fn answer(body: impl Into<Bytes>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}
