//! JSON as it is answered: on one line, which has its end, so that whoever reads it in a terminal or
//! appends it to a file of lines needs to add none.

use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

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
