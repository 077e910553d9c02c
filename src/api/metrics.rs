//! Counts requests, and shows the metrics.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use state::reason::Reason;
use state::status::Status;
use tokio::time::Instant;

use super::NodeApi;
use super::error::Problem;
use super::query::{Parameters, RawQuery};
use crate::metrics::{CONTENT_TYPE, Metrics};
use crate::view::{ContainerView, ManagedView};

/// The metrics, from memory: a scrape never waits for containerd.
pub(super) async fn metrics<N: NodeApi>(
    State(node): State<Arc<N>>,
    Extension(metrics): Extension<Metrics>,
    query: RawQuery,
) -> Result<Response, Problem> {
    Parameters::of(query, &[])?;
    let views = node.containers();
    let managed = || views.iter().filter_map(ContainerView::managed);
    for status in Status::ALL {
        let of_status = managed().filter(|view| view.condition.status == status);
        metrics.containers(status.as_str(), of_status.count());
    }
    metrics.show_ready(managed().filter(|view| view.is_ready()).count());
    metrics.show_jobs(managed().filter_map(|view| {
        let job = view.record.job.as_ref()?;
        Some((view.record.name.as_str(), job.last_success_ms))
    }));
    let capacity = node.capacity();
    metrics.show_capacity(capacity.capacity, capacity.reserved);
    let health = node.health();
    metrics.containerd(health.containerd);
    metrics.store(health.writable, health.losses.len());
    let link = health.link.as_ref();
    metrics.link(
        link.is_some_and(|link| link.reachable),
        link.map_or(0, |link| link.pending_prune.len()),
        link.is_some_and(|link| link.cordoned),
    );
    let is_suspended = |view: &&ManagedView| view.condition.reason == Some(Reason::Disconnected);
    let silent_for = link.and_then(|link| link.silent_for).unwrap_or_default();
    metrics.show_contact(silent_for, managed().filter(is_suspended).count());
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.text()).into_response())
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

/// The method as a label: callers may invent methods, and each would be a series of its own.
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
