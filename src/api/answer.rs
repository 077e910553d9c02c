//! JSON as it is answered: on one line, which has its end, so that whoever reads it in a terminal or
//! appends it to a file of lines needs to add none.

use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::wire;
use crate::view::ManagedView;

/// Answer that is JSON.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Json(pub(super) Value);

impl IntoResponse for Json {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], line(&self.0)).into_response()
    }
}

/// The line of a value.
pub(super) fn line(value: &Value) -> Bytes {
    format!("{value}\n").into()
}

/// Answer that shows a container, in this body, with its `ETag`: of what is asked for, which nothing but a
/// change changes.
pub(super) fn tagged(status: StatusCode, view: &ManagedView, body: Value) -> Response {
    let tag = [(header::ETAG, format!("\"{}\"", view.record.etag()))];
    (status, tag, Json(body)).into_response()
}

/// Answer that shows a container.
pub(super) fn container(status: StatusCode, view: &ManagedView) -> Response {
    tagged(status, view, wire::full(view))
}
