//! Capacity of the node as JSON: CPU time in cores, memory in bytes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use state::quantity::CpuMillis;

use super::NodeApi;
use super::error::Problem;
use super::query::{Parameters, RawQuery};

pub(super) async fn get<N: NodeApi>(
    State(node): State<Arc<N>>,
    query: RawQuery,
) -> Result<Json<Value>, Problem> {
    Parameters::of(query, &[])?;
    let view = node.capacity();
    let (total, system) = (view.capacity.total, view.capacity.system);
    let (reserved, free) = (view.reserved, view.capacity.free(view.reserved));
    let (most, present) = view.containers;
    Ok(Json(json!({
        "cpu": {
            "total": cores(total.cpu), "system": cores(system.cpu), "reserved": cores(reserved.cpu),
            "free": cores(free.cpu), "used": view.used_cpu,
        },
        "memory": {
            "total": total.memory, "system": system.memory, "reserved": reserved.memory,
            "free": free.memory, "used": view.used_memory,
        },
        "containers": {"total": most, "reserved": present, "free": most.saturating_sub(present)},
    })))
}

fn cores(amount: CpuMillis) -> f64 {
    amount.0 as f64 / 1000.0
}
