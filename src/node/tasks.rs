//! Signals to the first processes of containers, and the processes of a container, as the API asks for
//! them. Nothing of what is desired changes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use state::id::{ContainerId, InstanceName};
use state::spec::Signal;
use tokio::sync::Semaphore;

use super::AgentNode;
use super::refusal::unnoted;
use crate::api::{self, NodeTasks, TaskRefusal};
use crate::monitor::processes::{self, ContainerProcess};
use crate::runtime::RuntimeError;
use crate::view::{ManagedView, ProcessesView};

/// Processes of a container that are shown.
const PROCESSES_MAX: usize = 4096;
/// Looks at once, each of which has a thread, and the longest wait for one.
static LOOKS: Semaphore = Semaphore::const_new(4);
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Tasks that run on the node.
pub(crate) trait TaskReach: fmt::Debug + Send + Sync {
    /// Sends a signal to the first process of an instance. Answers whether one ran.
    fn send(
        &self,
        instance: InstanceName,
        signal: Signal,
    ) -> BoxFuture<'_, Result<bool, RuntimeError>>;
}

impl AgentNode {
    /// The same, with tasks to send signals to.
    pub(crate) fn with_tasks(mut self, tasks: impl TaskReach + 'static) -> Self {
        self.tasks = Some(Arc::new(tasks));
        self
    }

    /// The container, and its instance that serves.
    fn serving(&self, id: ContainerId) -> Result<(ManagedView, InstanceName), TaskRefusal> {
        let Some(view) = self.container(id) else {
            return Err(TaskRefusal::Gone(format!("container {id} was removed")));
        };
        let running = self.board().known(id).seen.serving_instance(&view.record);
        let generation = running.ok_or_else(|| not_running(&view))?;
        Ok((view, InstanceName { id, generation }))
    }
}

fn not_running(view: &ManagedView) -> TaskRefusal {
    let (name, status) = (&view.record.name, view.condition.status.as_str());
    TaskRefusal::NotRunning(format!(
        "{name} has no process: it does not run (its status is {status}); start it first"
    ))
}

impl NodeTasks for AgentNode {
    async fn send_signal(&self, id: ContainerId, signal: Signal) -> Result<(), TaskRefusal> {
        let Some(tasks) = &self.tasks else {
            let none = "this agent sends no signals to containers";
            return Err(TaskRefusal::Unavailable(none.to_owned()));
        };
        let (view, instance) = self.serving(id)?;
        let name = view.record.name.clone();
        let noted = self.write(move |store| store.note_signal(name, id, signal));
        noted
            .await
            .map_err(|refusal| TaskRefusal::Unavailable(unnoted(refusal)))?;
        let (by, name) = (api::current_call().by, view.record.name.as_str());
        let signal_name = String::from(signal);
        match tasks.send(instance, signal).await {
            Ok(true) => {
                tracing::info!(container = name, signal = signal_name, by, "signal sent");
                Ok(())
            }
            // It ended since the board heard of it last.
            Ok(false) => Err(not_running(&view)),
            Err(RuntimeError::Failed(failure)) => Err(TaskRefusal::Failed(failure)),
            Err(
                error @ (RuntimeError::Unavailable(_)
                | RuntimeError::ImageLost(_)
                | RuntimeError::Cancelled),
            ) => Err(TaskRefusal::Unavailable(error.to_string())),
        }
    }

    async fn processes(&self, id: ContainerId) -> Result<ProcessesView, TaskRefusal> {
        let Some(usage) = self.usage.clone() else {
            let none = "this agent does not look at what runs in containers";
            return Err(TaskRefusal::Unavailable(none.to_owned()));
        };
        let (view, instance) = self.serving(id)?;
        let name = view.record.name.clone();
        let hangs = || {
            TaskRefusal::Unavailable(format!(
                "the kernel does not tell of the processes of {name} in time: one of them may hang; try \
                 again"
            ))
        };
        let looking = async {
            let place = LOOKS.acquire().await.ok()?;
            let looking = tokio::task::spawn_blocking(move || {
                let _place = place;
                let path = format!("/{}/{instance}", usage.namespace);
                let list = || usage.cgroup.all_processes(&path, PROCESSES_MAX);
                let seen = processes::look(&list());
                // A number that another process has by now is in the group no more.
                let still = list();
                let is_own = |one: &ContainerProcess| still.contains(&one.host_pid);
                seen.into_iter().filter(is_own).collect::<Vec<_>>()
            });
            looking.await.ok()
        };
        let seen = tokio::time::timeout(LOOK_MAX, looking).await;
        let processes = seen.ok().flatten().ok_or_else(hangs)?;
        if processes.is_empty() {
            return Err(not_running(&view));
        }
        Ok(ProcessesView {
            record: view.record,
            generation: instance.generation,
            is_cut: processes.len() >= PROCESSES_MAX,
            processes,
        })
    }
}
