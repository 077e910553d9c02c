//! Orphans: instances without a container, and those of which only a shim is left.

use std::collections::BTreeSet;

use containerd_client::services::v1 as api;
use state::id::InstanceName;
use state::observed::Task;
use state::reason::Reason;
use tokio::time::Instant;

use super::Instances;
use crate::lock::lock;
use crate::runtime::containerd::rpc::client::CallError;
use crate::runtime::containerd::rpc::{containers, snapshots};
use crate::runtime::containerd::shim::lost::{self, Shim};
use crate::runtime::{RuntimeError, StopOrder};

impl Instances {
    /// Instances without a container that the last listing found.
    pub(crate) fn take_orphans(&self) -> Vec<InstanceName> {
        std::mem::take(&mut *lock(&self.orphans))
    }

    /// Instances that are not `wanted`, of which containerd has neither container nor task, and of
    /// which a shim runs still, or is left what one had made on the host.
    ///
    /// Ends the shims of the `resting` ones that have no task any more.
    pub(crate) async fn lost(
        &self,
        wanted: &BTreeSet<InstanceName>,
        resting: &BTreeSet<InstanceName>,
    ) -> Result<Vec<InstanceName>, RuntimeError> {
        // Before the lists: an instance that is created meanwhile is in them.
        let mut remains = self.remains.instances().await;
        let shims = self.shims.running().await;
        let stuck = self.end_empty_shims(&shims, resting).await;
        let containers = containers::list(&self.client, None)
            .await
            .map_err(|error| error.into_error(Reason::CreateFailed, "list containers"))?;
        let known: BTreeSet<String> = containers
            .into_iter()
            .map(|container| container.id)
            .collect();
        // As long as a shim runs, another containerd's perhaps, they are in use.
        let served = lost::served(&shims);
        remains.retain(|name| {
            !(served.contains(name) || wanted.contains(name) || known.contains(&name.to_string()))
        });
        let mut lost: BTreeSet<_> = lost::lost(&shims, &known, wanted).into_iter().collect();
        lost.append(&mut remains);
        if lost.is_empty() {
            return stuck.map(|()| Vec::new());
        }
        // A task without a container is an orphan, and ended as one.
        let tasks = self.tasks.list().await;
        let tasks = tasks.map_err(|error| error.into_error(Reason::CreateFailed, "list tasks"))?;
        let Some(tasks) = tasks else {
            return Ok(Vec::new());
        };
        for task in tasks {
            if let Ok(name) = task.id.parse() {
                lost.remove(&name);
            }
        }
        stuck.map(|()| lost.into_iter().collect())
    }

    /// Ends the shims of `resting` instances whose task was deleted, by a call that was cut off before
    /// containerd had asked the shim to end. Nothing is left of such a task.
    async fn end_empty_shims(
        &self,
        shims: &[Shim],
        resting: &BTreeSet<InstanceName>,
    ) -> Result<(), RuntimeError> {
        let served = lost::served(shims);
        let mut without_task = BTreeSet::new();
        for name in served.intersection(resting) {
            if matches!(self.task(*name).await?, Task::Absent) {
                without_task.insert(*name);
            }
        }
        let empty = lock(&self.empty_shims).look(shims, &without_task, Instant::now());
        let mut ended = Ok(());
        for (name, shim) in empty {
            // A start that was asked for since is served by it.
            if !matches!(self.task(name).await?, Task::Absent) {
                continue;
            }
            let done = self.shims.end_shim(name, shim).await;
            ended = ended.and(done.map_err(RuntimeError::from));
        }
        ended
    }

    /// Ends the shim of an instance without a task that was begun before this agent, by a creation whose
    /// caller went away: containerd hands the next creation to it, and it may answer none, ever. One
    /// that waits for the reader of its log does not, and takes connections all the same.
    pub(super) async fn end_earlier_shim(
        &self,
        instance: InstanceName,
    ) -> Result<(), RuntimeError> {
        if lock(&self.begun).contains(&instance) {
            return Ok(());
        }
        if self.remains.has_socket(instance).await {
            self.end_lost_shim(instance).await?;
        }
        lock(&self.begun).insert(instance);
        Ok(())
    }

    /// Ends the shim of an instance that containerd has lost, if one runs, and the processes that
    /// it started.
    pub(super) async fn end_lost_shim(&self, instance: InstanceName) -> Result<(), RuntimeError> {
        if !matches!(self.task(instance).await?, Task::Absent) {
            return Ok(());
        }
        if !self.shims.end(instance).await? {
            return Ok(());
        }
        // The processes that it started live on without it. A new shim finds them in runc's state
        // and is refused, and containerd cleans up after a task that could not be created: all of
        // its processes, the bundle, and the new shim.
        let rootfs = match snapshots::mounts(&self.client, &instance.to_string()).await {
            Ok(mounts) => mounts,
            Err(CallError::NotFound(_)) => Vec::new(),
            Err(error) => {
                return Err(error.into_error(Reason::CreateFailed, "mount a snapshot"));
            }
        };
        let request = api::CreateTaskRequest {
            container_id: instance.to_string(),
            rootfs,
            ..api::CreateTaskRequest::default()
        };
        match self.tasks.create(request).await {
            Ok(_) => self.stop(instance, &StopOrder::AT_ONCE).await.map(drop),
            Err(CallError::AlreadyExists | CallError::NotFound(_) | CallError::Refused(_)) => {
                Ok(())
            }
            Err(CallError::Unavailable(message)) => Err(RuntimeError::Unavailable(message)),
            Err(CallError::ShimUnresponsive(message)) => {
                Err(RuntimeError::failed(Reason::ShimUnresponsive, message))
            }
        }
    }
}
