//! Deploying, listing, changing and removing containers, and waiting for what comes of it.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use state::id::ContainerId;
use state::status::Status;

use super::error::Problem;
use super::query::{Named, Parameters, RawQuery};
use super::{Change, Node, Refusal, View, wire};

pub(super) async fn deploy<N: Node>(
    State(node): State<Arc<N>>,
    query: RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(query, &["wait", "timeout", "dry_run"])?;
    let (dry_run, timeout) = (parameters.flag("dry_run")?, parameters.timeout()?);
    let wait = wait_for(&parameters, "running")?;
    let body = body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::TooLarge,
        _ => Problem::Request(error.body_text()),
    })?;
    let body: Value =
        serde_json::from_slice(&body).map_err(|error| Problem::Request(format!("the body is not JSON: {error}")))?;
    let deploy = state::spec::parse::deploy(&body).map_err(Problem::Invalid)?;
    let deployed = node.deploy(deploy, dry_run).await?;
    if dry_run {
        let answer = json!({"dry_run": true, "changed": deployed.changed, "container": wire::whole(&deployed.view)});
        return Ok(Json(answer).into_response());
    }
    let Some(record) = deployed.view.record.as_ref().filter(|_| wait) else {
        let status = if deployed.changed { StatusCode::ACCEPTED } else { StatusCode::OK };
        return Ok((status, Json(wire::whole(&deployed.view))).into_response());
    };
    let (id, generation) = (record.id, record.generation);
    let view =
        until(&*node, timeout, || node.container(id).map_or(Some(Err(gone(id))), |view| outcome(view, generation))).await??;
    Ok(Json(wire::whole(&view)).into_response())
}

/// What came of a deploy that is waited for; `None`: not decided yet.
fn outcome(view: View, generation: u64) -> Option<Result<View, Problem>> {
    let condition = &view.condition;
    let newest = view.record.as_ref().map_or(generation, |record| record.generation);
    if newest > generation {
        let why = format!("generation {newest} took the place of {generation} before it ran");
        return Some(Err(Problem::Refused(Refusal::Conflict(why))));
    }
    match condition.status {
        Status::Running if view.applied_generation == Some(generation) => Some(Ok(view)),
        Status::Stopped => Some(Ok(view)),
        Status::Failed | Status::Restarting => {
            let reason = condition.reason?;
            Some(Err(Problem::Failed(reason, condition.message.clone().unwrap_or_default())))
        }
        Status::Removing => Some(Err(Problem::Refused(Refusal::Conflict("it is being removed".to_owned())))),
        Status::Pending | Status::Pulling | Status::Creating | Status::Running | Status::Stopping => None,
    }
}

pub(super) async fn list<N: Node>(State(node): State<Arc<N>>, query: RawQuery) -> Result<Json<Value>, Problem> {
    let parameters = Parameters::of(query, &["status", "label", "owner"])?;
    parameters.word("status", &Status::ALL.map(Status::word))?;
    parameters.word("owner", &["push", "chas", "unmanaged"])?;
    let fits = |shown: &Value| {
        let is = |key: &str| parameters.text(key).is_none_or(|wanted| shown[key] == wanted);
        let label = parameters.text("label").is_none_or(|wanted| match wanted.split_once('=') {
            Some((key, value)) => shown["labels"][key] == value,
            None => shown["labels"].get(wanted).is_some(),
        });
        is("status") && is("owner") && label
    };
    let shown: Vec<_> = node.containers().iter().map(wire::short).filter(fits).collect();
    std::future::ready(Ok(Json(json!({"containers": shown})))).await
}

pub(super) async fn get<N: Node>(
    State(node): State<Arc<N>>,
    Named(name): Named,
    query: RawQuery,
) -> Result<Json<Value>, Problem> {
    let parameters = Parameters::of(query, &["wait", "generation", "timeout"])?;
    let (wait, timeout) = (wait_for(&parameters, "applied")?, parameters.timeout()?);
    let generation: Option<u64> = parameters.parsed("generation", "a number")?;
    let id = find(&*node, &name)?;
    if wait {
        let is_applied = || node.container(id).is_none_or(|view| applied(&view, generation));
        until(&*node, timeout, || is_applied().then_some(())).await?;
    }
    let view = node.container(id).ok_or_else(|| gone(id))?;
    Ok(Json(wire::whole(&view)))
}

