//! Level of the agent's own log: shown, and changed for a while.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::json;
use state::log_level::order;

use super::access::Access;
use super::answer::Json;
use super::error::Problem;
use super::query::{Parameters, RawQuery};
use super::{NodeApi, body, operations, wire};
use crate::config;
use crate::log_level::LogLevelView;

pub(super) async fn get<N: NodeApi>(
    State(node): State<Arc<N>>,
    query: RawQuery,
) -> Result<Json, Problem> {
    Parameters::of(query, &operations::LOG_LEVEL)?;
    Ok(shown(&node.log_level()))
}

/// Puts another level in force for a while; it is back by itself, whatever becomes of the caller.
pub(super) async fn put<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    query: RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Json, Problem> {
    Parameters::of(query, &operations::PUT_LOG_LEVEL)?;
    if !access.has_all() {
        return Err(Problem::Scope(format!(
            "the log is about all containers, and {} has to do with those named {} only",
            access.by, access.names
        )));
    }
    let order = body::read(&access, &headers, body, |body| {
        order(&body, config::read_log_level).map_err(Problem::Invalid)
    })
    .await?;
    Ok(shown(&node.set_log_level(order).await?))
}

fn shown(level: &LogLevelView) -> Json {
    Json(json!({
        "level": level.level, "configured": level.configured,
        "until": level.until.map(wire::time),
    }))
}
