//! Task service of containerd: the running processes of containers, and with them the shims that
//! containerd starts.

use std::time::Duration;

use containerd_client::services::v1 as api;
use containerd_client::types::v1::Process;
use state::id::InstanceName;
use state::spec::Signal;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::client::{CallError, ContainerdClient, quick};

/// Shims being started or ended at once, for each processor: beyond twice as many, everything only
/// takes longer.
const SHIMS_PER_CORE: usize = 2;
/// Deleting a task waits for its logging process, up to 12 s in the shim.
const DELETE_TIMEOUT: Duration = Duration::from_secs(30);

/// Calls about tasks, with a limit on shims being started or ended at once.
#[derive(Debug)]
pub(crate) struct TaskCalls {
    client: ContainerdClient,
    slots: Semaphore,
    /// Creations under way, which must not be given up together with their caller.
    creations: TaskTracker,
}

impl TaskCalls {
    /// Calls to the containerd of `client`.
    pub(crate) fn new(client: ContainerdClient) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            client,
            slots: Semaphore::new(SHIMS_PER_CORE * cores),
            creations: TaskTracker::new(),
        }
    }

    /// First process of an instance's task; `None`: there is no task.
    pub(crate) async fn get(&self, instance: InstanceName) -> Result<Option<Process>, CallError> {
        let request = api::GetRequest {
            container_id: instance.to_string(),
            exec_id: String::new(),
        };
        match quick(self.client.tasks().get(request)).await {
            Ok(reply) => Ok(reply.process),
            Err(CallError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// First processes of all tasks.
    pub(crate) async fn list(&self) -> Result<Vec<Process>, CallError> {
        let request = api::ListTasksRequest::default();
        Ok(quick(self.client.tasks().list(request)).await?.tasks)
    }

    /// Creates a task. Given up half-way, it would leave a shim that containerd does not know: so
    /// it runs as a task of its own, and has no timeout.
    pub(crate) async fn create(&self, request: api::CreateTaskRequest) -> Result<(), CallError> {
        let _slot = self.slots.acquire().await;
        let mut tasks = self.client.tasks();
        let created = self
            .creations
            .spawn(async move { tasks.create(request).await })
            .await;
        created
            .map_err(|error| CallError::Unavailable(error.to_string()))?
            .map(drop)
            .map_err(CallError::from)
    }

    /// Starts a task that was created. One that runs already is no error.
    pub(crate) async fn start(&self, instance: InstanceName) -> Result<(), CallError> {
        let request = api::StartRequest {
            container_id: instance.to_string(),
            exec_id: String::new(),
        };
        let _slot = self.slots.acquire().await;
        match quick(self.client.tasks().start(request)).await {
            Ok(_) | Err(CallError::AlreadyExists) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sends a signal to the task's first process, or to `all`. One that has ended is no error.
    pub(crate) async fn kill(
        &self,
        instance: InstanceName,
        signal: Signal,
        all: bool,
    ) -> Result<(), CallError> {
        let request = api::KillRequest {
            container_id: instance.to_string(),
            exec_id: String::new(),
            signal: signal.number(),
            all,
        };
        match quick(self.client.tasks().kill(request)).await {
            Ok(()) | Err(CallError::NotFound(_)) => Ok(()),
            // runc's words for it, when the process ended since the last look.
            Err(CallError::Refused(message))
                if message.contains("process already finished")
                    || message.contains("not running") =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until the task has ended; `None`: `deadline` passed before.
    pub(crate) async fn ended(
        &self,
        instance: InstanceName,
        deadline: Instant,
    ) -> Option<Result<(), CallError>> {
        let request = api::WaitRequest {
            container_id: instance.to_string(),
            exec_id: String::new(),
        };
        let mut tasks = self.client.tasks();
        let waited = tokio::time::timeout_at(deadline, tasks.wait(request)).await;
        match waited.ok()?.map_err(CallError::from) {
            Ok(_) | Err(CallError::NotFound(_)) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        }
    }

    /// Deletes a task that has ended, and its shim with it. One that is absent is no error.
    pub(crate) async fn delete(&self, instance: InstanceName) -> Result<(), CallError> {
        let _slot = self.slots.acquire().await;
        let request = api::DeleteTaskRequest {
            container_id: instance.to_string(),
        };
        let mut tasks = self.client.tasks();
        match tokio::time::timeout(DELETE_TIMEOUT, tasks.delete(request))
            .await
            .map(|reply| reply.map_err(CallError::from))
        {
            Ok(Ok(_) | Err(CallError::NotFound(_))) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(CallError::Unavailable(format!(
                "deleting the task of {instance} timed out after {} s",
                DELETE_TIMEOUT.as_secs()
            ))),
        }
    }
}
