//! The node's health, for people, CHaS and load balancers.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::error::Problem;
use super::query::{Parameters, RawQuery};
use super::{NodeApi, wire};
use crate::view::LinkView;

pub(super) async fn health<N: NodeApi>(
    State(node): State<Arc<N>>,
    query: RawQuery,
) -> Result<Json<Value>, Problem> {
    Parameters::of(query, &[])?;
    let health = node.health();
    let facts = &health.facts;
    let status = health.status();
    let interfaces: Vec<_> = facts
        .interfaces
        .iter()
        .map(|i| json!({"name": i.name, "up": i.up, "addresses": i.addresses}))
        .collect();
    let errors: Vec<_> = health
        .errors
        .iter()
        .map(|error| json!({"at": wire::time(error.at), "reason": error.reason, "message": error.message}))
        .collect();
    let body = json!({
        "status": status,
        "resources": {
            "cpu_usage": facts.cpu_usage_percent, "memory_usage": facts.memory_usage_percent,
            "disk_available": facts.disk_available(), "container_count": health.running,
            "memory_total_bytes": facts.memory_total_bytes, "memory_available_bytes": facts.memory_available_bytes,
            "disk_total_bytes": facts.disk_total_bytes, "disk_available_bytes": facts.disk_available_bytes,
        },
        "uptime": facts.uptime_seconds, "load_average": facts.load_average, "interfaces": interfaces, "unsettled": health.unsettled,
        "containerd": {"reachable": health.containerd, "since": wire::time(health.containerd_since), "error": health.containerd_error},
        "state": {"writable": health.writable, "rebuilding": health.rebuilding, "losses": health.losses},
        "errors": errors, "chas": health.link.as_ref().map(link),
    });
    Ok(Json(body))
}

fn link(link: &LinkView) -> Value {
    json!({
        "reachable": link.reachable, "since": wire::time(link.since), "error": link.error, "registered": link.registered,
        "identity_conflict": link.identity_conflict, "generation": link.generation, "containers": link.owned,
        "desired": {"stale": link.stale, "age_s": link.age_s, "fault": link.fault}, "cordoned": link.cordoned,
        "pending_prune": link.pending_prune, "conflicts": link.conflicts, "rejected": link.rejected,
    })
}

pub(super) async fn ready<N: NodeApi>(State(node): State<Arc<N>>) -> (StatusCode, &'static str) {
    let health = node.health();
    match (health.containerd, health.rebuilding) {
        (true, false) => (StatusCode::OK, "ready\n"),
        (true, true) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the stored state is being rebuilt\n",
        ),
        (false, _) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "containerd is unreachable\n",
        ),
    }
}

pub(super) async fn version() -> Json<Value> {
    Json(json!({
        "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION"), "api": {"desired_state": 1},
    }))
}
