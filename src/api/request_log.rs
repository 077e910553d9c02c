//! Layers around every request: its line in the log, and the refusal of what nobody keeps.

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::time::Instant;

use super::caller::{CALL, Caller};
use super::error::Problem;
use super::metrics;
use super::request_id::{mark, request_id};
use super::rights::CalledBy;
use crate::audit::AuditCall;
use crate::otlp::{Span, SpanFact, SpanOf};

/// Header with the trace of a caller.
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");

/// Refuses what a request expects, if that is anything but to be asked for its body: nobody would
/// keep the promise.
pub(super) async fn expectation(request: Request, next: Next) -> Response {
    let expected = request.headers().get(header::EXPECT);
    if expected.is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Problem::Expectation.into_response();
    }
    next.run(request).await
}

/// Span of a request, which tells nothing that a caller made up, but for the id that it gave it, and the
/// trace once it is let in: no path, no query, no other header.
fn span(request: &Request, id: &str) -> Span {
    let caller = || request.headers().get(TRACE_PARENT)?.to_str().ok();
    let mut span = Span::follow(SpanOf::Request, caller);
    let route = || request.extensions().get::<MatchedPath>();
    span.text(SpanFact::Method, || {
        metrics::method(request.method()).to_owned()
    });
    span.text(SpanFact::Route, || {
        route().map_or("none", MatchedPath::as_str).to_owned()
    });
    span.text(SpanFact::RequestId, || id.to_owned());
    span
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
    let id = request_id(request.headers());
    let mut span = span(&request, &id);
    let call = AuditCall {
        // Whoever comes so far as to change anything was looked at, and is named by then.
        by: "nobody".to_owned(),
        peer: peer.map(|peer| peer.to_string()),
        call: Some(format!("{method} {path}")),
        request: Some(id.clone()),
    };
    let mut response = CALL.scope(call, span.around(next.run(request))).await;
    mark(&mut response, &id);
    let (status, ms) = (response.status().as_u16(), began.elapsed().as_millis());
    span.number(SpanFact::Status, status.into());
    if status >= 500 {
        span.fail(response.status().as_str());
    }
    let peer = peer.map(tracing::field::display);
    let by = response.extensions().get::<CalledBy>();
    let by = by.map(|CalledBy(by)| tracing::field::display(by));
    if matches!(method, Method::GET | Method::HEAD | Method::OPTIONS) {
        tracing::debug!(target: "chas_node_agent::api", %method, path, status, ms, peer, by, request_id = id, "request");
    } else {
        tracing::info!(target: "chas_node_agent::api", %method, path, status, ms, peer, by, request_id = id, "request");
    }
    response
}
