//! Counts requests, and shows what is counted.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use state::status::Status;
use tokio::time::Instant;

use super::Node;
use super::error::Problem;
use super::query::{Parameters, RawQuery};
use crate::metrics::{CONTENT_TYPE, Metrics};

/// From history, like every look: a scrape never waits for containerd.
pub(super) async fn metrics<N: Node>(
    State(node): State<Arc<N>>,
    Extension(metrics): Extension<Metrics>,
    query: RawQuery,
) -> Result<Response, Problem> {
    Parameters::of(query, &[])?;
    let views = node.containers();
    for status in Status::ALL {
        let of_status = views
            .iter()
            .filter(|view| view.record.is_some() && view.condition.status == status);
        metrics.containers(status.as_str(), of_status.count());
    }
    let health = node.health();
    metrics.containerd(health.containerd);
    metrics.store(health.writable, health.losses.len());
    let link = health.link.as_ref();
    let held = link.map_or(0, |link| link.pending_prune.len());
    metrics.link(
        link.is_some_and(|link| link.reachable),
        held,
        link.is_some_and(|link| link.cordoned),
    );
    Ok(
        std::future::ready(
            ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.text()).into_response(),
        )
        .await,
    )
}

pub(super) async fn count(
    State(metrics): State<Metrics>,
    request: Request,
    next: Next,
) -> Response {
    let (method, began) = (method(request.method()), Instant::now());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    metrics.request(
        method,
        route.as_ref().map_or("none", MatchedPath::as_str),
        response.status().as_u16(),
        began.elapsed(),
    );
    response
}

/// A caller may make up methods; each would be a series of its own.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        _ => "other",
    }
}
