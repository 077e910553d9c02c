//! Counters of requests, in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::Server;

/// Method, route and status of a request.
type RequestKey = (String, Option<String>, u16);

/// Number of requests of each kind.
#[derive(Debug, Default)]
pub(super) struct RequestCounts(Mutex<BTreeMap<RequestKey, u64>>);

/// Counts a request once it is answered. Routes are patterns, so that there are only as many as in
/// the document.
pub(super) async fn count(
    State(server): State<Arc<Server>>,
    request: Request,
    next: Next,
) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned());
    let method = request.method().to_string();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    // Callers can invent methods; all that are not allowed count as one.
    let method = if route.is_none() || status == 405 {
        String::new()
    } else {
        method
    };
    let key = (method, route, status);
    *server
        .counts
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(key)
        .or_default() += 1;
    response
}

pub(super) async fn metrics(State(server): State<Arc<Server>>) -> Response {
    let mut text = String::from("# TYPE chas_api_requests_total counter\n");
    for ((method, route, status), count) in server
        .counts
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
    {
        let route = route.as_deref().unwrap_or_default();
        let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
        let _ = writeln!(text, "chas_api_requests_total{{{labels}}} {count}");
    }
    let gauges = [
        ("polls_held", server.waiting_polls.load(Ordering::Relaxed)),
        ("nodes", server.nodes().len()),
    ];
    for (name, value) in gauges {
        let _ = writeln!(
            text,
            "# TYPE chas_api_{name} gauge\nchas_api_{name} {value}"
        );
    }
    std::future::ready(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()).await
}
