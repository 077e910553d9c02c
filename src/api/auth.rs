//! Authentication: callers bear the node's token.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq as _;

use super::error::Problem;
use crate::config::Secret;

pub(super) async fn check(
    State(token): State<Arc<Option<Secret>>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(token) = token.as_ref() else {
        return next.run(request).await;
    };
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let given = given
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    // A comparison that ends at the first difference tells, by its time, how much of a guess was
    // right.
    if given.is_some_and(|(_, given)| {
        given
            .trim()
            .as_bytes()
            .ct_eq(token.expose().as_bytes())
            .into()
    }) {
        next.run(request).await
    } else {
        Problem::Unauthorized.into_response()
    }
}
