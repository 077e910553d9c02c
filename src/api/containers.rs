//! Deploying, listing, changing and removing containers, and waiting for the outcome.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use state::desired::answer::{Answer, Outcome};
use state::desired::{Record, RunState};
use state::id::ContainerId;
use state::ownership::Order;
use state::store::Idempotent;

use super::access::Access;
use super::answer::Json;
use super::body;
use super::error::Problem;
use super::idempotency::{self, fingerprint};
use super::operation::Operation;
use super::outcome::{Awaited, is_applied};
use super::push_set::{expected, expected_of_deploy};
use super::query::{Named, Parameters, RawQuery};
use super::{NodeApi, Refusal, answer, operations, wire};
use crate::view::{ContainerView, DeployedView, ManagedView, Naming};

pub(super) async fn deploy<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    query: RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(query, &operations::DEPLOY)?;
    let (dry_run, timeout) = (parameters.flag("dry_run")?, parameters.timeout()?);
    let wait = wait_for_one(&parameters)?;
    let expected = expected_of_deploy(&headers)?;
    let key = idempotency::key(&access, &headers)?;
    let key = key.filter(|_| !dry_run);
    let made = body::read(&access, &headers, body, move |body| {
        let deploy = state::spec::parse::deploy(&body).map_err(Problem::Invalid)?;
        let keyed = key.map(|key| (key, fingerprint("POST /containers/deploy", &body)));
        Ok((deploy, keyed))
    });
    let (deploy, keyed) = made.await?;
    access.may_deploy(&deploy)?;
    access.may_probe(&*node, &deploy)?;
    let deployed = match keyed {
        None => node.deploy(expected, deploy, dry_run).await?,
        Some((key, fingerprint)) => {
            let keyed = node.keyed(key, fingerprint);
            match node.deploy_once(expected, deploy, keyed).await? {
                Idempotent::Now(deployed) => deployed,
                Idempotent::Before(answer) => {
                    let wait = wait.map(|word| (word == "ready", timeout));
                    return replay(&*node, &answer, wait).await;
                }
            }
        }
    };
    if dry_run {
        return Ok(Json(wire::dry_run(&deployed)).into_response());
    }
    if let Some(word) = wait {
        let wait = (word == "ready", timeout);
        let view = awaited(&*node, &deployed, wait).await?;
        return Ok(answer::container(StatusCode::OK, &view));
    }
    let status = if deployed.changed {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    Ok(answer::container(status, &deployed.container))
}

/// Waits for the outcome of a deploy or an order, or until the container is ready, too.
pub(super) async fn awaited<N: NodeApi>(
    node: &N,
    deployed: &DeployedView,
    (to_be_ready, timeout): (bool, Duration),
) -> Result<ManagedView, Problem> {
    let awaited = Awaited::after(deployed, to_be_ready, SystemTime::now() + timeout);
    let id = deployed.container.record.id;
    until(node, id, timeout, awaited.status(), |view| match view {
        Some(view) => awaited.outcome(view),
        None => Some(Err(gone(id))),
    })
    .await?
}

/// The answer to a deploy that was accepted before. Its caller may wait again, if the container
/// still exists.
pub(super) async fn replay<N: NodeApi>(
    node: &N,
    answer: &Answer,
    wait: Option<(bool, Duration)>,
) -> Result<Response, Problem> {
    let Outcome::Container { id, generation, .. } = answer.outcome else {
        return Ok(idempotency::replayed(answer));
    };
    let is_there =
        |view: &ManagedView| view.record.generation == generation && !view.record.removing;
    let (Some(wait), Some(container)) = (wait, node.container(id).filter(is_there)) else {
        return Ok(idempotency::replayed(answer));
    };
    let deployed = DeployedView {
        container,
        changed: false,
        plan: Vec::new(),
    };
    let view = awaited(node, &deployed, wait).await?;
    let mut shown = wire::full(&view);
    shown["replayed"] = json!(true);
    Ok(answer::tagged(StatusCode::OK, &view, shown))
}

pub(super) async fn get<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(query, &operations::GET)?;
    let reveals = access.reveals(&parameters)?;
    let (wait, timeout) = (wait_for(&parameters)?, parameters.timeout()?);
    let generation: Option<u64> = parameters.parsed("generation", "a number")?;
    let found = access.find(&*node, &name, Naming::Loose)?;
    let ContainerView::Managed(found) = found else {
        return Ok(Json(wire::short(&found)).into_response());
    };
    let shown = |view: &ManagedView| {
        let body = match reveals {
            true => wire::revealed(view, &node.opened(&view.record)),
            false => wire::full(view),
        };
        answer::tagged(StatusCode::OK, view, body)
    };
    if reveals {
        node.note_reveal(Some(found.record.name.clone())).await?;
    }
    if !wait {
        return Ok(shown(&found));
    }
    let id = found.record.id;
    let applied = |view: Option<ManagedView>| match view {
        Some(view) if !is_applied(&view, generation) => None,
        other => Some(other),
    };
    let view = until(&*node, id, timeout, "applied", applied).await?;
    Ok(shown(&view.ok_or_else(|| gone(id))?))
}

