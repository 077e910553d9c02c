//! Cordon and drain of the node by an operator.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use serde_json::{Value, json};
use state::cordon::NodeOrder;

use super::access::Access;
use super::answer::Json;
use super::error::Problem;
use super::operation::Operation;
use super::query::{Parameters, RawQuery};
use super::{NodeApi, Refusal, operations, wire};
use crate::view::{CordonView, LeftView};

/// Containers that are named where a drain is not over in time.
const NAMED_MAX: usize = 20;
/// Detail where somebody ends a drain that is waited for.
const LIFTED: &str = "the drain was lifted meanwhile, and the node is not drained; \
                      POST /node/drain drains it again";

/// The node's cordon and drain, as the API needs them.
pub(crate) trait NodeMaintenance: Send + Sync + 'static {
    /// Carries out an order about the node. Durable when it answers.
    fn order_node(&self, order: NodeOrder) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// The cordon, and what still runs of a node that is drained.
    fn cordon(&self) -> CordonView;
}

pub(super) async fn cordon<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    query: RawQuery,
) -> Result<Json, Problem> {
    order(
        &*node,
        &access,
        query,
        (NodeOrder::Cordon, &operations::CORDON),
    )
    .await
}

pub(super) async fn uncordon<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    query: RawQuery,
) -> Result<Json, Problem> {
    order(
        &*node,
        &access,
        query,
        (NodeOrder::Uncordon, &operations::UNCORDON),
    )
    .await
}

/// Drains the node. A caller may wait until nothing runs any more that is stopped for it.
pub(super) async fn drain<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    query: RawQuery,
) -> Result<Json, Problem> {
    order(
        &*node,
        &access,
        query,
        (NodeOrder::Drain, &operations::DRAIN),
    )
    .await
}

async fn order<N: NodeApi>(
    node: &N,
    access: &Access,
    query: RawQuery,
    (order, operation): (NodeOrder, &'static Operation),
) -> Result<Json, Problem> {
    let parameters = Parameters::of(query, operation)?;
    let wait = parameters.word("wait")?.is_some();
    let timeout = match order {
        NodeOrder::Drain => parameters.timeout()?,
        NodeOrder::Cordon | NodeOrder::Uncordon => Duration::ZERO,
    };
    if !access.has_all() {
        return Err(Problem::Scope(format!(
            "the node is about all containers, and {} has to do with those named {} only",
            access.by, access.names
        )));
    }
    // Before the order: what it changes is not to be missed.
    let mut changes = node.changes();
    node.order_node(order).await?;
    if wait {
        let drained = async {
            loop {
                changes.borrow_and_update();
                let view = node.cordon();
                if view.is_drained() {
                    return Ok(view);
                }
                let operator = view.operator.as_ref();
                if operator.is_none_or(|operator| operator.drained_ms.is_none()) {
                    return Err(Problem::Refused(Refusal::Conflict(LIFTED.to_owned())));
                }
                if changes.changed().await.is_err() {
                    let stops = Refusal::Unavailable("the agent is stopping".to_owned());
                    return Err(Problem::Refused(stops));
                }
            }
        };
        return match tokio::time::timeout(timeout, drained).await {
            Ok(view) => Ok(Json(shown(&view?, access))),
            Err(_) => Err(not_yet(&node.cordon(), timeout)),
        };
    }
    Ok(Json(shown(&node.cordon(), access)))
}

fn not_yet(view: &CordonView, timeout: Duration) -> Problem {
    let timeout = humantime::format_duration(timeout);
    let moving: Vec<_> = view.left.iter().filter(|left| !left.stays).collect();
    let named = moving.iter().take(NAMED_MAX);
    let named: Vec<_> = named
        .map(|left| format!("{} ({})", left.name, left.why))
        .collect();
    let more = match moving.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        count => format!("; and {count} more"),
    };
    let running = match moving.is_empty() {
        true => String::new(),
        false => format!("; still running: {}{more}", named.join("; ")),
    };
    let unsure = view.unsure.as_ref();
    let unsure = unsure.map(|why| format!("; it is not known what runs: {why}"));
    let unsure = unsure.unwrap_or_default();
    Problem::Timeout(format!(
        "the node is not drained after {timeout}, and goes on{running}{unsure}"
    ))
}

/// The cordon, with those that the caller has to do with of what still runs.
pub(super) fn shown(view: &CordonView, access: &Access) -> Value {
    let time = |ms: u64| wire::time(SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
    let operator = view.operator.as_ref().map(|operator| {
        json!({
            "by": operator.by, "since": time(operator.at_ms),
            "drained_since": operator.drained_ms.map(time),
        })
    });
    let is_seen = |left: &&LeftView| match &left.managed {
        Some(name) => access.names.has(name),
        None => access.has_all(),
    };
    let left = view.left.iter().filter(is_seen);
    let left: Vec<_> = left
        .map(|left| json!({"name": left.name, "why": left.why, "stays": left.stays}))
        .collect();
    json!({
        "cordoned": view.by.any(), "chas": view.by.chas, "operator": operator,
        "drained": view.is_drained(), "left": left,
        "unsure": view.unsure,
    })
}