/// The generation (`None`: the newest) is what there is. For one that is to be stopped that means that nothing runs.
fn applied(view: &View, generation: Option<u64>) -> bool {
    let Some(newest) = view.record.as_ref().map(|record| record.generation) else { return false };
    let wanted = generation.unwrap_or(newest);
    let stopped = view.condition.status == Status::Stopped && newest >= wanted;
    stopped || view.applied_generation.is_some_and(|applied| applied >= wanted)
}

pub(super) async fn remove<N: Node>(
    State(node): State<Arc<N>>,
    Named(name): Named,
    query: RawQuery,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(query, &["wait", "timeout"])?;
    let (wait, timeout) = (wait_for(&parameters, "removed")?, parameters.timeout()?);
    let id = find(&*node, &name)?;
    node.change(id, Change::Remove).await?;
    if !wait {
        return Ok((StatusCode::ACCEPTED, Json(json!({"id": id, "status": "removing"}))).into_response());
    }
    until(&*node, timeout, || node.container(id).is_none().then_some(())).await?;
    Ok(Json(json!({"id": id, "status": "removed"})).into_response())
}

pub(super) async fn stop<N: Node>(State(node): State<Arc<N>>, Named(name): Named, query: RawQuery) -> Result<Response, Problem> {
    change(&*node, &name, query, Change::Stop).await
}

pub(super) async fn start<N: Node>(State(node): State<Arc<N>>, Named(name): Named, query: RawQuery) -> Result<Response, Problem> {
    change(&*node, &name, query, Change::Start).await
}

pub(super) async fn restart<N: Node>(
    State(node): State<Arc<N>>,
    Named(name): Named,
    query: RawQuery,
) -> Result<Response, Problem> {
    change(&*node, &name, query, Change::Restart).await
}

async fn change<N: Node>(node: &N, name: &str, query: RawQuery, change: Change) -> Result<Response, Problem> {
    Parameters::of(query, &[])?;
    let id = find(node, name)?;
    node.change(id, change).await?;
    let view = node.container(id).ok_or_else(|| gone(id))?;
    Ok((StatusCode::ACCEPTED, Json(wire::whole(&view))).into_response())
}

/// The container that a path names: by name, by id, or by the beginning of an id that only one has.
pub(super) fn find<N: Node>(node: &N, name: &str) -> Result<ContainerId, Problem> {
    let records: Vec<_> = node.containers().into_iter().filter_map(|view| view.record).collect();
    if let Some(record) = records.iter().find(|record| record.name.as_str() == name) {
        return Ok(record.id);
    }
    let mut fitting = records.iter().filter(|record| !name.is_empty() && record.id.to_string().starts_with(name));
    match (fitting.next(), fitting.next()) {
        (Some(record), None) => Ok(record.id),
        (Some(_), Some(_)) => Err(Problem::Request(format!("several ids begin with {name}"))),
        (None, _) => {
            Err(Problem::Refused(Refusal::NotFound(format!("no container is named {name}, or has an id that begins so"))))
        }
    }
}

fn gone(id: ContainerId) -> Problem {
    Problem::Refused(Refusal::NotFound(format!("{id} has been removed")))
}

fn wait_for(parameters: &Parameters, what: &str) -> Result<bool, Problem> {
    match parameters.text("wait") {
        None => Ok(false),
        Some(wanted) if wanted == what => Ok(true),
        Some(other) => Err(Problem::Request(format!("wait={other}: here, only wait={what} can be waited for"))),
    }
}

/// Looks whenever something changed, until `look` is content or time is up.
async fn until<N: Node, T>(node: &N, timeout: Duration, look: impl Fn() -> Option<T>) -> Result<T, Problem> {
    let mut changes = node.changes();
    let waiting = async {
        loop {
            // Marked as seen before the look, so that no change falls between the two.
            changes.borrow_and_update();
            if let Some(found) = look() {
                return Some(found);
            }
            changes.changed().await.ok()?;
        }
    };
    match tokio::time::timeout(timeout, waiting).await {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(Problem::Refused(Refusal::Unavailable("the agent is stopping".to_owned()))),
        Err(_) => Err(Problem::Timeout(format!("not within {}", humantime::format_duration(timeout)))),
    }
}
