//! Capacity of the node as JSON: CPU time in cores, memory in bytes.

use std::sync::Arc;

use axum::extract::State;
use serde_json::json;
use state::capacity::CapacityReport;

use super::answer::Json;
use super::error::Problem;
use super::query::{Parameters, RawQuery};
use super::{NodeApi, operations};

pub(super) async fn get<N: NodeApi>(
    State(node): State<Arc<N>>,
    query: RawQuery,
) -> Result<Json, Problem> {
    Parameters::of(query, &operations::CAPACITY)?;
    let view = node.capacity();
    let report = CapacityReport::of(view.capacity, view.reserved);
    let mut shown = json!(report);
    shown["cpu"]["used"] = json!(view.used_cpu);
    shown["memory"]["used"] = json!(view.used_memory);
    let (most, present) = view.containers;
    shown["containers"] =
        json!({"total": most, "reserved": present, "free": most.saturating_sub(present)});
    Ok(Json(shown))
}
