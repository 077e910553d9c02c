//! Task service of containerd: the running processes of containers, and with them the shims that
//! containerd starts.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use containerd_client::services::v1 as api;
use containerd_client::types::v1::Process;
use prost_types::Any;
use serde_json::Value;
use state::id::InstanceName;
use state::observed::Exit;
use state::spec::Signal;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::client::{CallError, ContainerdClient};

mod execs;
pub(crate) use execs::AddedProcess;

/// Type of the limits of a task, as containerd names it.
const RESOURCES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
/// Shims being started or ended at once, for each processor: beyond twice as many, everything only
/// takes longer.
const SHIMS_PER_CORE: usize = 2;
/// A shim that is started or ended for longer than this waits for something else than a processor,
/// and keeps nobody from one.
const SLOT_TIME: Duration = Duration::from_secs(5);
/// containerd asks one shim after the other for a listing, and waits two seconds for each that does
/// not answer: so a listing takes this long only where several do not.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
/// A task's creation takes a tenth of a second, seconds on a busy node.
const CREATE_TIMEOUT: Duration = Duration::from_mins(2);
/// A shim that does not do a simple thing within this does not answer.
const SHIM_TIMEOUT: Duration = Duration::from_secs(10);
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
        self.find(&instance.to_string()).await
    }

    /// First process of a container's task; `None`: there is no task.
    pub(crate) async fn find(&self, container_id: &str) -> Result<Option<Process>, CallError> {
        let request = api::GetRequest {
            container_id: container_id.to_owned(),
            exec_id: String::new(),
        };
        let mut tasks = self.client.tasks();
        let call = self.by_shim("tell of the task", SHIM_TIMEOUT, tasks.get(request));
        match call.await {
            Ok(reply) => Ok(reply.process),
            Err(CallError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// First processes of all tasks. `None`: some shims do not answer, and hold up the listing.
    pub(crate) async fn list(&self) -> Result<Option<Vec<Process>>, CallError> {
        let request = api::ListTasksRequest::default();
        let mut tasks = self.client.tasks();
        let call = self.by_shim("tell of the tasks", LIST_TIMEOUT, tasks.list(request));
        match call.await {
            Ok(reply) => Ok(Some(reply.tasks)),
            Err(CallError::ShimUnresponsive(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates a task, and answers its first process. Given up half-way, it would leave a shim that
    /// containerd does not know: so it runs as a task of its own, which goes on where this call does
    /// not wait any longer.
    pub(crate) async fn create(&self, request: api::CreateTaskRequest) -> Result<u32, CallError> {
        let mut tasks = self.client.tasks();
        let creation = async {
            let creation = async move { tasks.create(request).await };
            let creation = self.creations.spawn(creation);
            creation
                .await
                .unwrap_or_else(|panic| Err(tonic::Status::unavailable(panic.to_string())))
        };
        let call = self.by_shim("create the task", CREATE_TIMEOUT, creation);
        self.in_slot(call).await.map(|reply| reply.pid)
    }

    /// Awaits a call that starts or ends a shim, in a slot for as long as it may keep a processor
    /// busy.
    async fn in_slot<T>(&self, call: impl Future<Output = T>) -> T {
        let slot = self.slots.acquire().await;
        let mut call = std::pin::pin!(call);
        let done = tokio::time::timeout(SLOT_TIME, &mut call).await;
        drop(slot);
        match done {
            Ok(done) => done,
            Err(_) => call.await,
        }
    }

    /// Awaits a call that containerd hands on to a shim.
    async fn by_shim<T>(
        &self,
        doing: &str,
        timeout: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(timeout, call).await {
            Ok(reply) => Ok(reply?.into_inner()),
            Err(_) => Err(self.client.blame_shim(doing, timeout).await),
        }
    }

    /// Starts a task that was created. One that runs already is no error.
    pub(crate) async fn start(&self, instance: InstanceName) -> Result<(), CallError> {
        let request = api::StartRequest {
            container_id: instance.to_string(),
            exec_id: String::new(),
        };
        let mut tasks = self.client.tasks();
        let call = self.by_shim("start the task", SHIM_TIMEOUT, tasks.start(request));
        match self.in_slot(call).await {
            Ok(_) | Err(CallError::AlreadyExists) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sets limits of a task: a `LinuxResources` of the OCI spec, as JSON. One that has ended is no
    /// error.
    pub(crate) async fn limit(
        &self,
        instance: InstanceName,
        resources: &Value,
    ) -> Result<(), CallError> {
        let request = api::UpdateTaskRequest {
            container_id: instance.to_string(),
            resources: Some(Any {
                type_url: RESOURCES_TYPE.to_owned(),
                value: resources.to_string().into_bytes(),
            }),
            annotations: HashMap::new(),
        };
        let mut tasks = self.client.tasks();
        let call = self.by_shim("limit the task", SHIM_TIMEOUT, tasks.update(request));
        match call.await {
            Ok(()) | Err(CallError::NotFound(_)) => Ok(()),
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
        let mut tasks = self.client.tasks();
        let call = self.by_shim("hand on the signal", SHIM_TIMEOUT, tasks.kill(request));
        match call.await {
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

    /// Deletes a task that has ended, and its shim with it. Answers how it ended; one that is absent
    /// is no error.
    pub(crate) async fn delete(&self, instance: InstanceName) -> Result<Option<Exit>, CallError> {
        let request = api::DeleteTaskRequest {
            container_id: instance.to_string(),
        };
        let mut tasks = self.client.tasks();
        let call = self.by_shim("delete the task", DELETE_TIMEOUT, tasks.delete(request));
        match self.in_slot(call).await {
            Ok(reply) => Ok(exit(&reply)),
            Err(CallError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The end that a deleted task had. `None`: it never ran.
fn exit(deleted: &api::DeleteResponse) -> Option<Exit> {
    let at = SystemTime::try_from(deleted.exited_at?).ok()?;
    (at > SystemTime::UNIX_EPOCH).then_some(Exit {
        code: deleted.exit_status,
        at,
        out_of_memory: false,
    })
}
