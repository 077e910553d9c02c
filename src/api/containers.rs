//! Deploying, listing, changing and removing containers, and waiting for what comes of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use state::desired::answer::{Answer, Outcome};
use state::id::ContainerId;
use state::status::Status;

use super::error::Problem;
use super::once::{self, fingerprint};
use super::outcome::Awaited;
use super::query::{Named, Parameters, RawQuery};
use super::{Change, Deployed, Node, Once, Refusal, View, wire};

pub(super) async fn deploy<N: Node>(
    State(node): State<Arc<N>>,
    query: RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(query, &["wait", "timeout", "dry_run"])?;
    let (dry_run, timeout) = (parameters.flag("dry_run")?, parameters.timeout()?);
    let wait = wait_for(&parameters, "running")?;
    let key = once::key(&headers)?;
    let body = wire::body(body)?;
    let deploy = state::spec::parse::deploy(&body).map_err(Problem::Invalid)?;
    let deployed = match key.filter(|_| !dry_run) {
        None => node.deploy(deploy, dry_run).await?,
        Some(key) => match node
            .deploy_once(deploy, key, fingerprint("POST /containers/deploy", &body))
            .await?
        {
            Once::Now(deployed) => deployed,
            Once::Before(answer) => return replay(&*node, &answer, wait.then_some(timeout)).await,
        },
    };
    if dry_run {
        let plan: Vec<_> = deployed.plan.iter().map(wire::action).collect();
        let container = wire::whole(&deployed.view);
        let answer = json!({"dry_run": true, "changed": deployed.changed, "container": container, "plan": plan});
        return Ok(Json(answer).into_response());
    }
    if wait {
        return Ok(Json(awaited(&*node, &deployed, timeout).await?).into_response());
    }
    let status = if deployed.changed {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(wire::whole(&deployed.view))).into_response())
}

/// Waits for what comes of a deploy.
async fn awaited<N: Node>(
    node: &N,
    deployed: &Deployed,
    timeout: Duration,
) -> Result<Value, Problem> {
    let deadline = SystemTime::now() + timeout;
    let Some(awaited) = Awaited::after(deployed, deadline) else {
        return Ok(wire::whole(&deployed.view));
    };
    let id = own(&deployed.view)?;
    let view = until(node, timeout, || {
        node.container(id)
            .map_or(Some(Err(gone(id))), |view| awaited.outcome(view))
    })
    .await??;
    Ok(wire::whole(&view))
}

/// The answer to a deploy that was taken before. Whoever waited then may wait again, if it is still there.
async fn replay<N: Node>(
    node: &N,
    answer: &Answer,
    wait: Option<Duration>,
) -> Result<Response, Problem> {
    let Outcome::Container { id, generation, .. } = answer.outcome else {
        return Ok(once::replayed(answer));
    };
    let is_there = |view: &View| {
        view.record
            .as_ref()
            .is_some_and(|r| r.generation == generation && !r.removing)
    };
    let (Some(timeout), Some(view)) = (wait, node.container(id).filter(is_there)) else {
        return Ok(once::replayed(answer));
    };
    let mut shown = awaited(
        node,
        &Deployed {
            view,
            changed: false,
            plan: Vec::new(),
        },
        timeout,
    )
    .await?;
    shown["replayed"] = json!(true);
    Ok(Json(shown).into_response())
}

pub(super) async fn list<N: Node>(
    State(node): State<Arc<N>>,
    query: RawQuery,
) -> Result<Json<Value>, Problem> {
    let parameters = Parameters::of(query, &["status", "label", "owner"])?;
    parameters.word("status", &Status::ALL.map(Status::as_str))?;
    parameters.word("owner", &["push", "chas", "unmanaged"])?;
    let fits = |shown: &Value| {
        let is = |key: &str| {
            parameters
                .text(key)
                .is_none_or(|wanted| shown[key] == wanted)
        };
        let label = parameters
            .text("label")
            .is_none_or(|wanted| match wanted.split_once('=') {
                Some((key, value)) => shown["labels"][key] == value,
                None => shown["labels"].get(wanted).is_some(),
            });
        is("status") && is("owner") && label
    };
    let shown: Vec<_> = node
        .containers()
        .iter()
        .map(wire::short)
        .filter(fits)
        .collect();
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
    let found = find(&*node, &name)?;
    let Ok(id) = own(&found) else {
        return Ok(Json(wire::whole(&found)));
    };
    if wait {
        let is_applied = || {
            node.container(id)
                .is_none_or(|view| applied(&view, generation))
        };
        until(&*node, timeout, || is_applied().then_some(())).await?;
    }
    let view = node.container(id).ok_or_else(|| gone(id))?;
    Ok(Json(wire::whole(&view)))
}

