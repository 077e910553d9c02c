//! The OpenAPI document of this API, as it is served; `openapi` makes it.

use axum::Extension;
use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};

use super::error::Problem;
use super::operations;
use super::query::{Parameters, RawQuery};

/// Text of the document.
#[derive(Clone, Debug)]
pub(super) struct ApiDocument(pub(super) Bytes);

pub(super) async fn document(
    Extension(ApiDocument(text)): Extension<ApiDocument>,
    query: RawQuery,
) -> Result<Response, Problem> {
    Parameters::of(query, &operations::DOCUMENT)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}
