//! Calls of operators: the nodes and their sets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};

use super::Server;
use super::body::{NodeId, SET_BYTES_MAX, SetName, answer, json as read_json};
use super::changes::{ChangeReply, none_for};
use super::etag::EtagCondition;
use super::nodes::{self, KnownNode};
use super::problem::Problem;
use super::sets::{ContainerSet, SetChange};

/// Refuses callers that are not operators.
pub(super) async fn check(
    State(server): State<Arc<Server>>,
    request: Request,
    next: Next,
) -> Response {
    let allowed = server.doors.operating(request.headers(), &server.nodes());
    match allowed {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

pub(super) async fn list(State(server): State<Arc<Server>>) -> Response {
    let nodes = server.nodes().all();
    let wanted: BTreeMap<_, _> = {
        let wanted = server.wanted();
        let generation = |node: &KnownNode| {
            wanted
                .wish(&node.registration.node_id)
                .map(|wish| wish.generation)
        };
        nodes
            .iter()
            .map(|node| (node.registration.node_id.clone(), generation(node)))
            .collect()
    };
    let line = |node: &KnownNode| {
        line(
            &server,
            node,
            wanted.get(&node.registration.node_id).copied().flatten(),
        )
    };
    let lines: Vec<Value> = nodes.iter().map(line).collect();
    std::future::ready(answer(json!({"nodes": lines}).to_string())).await
}

pub(super) async fn get(
    State(server): State<Arc<Server>>,
    NodeId(id): NodeId,
) -> Result<Response, Problem> {
    let node = server
        .nodes()
        .get(&id)
        .cloned()
        .ok_or_else(|| nodes::unknown(&id))?;
    let wanted = server.wanted().wish(&id).map(|wish| wish.generation);
    let mut shown = line(&server, &node, wanted);
    shown["registration"] = json!(*node.registration);
    let report = node
        .report
        .and_then(|report| serde_json::from_slice::<Map<String, Value>>(&report.sent).ok());
    shown["report"] = json!(report.map(|mut report| {
        report.extend(node.heartbeat.iter().flat_map(|heartbeat| heartbeat.told()));
        report
    }));
    std::future::ready(Ok(answer(shown.to_string()))).await
}

pub(super) async fn delete(
    State(server): State<Arc<Server>>,
    NodeId(id): NodeId,
) -> Result<StatusCode, Problem> {
    server.nodes_mut().delete(&id)?;
    server.unsaved.store(true, Ordering::Relaxed);
    // A poll of the node that is kept open ends.
    server.wake.send_modify(|_| ());
    std::future::ready(Ok(StatusCode::NO_CONTENT)).await
}

/// A node as operators see it. `wanted` is the generation of its set.
fn line(server: &Server, node: &KnownNode, wanted: Option<u64>) -> Value {
    let registration = &node.registration;
    let address = registration
        .ip_address
        .as_ref()
        .map(|ip| match ip.contains(':') {
            true => format!("[{ip}]:{}", registration.port),
            false => format!("{ip}:{}", registration.port),
        });
    let report = node.report.as_ref().map(|report| &report.summary);
    let observed = report.and_then(|report| report.observed_generation);
    let is_of_wanted = wanted.is_none_or(|wanted| node.has(server.disk.epoch(), wanted));
    json!({
        "id": registration.node_id, "hostname": registration.hostname, "address": address,
        "last_heard": humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(node.heard_ms)).to_string(),
        "online": server.now_ms().saturating_sub(node.heard_ms) <= server.silence_ms(),
        "status": report.map(|report| &report.status),
        "containers": report.map_or(0, |report| report.containers.len()),
        "generation": {
            "wanted": wanted, "observed": observed, "applied": report.and_then(|report| report.applied_generation),
        },
        "converged": report.is_some_and(|report| report.converged) && is_of_wanted,
        "pending_prune": report.and_then(|report| report.pending_prune.as_ref()),
        "conflicts": report.map_or(0, |report| report.conflicts.len()),
        "rejected": report.map_or(0, |report| report.rejected.len()),
    })
}

pub(super) async fn set(
    State(server): State<Arc<Server>>,
    SetName(name): SetName,
) -> Result<Response, Problem> {
    let set = server
        .wanted()
        .entry(&name)
        .set
        .ok_or_else(|| none_for(&name))?;
    std::future::ready(Ok(tagged(answer(set.document()), &set))).await
}

pub(super) async fn put_set(
    State(server): State<Arc<Server>>,
    SetName(name): SetName,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let force = match query.as_deref() {
        None | Some("" | "force=false") => false,
        Some("force=true") => true,
        Some(_) => {
            return Err(Problem::field_error(
                "force",
                "must be true or false, and the only parameter",
            ));
        }
    };
    let (_, body) = read_json(request, SET_BYTES_MAX).await?;
    // Checking a large set would keep this thread from other tasks.
    let read = tokio::task::spawn_blocking(move || ContainerSet::of(&body, force)).await;
    let set = Arc::new(
        read.map_err(|error| Problem::NotStored(error.to_string()))?
            .map_err(Problem::Invalid)?,
    );
    let changed = server
        .change(
            &name,
            SetChange::Put(Arc::clone(&set)),
            EtagCondition::of(&headers),
        )
        .await?;
    Ok(tagged(shown(changed), &set))
}

pub(super) async fn delete_set(
    State(server): State<Arc<Server>>,
    SetName(name): SetName,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Ok(shown(
        server
            .change(&name, SetChange::Delete, EtagCondition::of(&headers))
            .await?,
    ))
}

pub(super) async fn confirm(
    State(server): State<Arc<Server>>,
    SetName(name): SetName,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let asked = query
        .as_deref()
        .and_then(|query| query.strip_prefix("generation=")?.parse().ok());
    let how = "is required, as the only parameter: the generation to confirm, as in pending_prune";
    let generation = asked.ok_or_else(|| Problem::field_error("generation", how))?;
    Ok(shown(
        server
            .change(
                &name,
                SetChange::Confirm(generation),
                EtagCondition::default(),
            )
            .await?,
    ))
}

fn shown(changed: ChangeReply) -> Response {
    answer(json!({"generation": changed.generation, "changed": changed.is_changed}).to_string())
}

fn tagged(mut response: Response, set: &ContainerSet) -> Response {
    let tag = HeaderValue::from_str(&set.tag()).expect("a tag is hex digits in quotes");
    response.headers_mut().insert(header::ETAG, tag);
    response
}