/// The generation (`None`: the newest) is what there is. For one that is to be stopped that means that nothing runs, for one
/// that ended and stays so, that it did.
fn applied(view: &View, generation: Option<u64>) -> bool {
    let Some(record) = &view.record else {
        return false;
    };
    let wanted = generation.unwrap_or(record.generation);
    let ended = record.finished.is_some()
        && matches!(view.condition.status, Status::Stopped | Status::Failed);
    let stopped =
        (ended || view.condition.status == Status::Stopped) && record.generation >= wanted;
    stopped
        || view
            .applied_generation
            .is_some_and(|applied| applied >= wanted)
}

pub(super) async fn remove<N: Node>(
    State(node): State<Arc<N>>,
    Named(name): Named,
    query: RawQuery,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(query, &["wait", "timeout"])?;
    let (wait, timeout) = (wait_for(&parameters, "removed")?, parameters.timeout()?);
    let id = find_own(&*node, &name)?;
    node.change(id, Change::Remove).await?;
    if !wait {
        return Ok((
            StatusCode::ACCEPTED,
            Json(json!({"id": id, "status": "removing"})),
        )
            .into_response());
    }
    until(&*node, timeout, || {
        node.container(id).is_none().then_some(())
    })
    .await?;
    Ok(Json(json!({"id": id, "status": "removed"})).into_response())
}

pub(super) async fn stop<N: Node>(
    State(node): State<Arc<N>>,
    Named(name): Named,
    query: RawQuery,
) -> Result<Response, Problem> {
    change(&*node, &name, query, Change::Stop).await
}

pub(super) async fn start<N: Node>(
    State(node): State<Arc<N>>,
    Named(name): Named,
    query: RawQuery,
) -> Result<Response, Problem> {
    change(&*node, &name, query, Change::Start).await
}

pub(super) async fn restart<N: Node>(
    State(node): State<Arc<N>>,
    Named(name): Named,
    query: RawQuery,
) -> Result<Response, Problem> {
    change(&*node, &name, query, Change::Restart).await
}

async fn change<N: Node>(
    node: &N,
    name: &str,
    query: RawQuery,
    change: Change,
) -> Result<Response, Problem> {
    Parameters::of(query, &[])?;
    let id = find_own(node, name)?;
    node.change(id, change).await?;
    let view = node.container(id).ok_or_else(|| gone(id))?;
    Ok((StatusCode::ACCEPTED, Json(wire::whole(&view))).into_response())
}

/// The container that a path names: by id, by name, or by the beginning of an id that only one has. An id comes before a
/// name, so that nobody can take another container's calls by naming his own so.
fn find<N: Node>(node: &N, name: &str) -> Result<View, Problem> {
    let views = node.containers();
    let is_id = |view: &&View| view.id() == name;
    let is_name = |view: &&View| {
        view.record
            .as_ref()
            .is_some_and(|record| record.name.as_str() == name)
    };
    if let Some(view) = views
        .iter()
        .find(is_id)
        .or_else(|| views.iter().find(is_name))
    {
        return Ok(view.clone());
    }
    let mut fitting = views
        .iter()
        .filter(|view| !name.is_empty() && view.id().starts_with(name));
    match (fitting.next(), fitting.next()) {
        (Some(view), None) => Ok(view.clone()),
        (Some(_), Some(_)) => Err(Problem::Request(format!("several ids begin with {name}"))),
        (None, _) => Err(Problem::Refused(Refusal::NotFound(format!(
            "no container is named {name}, or has an id that begins so"
        )))),
    }
}

/// The same, where it must be ours.
pub(super) fn find_own<N: Node>(node: &N, name: &str) -> Result<ContainerId, Problem> {
    own(&find(node, name)?)
}

fn own(view: &View) -> Result<ContainerId, Problem> {
    let foreign = || format!("{} is not the agent's, which only shows it", view.id());
    view.record
        .as_ref()
        .map(|record| record.id)
        .ok_or_else(|| Problem::Refused(Refusal::Conflict(foreign())))
}

pub(super) fn gone(id: ContainerId) -> Problem {
    Problem::Refused(Refusal::NotFound(format!("{id} has been removed")))
}

fn wait_for(parameters: &Parameters, what: &str) -> Result<bool, Problem> {
    match parameters.text("wait") {
        None => Ok(false),
        Some(wanted) if wanted == what => Ok(true),
        Some(other) => Err(Problem::Request(format!(
            "wait={other}: here, only wait={what} can be waited for"
        ))),
    }
}

/// Looks whenever something changed, until `look` is content or time is up.
async fn until<N: Node, T>(
    node: &N,
    timeout: Duration,
    look: impl Fn() -> Option<T>,
) -> Result<T, Problem> {
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
        Ok(None) => Err(Problem::Refused(Refusal::Unavailable(
            "the agent is stopping".to_owned(),
        ))),
        Err(_) => Err(Problem::Timeout(format!(
            "not within {}",
            humantime::format_duration(timeout)
        ))),
    }
}
