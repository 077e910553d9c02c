//! Processes of a container: a signal to the first one, and a list of all.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use state::failure::Failure;
use state::id::ContainerId;
use state::spec::Signal;

use super::access::Access;
use super::answer::Json;
use super::containers::{find_managed, gone, until, wait_for};
use super::error::Problem;
use super::query::{Named, Parameters, RawQuery};
use super::{NodeApi, Refusal, answer, operations, wire};
use crate::monitor::processes::ContainerProcess;
use crate::view::{ManagedView, Naming, ProcessesView};

/// The agent's tasks, as the API needs them.
pub(crate) trait NodeTasks: Send + Sync + 'static {
    /// Sends a signal to the first process of a container, and has it be written down before.
    fn send_signal(
        &self,
        id: ContainerId,
        signal: Signal,
    ) -> impl Future<Output = Result<(), TaskRefusal>> + Send;

    /// Processes of a container.
    fn processes(
        &self,
        id: ContainerId,
    ) -> impl Future<Output = Result<ProcessesView, TaskRefusal>> + Send;
}

/// Cause for which a task is not reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TaskRefusal {
    /// The container does not run.
    NotRunning(String),
    /// The runtime refuses.
    Failed(Failure),
    /// No such container.
    Gone(String),
    /// The runtime or the kernel does not answer, or the audit cannot be written.
    Unavailable(String),
}

impl From<TaskRefusal> for Problem {
    fn from(refusal: TaskRefusal) -> Self {
        match refusal {
            TaskRefusal::NotRunning(text) => Self::Refused(Refusal::Conflict(text)),
            TaskRefusal::Failed(failure) => Self::Failed(failure.reason, failure.message),
            TaskRefusal::Gone(text) => Self::Refused(Refusal::NotFound(text)),
            TaskRefusal::Unavailable(text) => Self::Refused(Refusal::Unavailable(text)),
        }
    }
}

/// Sends a signal to the first process. A caller may wait until that has ended.
pub(super) async fn kill<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(query, &operations::KILL)?;
    let (wait, timeout) = (wait_for(&parameters)?, parameters.timeout()?);
    let signal = parameters.text("signal").map(str::parse).transpose();
    let signal: Option<Signal> = signal.map_err(Problem::Request)?;
    let id = find_managed(&*node, &access, &name, Naming::Exact)?;
    let started = node.container(id).and_then(|view| view.started);
    node.send_signal(id, signal.unwrap_or(Signal::KILL)).await?;
    if !wait {
        let view = node.container(id).ok_or_else(|| gone(id))?;
        return Ok(answer::container(StatusCode::ACCEPTED, &view));
    }
    let ended = |view: Option<ManagedView>| match view {
        Some(view) if view.applied_generation.is_some() && view.started == started => None,
        other => Some(other),
    };
    let view = until(&*node, id, timeout, "ended", ended).await?;
    let view = view.ok_or_else(|| gone(id))?;
    Ok(answer::container(StatusCode::OK, &view))
}

/// Processes of a container, by the kernel's own word: nothing is run in it.
pub(super) async fn top<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
) -> Result<Response, Problem> {
    Parameters::of(query, &operations::TOP)?;
    let id = find_managed(&*node, &access, &name, Naming::Loose)?;
    let view = node.processes(id).await?;
    let processes: Vec<_> = view.processes.iter().map(shown).collect();
    Ok(Json(json!({
        "id": view.record.id, "name": view.record.name, "generation": view.generation,
        "processes": processes, "cut": view.is_cut,
    }))
    .into_response())
}

fn shown(process: &ContainerProcess) -> Value {
    json!({
        "pid": process.pid, "host_pid": process.host_pid, "parent_pid": process.parent_pid,
        "user": process.user, "state": process.state, "started": wire::time(process.started),
        "cpu_s": process.cpu.as_secs_f64(), "resident_bytes": process.resident_bytes,
        "threads": process.threads, "command": process.command,
    })
}
