//! Names in the path and bodies of requests, and answers in JSON.

use axum::body::Bytes;
use axum::extract::{FromRequest as _, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;

use super::problem::Problem;
use super::sets::DEFAULT;

/// Longest registration or report. A report of a thousand containers takes about half of it.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;
/// Longest set: agents read as much, with the members around it.
pub(super) const SET_BYTES_MAX: usize = 4_000_000;
/// Longest name. A file is named after it, and a file name has at most 255 bytes.
const NAME_BYTES_MAX: usize = 240;

/// A node's name in the path, unchecked: a name of no node is just not found.
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
        match name_error(&name) {
            Some(error) if name != DEFAULT => Err(Problem::field_error("node_id", error)),
            _ => Ok(Self(name)),
        }
    }
}

/// The reason why no node can have this name.
pub(super) fn name_error(name: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !begins || name.len() > NAME_BYTES_MAX || !name.chars().all(fits) {
        let how = format!(
            "must be 1 to {NAME_BYTES_MAX} letters, digits, '.', '-' and '_', beginning with a letter or digit"
        );
        return Some(how);
    }
    // `/nodes/register` is the path of a call.
    (name == "register").then(|| "must not be \"register\"".to_owned())
}

/// The body of a request, as bytes and as JSON. `bytes_max` is the limit of the route.
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

/// An answer with a body in JSON.
pub(super) fn answer(body: impl Into<Bytes>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}
