//! Layers around every request: its line in the log, and the refusal of what nobody keeps.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::time::Instant;

use super::caller::{CALL, Caller};
use super::error::Problem;
use super::rights::CalledBy;
use crate::audit::AuditCall;

/// Header of an answer with the id of its request, by which the audit names it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Refuses what a request expects, if that is anything but to be asked for its body: nobody would
/// keep the promise.
pub(super) async fn expectation(request: Request, next: Next) -> Response {
    let expected = request.headers().get(header::EXPECT);
    if expected.is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Problem::Expectation.into_response();
    }
    next.run(request).await
}

/// Logs each request: changes at info, reads at debug.
pub(super) async fn access_log(request: Request, next: Next) -> Response {
    let (method, path, began) = (
        request.method().clone(),
        request.uri().path().to_owned(),
        Instant::now(),
    );
    let peer = request.extensions().get::<Caller>();
    let peer = peer.map(|caller| caller.peer);
    let id = format!("{:016x}", state::store::random());
    let call = AuditCall {
        // Whoever comes so far as to change anything was looked at, and is named by then.
        by: "nobody".to_owned(),
        peer: peer.map(|peer| peer.to_string()),
        call: Some(format!("{method} {path}")),
        request: Some(id.clone()),
    };
    let mut response = CALL.scope(call, next.run(request)).await;
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let (status, ms) = (response.status().as_u16(), began.elapsed().as_millis());
    let peer = peer.map(tracing::field::display);
    let by = response.extensions().get::<CalledBy>();
    let by = by.map(|CalledBy(by)| tracing::field::display(by));
    if matches!(method, Method::GET | Method::HEAD | Method::OPTIONS) {
        tracing::debug!(target: "chas_node_agent::api", %method, path, status, ms, peer, by, "request");
    } else {
        tracing::info!(target: "chas_node_agent::api", %method, path, status, ms, peer, by, "request");
    }
    response
}