pub(super) async fn remove<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(query, &operations::REMOVE)?;
    let (wait, timeout) = (wait_for(&parameters)?, parameters.timeout()?);
    let id = find_managed(&*node, &access, &name, Naming::Exact)?;
    node.order(id, Order::Remove, expected(&headers)?).await?;
    if !wait {
        let shown = json!({"id": id, "status": "removing"});
        return Ok((StatusCode::ACCEPTED, Json(shown)).into_response());
    }
    let removed = |view: Option<ManagedView>| view.is_none().then_some(());
    until(&*node, id, timeout, "removed", removed).await?;
    Ok(Json(json!({"id": id, "status": "removed"})).into_response())
}

pub(super) async fn stop<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    order(
        &*node,
        &access,
        &name,
        (query, &headers),
        (Order::Stop, &operations::STOP),
    )
    .await
}

pub(super) async fn start<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    order(
        &*node,
        &access,
        &name,
        (query, &headers),
        (Order::Start, &operations::START),
    )
    .await
}

pub(super) async fn restart<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    order(
        &*node,
        &access,
        &name,
        (query, &headers),
        (Order::Restart, &operations::RESTART),
    )
    .await
}

/// Has the registry asked what the tag of the container's image stands for now. A caller may wait
/// for the answer, and for the restart that it brings.
pub(super) async fn ask_tag<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(query, &operations::ASK_TAG)?;
    let (wait, timeout) = (wait_for(&parameters)?, parameters.timeout()?);
    let id = find_managed(&*node, &access, &name, Naming::Exact)?;
    node.ask_tag(id).await?;
    if !wait {
        let view = node.container(id).ok_or_else(|| gone(id))?;
        return Ok(answer::container(StatusCode::ACCEPTED, &view));
    }
    let is_open = |record: &Record| {
        let runs = record.run == RunState::Running && record.finished.is_none();
        record.is_tag_unchecked() || (runs && record.restart_pending)
    };
    let checked = |view: Option<ManagedView>| match view {
        Some(view) if is_open(&view.record) => None,
        other => Some(other),
    };
    let view = until(&*node, id, timeout, "checked", checked).await?;
    let view = view.ok_or_else(|| gone(id))?;
    Ok(answer::container(StatusCode::OK, &view))
}

/// Gives an order.
async fn order<N: NodeApi>(
    node: &N,
    access: &Access,
    name: &str,
    (query, headers): (RawQuery, &HeaderMap),
    (order, operation): (Order, &'static Operation),
) -> Result<Response, Problem> {
    let parameters = Parameters::of(query, operation)?;
    let wait = wait_for_one(&parameters)?;
    let timeout = parameters.timeout()?;
    let id = find_managed(node, access, name, Naming::Exact)?;
    node.order(id, order, expected(headers)?).await?;
    let container = node.container(id).ok_or_else(|| gone(id))?;
    let Some(word) = wait else {
        return Ok(answer::container(StatusCode::ACCEPTED, &container));
    };
    let ordered = DeployedView {
        container,
        // A failure from before the order says nothing about it.
        changed: false,
        plan: Vec::new(),
    };
    let view = awaited(node, &ordered, (word == "ready", timeout)).await?;
    Ok(answer::container(StatusCode::OK, &view))
}

/// The managed container that a path names. A call that changes something names it exactly.
pub(super) fn find_managed<N: NodeApi>(
    node: &N,
    access: &Access,
    text: &str,
    naming: Naming,
) -> Result<ContainerId, Problem> {
    match access.find(node, text, naming)? {
        ContainerView::Managed(view) => Ok(view.record.id),
        ContainerView::Unmanaged(view) => Err(Problem::Refused(Refusal::Conflict(format!(
            "container {} is not managed by this agent and cannot be changed",
            view.id
        )))),
    }
}

pub(super) fn gone(id: ContainerId) -> Problem {
    Problem::Refused(Refusal::NotFound(format!("container {id} was removed")))
}

/// Whether the caller waits, where there is one thing to wait for.
pub(super) fn wait_for(parameters: &Parameters) -> Result<bool, Problem> {
    Ok(wait_for_one(parameters)?.is_some())
}

/// The outcome that a caller waits for.
pub(super) fn wait_for_one(parameters: &Parameters) -> Result<Option<&str>, Problem> {
    let Some(wanted) = parameters.text("wait") else {
        return Ok(None);
    };
    let outcomes = parameters.known("wait");
    if outcomes.contains(&wanted) {
        return Ok(Some(wanted));
    }
    let verb = ["is", "are"][usize::from(outcomes.len() > 1)];
    let known = outcomes.join(" and wait=");
    Err(Problem::Request(format!(
        "wait={wanted} is not known here; wait={known} {verb}"
    )))
}

/// Waits until `look` decides on a container, or `timeout` has passed; looks after each change.
pub(super) async fn until<N: NodeApi, T>(
    node: &N,
    id: ContainerId,
    timeout: Duration,
    what: &str,
    look: impl Fn(Option<ManagedView>) -> Option<T>,
) -> Result<T, Problem> {
    let mut changes = node.changes();
    let waiting = async {
        loop {
            // Marked as seen before the look, so that no change falls between the two.
            changes.borrow_and_update();
            if let Some(found) = look(node.container(id)) {
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
        Err(_) => Err(timed_out(timeout, what, node.container(id))),
    }
}

fn timed_out(timeout: Duration, what: &str, view: Option<ManagedView>) -> Problem {
    let now = view.map_or("removed", |view| view.condition.status.as_str());
    let timeout = humantime::format_duration(timeout);
    Problem::Timeout(format!(
        "timed out after {timeout} waiting for status {what} (now: {now})"
    ))
}
