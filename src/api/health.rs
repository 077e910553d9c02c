//! The node's health, for people, CHaS and load balancers.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use state::alarm::Alarm;

use super::access::Access;
use super::answer::Json;
use super::error::Problem;
use super::query::{Parameters, RawQuery};
use super::{NodeApi, maintenance, operations, wire};
use crate::view::{AlarmView, ConfinementView, HealthView, LinkView, UnsettledView};

pub(super) async fn health<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    query: RawQuery,
) -> Result<Json, Problem> {
    Parameters::of(query, &operations::HEALTH)?;
    let mut health = node.health();
    if !access.has_all() {
        narrow(&mut health, &access);
    }
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
        .map(|error| {
            json!({"at": wire::time(error.at), "reason": error.code, "message": error.message,
                "count": error.count, "first_at": wire::time(error.first_at)})
        })
        .collect();
    let alarms: Vec<_> = health.alarms.iter().map(alarm).collect();
    let worst = health.worst.iter().take(WORST_MAX);
    let worst: Vec<_> = worst.map(unsettled).collect();
    let silent: Vec<_> = health
        .silent
        .iter()
        .map(|silent| json!({"container": silent.container, "message": silent.message}))
        .collect();
    let body = json!({
        "status": status,
        "resources": {
            "cpu_usage": facts.cpu_usage_percent, "memory_usage": facts.memory_usage_percent,
            "disk_available": facts.disk_available(), "container_count": health.running,
            "memory_total_bytes": facts.memory_total_bytes, "memory_available_bytes": facts.memory_available_bytes,
            "disk_total_bytes": facts.disk_total_bytes, "disk_available_bytes": facts.disk_available_bytes,
            "disk_inodes_total": facts.disk_inodes_total, "disk_inodes_available": facts.disk_inodes_available,
        },
        "uptime": facts.uptime_seconds, "load_average": facts.load_average, "interfaces": interfaces,
        "unsettled": health.unsettled, "unsettled_containers": worst, "alarms": alarms,
        "containerd": {"reachable": health.containerd, "since": wire::time(health.containerd_since), "error": health.containerd_error},
        "state": {"known": health.known, "writable": health.writable, "rebuilding": health.rebuilding, "losses": health.losses},
        "confinement": confinement(&health.confinement), "logs": {"silent": silent}, "errors": errors, "cordon": maintenance::shown(&health.cordon, &access), "chas": health.link.as_ref().map(link),
    });
    Ok(Json(body))
}

/// Containers that are named as the worst ones, of those that the caller may see.
const WORST_MAX: usize = 5;

/// Leaves out what is about containers that the caller has nothing to do with, or may be.
fn narrow(health: &mut HealthView, access: &Access) {
    health
        .worst
        .retain(|container| access.names.has(&container.name));
    health.silent.retain(|silent| {
        let name = silent.container.parse();
        name.is_ok_and(|name| access.names.has(&name))
    });
    health.errors.clear();
    for alarm in &mut health.alarms {
        alarm.message.clear();
    }
    health.losses.clear();
    health.containerd_error = None;
    if let Some(link) = &mut health.link {
        (link.error, link.fault, link.refused) = (None, None, None);
        link.pending_prune.retain(|name| {
            let name = name.parse();
            name.is_ok_and(|name| access.names.has(&name))
        });
    }
}

fn confinement(view: &ConfinementView) -> Value {
    let layers = view.layers.iter().map(|layer| {
        let shown = json!({"in_force": layer.in_force, "detail": layer.detail});
        (layer.name.to_owned(), shown)
    });
    let mut shown: Map<String, Value> = layers.collect();
    shown.insert(
        "capabilities".to_owned(),
        json!({"granted": view.granted, "withheld": view.withheld}),
    );
    Value::Object(shown)
}

fn alarm(standing: &AlarmView) -> Value {
    let alarm = standing.alarm;
    json!({
        "name": alarm, "since": wire::time(standing.since), "message": standing.message,
        "meaning": alarm.meaning(), "remedy": alarm.remedy(),
        "health": alarm.weight().health().as_str(),
    })
}

fn unsettled(container: &UnsettledView) -> Value {
    let condition = &container.condition;
    json!({
        "name": container.name, "status": condition.status, "reason": condition.reason,
        "message": condition.message, "since": wire::time(container.since),
    })
}

fn link(link: &LinkView) -> Value {
    let refused = link.refused.as_ref();
    let refused =
        refused.map(|(epoch, generation)| json!({"epoch": epoch, "generation": generation}));
    json!({
        "reachable": link.reachable, "since": wire::time(link.since), "error": link.error,
        "silent_s": link.silent_for.map(|silent| silent.as_secs()), "registered": link.registered,
        "identity_conflict": link.identity_conflict, "generation": link.generation, "containers": link.owned,
        "desired": {"stale": link.stale, "age_s": link.age_s, "fault": link.fault}, "cordoned": link.cordoned,
        "pending_prune": link.pending_prune, "conflicts": link.conflicts, "rejected": link.rejected,
        "refused": refused,
    })
}

pub(super) async fn ready<N: NodeApi>(State(node): State<Arc<N>>) -> (StatusCode, &'static str) {
    let health = node.health();
    if !health.known {
        let text = "the stored state cannot be opened now\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text);
    }
    match (health.containerd, health.rebuilding) {
        (true, false) => (StatusCode::OK, "ready\n"),
        (true, true) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the stored state is being rebuilt\n",
        ),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, without_containerd(&health)),
    }
}

/// The text for a node that has no answer of containerd. Until the network stands, none is asked for.
pub(super) fn without_containerd(health: &HealthView) -> &'static str {
    let mut alarms = health.alarms.iter();
    let is_network = alarms.any(|standing| standing.alarm == Alarm::NetworkNotReady);
    match (health.containerd_asked, is_network) {
        (true, _) => "containerd is unreachable\n",
        (false, true) => "the network for containers cannot be set up\n",
        (false, false) => "containerd is not asked yet\n",
    }
}

pub(super) async fn version() -> Json {
    Json(json!({
        "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION"), "api": {"desired_state": 1},
    }))
}
