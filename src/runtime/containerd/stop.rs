//! Ending an instance: its task by signal, grace and SIGKILL, and then everything that bears its name.

use std::time::Duration;

use containerd_client::services::v1 as api;
use containerd_client::services::v1::snapshots as snapshots_api;
use state::id::InstanceName;
use state::observed::Task;
use state::reason::Reason;
use state::spec::Signal;
use tokio::time::Instant;

use super::client::{CallError, quick};
use super::unpack::SNAPSHOTTER;
use super::{Containerd, labels};
use crate::network::NetworkDriver as _;
use crate::runtime::{RuntimeError, StopOrder};

/// A process that SIGKILL does not end within this is stuck in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks while the connection is broken.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Deleting a task waits for its logging process, up to 12 s in the shim.
const DELETE_TIMEOUT: Duration = Duration::from_secs(30);

impl Containerd {
    pub(super) async fn end_task(
        &self,
        instance: InstanceName,
        how: &StopOrder,
    ) -> Result<(), RuntimeError> {
        // The record first: what is not ours is not touched, whatever its task looks like.
        let container = self.container(instance).await?;
        match self.task(instance).await? {
            Task::Absent => return Ok(()),
            Task::Stopped(_) => {}
            Task::Created { .. } => self.kill_hard(instance).await?,
            Task::Running { .. } => {
                let own = container.and_then(|container| {
                    container
                        .labels
                        .get(labels::STOP_SIGNAL)
                        .and_then(|name| name.parse().ok())
                });
                self.kill(instance, how.signal.or(own).unwrap_or(Signal::TERM), false)
                    .await?;
                if !self.ends_within(instance, how.grace).await? {
                    tracing::info!(%instance, grace_ms = how.grace.as_millis(), "did not end within its grace; killing it");
                    self.kill_hard(instance).await?;
                }
            }
        }
        self.delete_task(instance).await
    }

    async fn kill_hard(&self, instance: InstanceName) -> Result<(), RuntimeError> {
        self.kill(instance, Signal::KILL, true).await?;
        if self.ends_within(instance, KILL_TIMEOUT).await? {
            return Ok(());
        }
        let message = format!(
            "its process does not end even by SIGKILL; it hangs in the kernel (a lost disk or network file system?): {instance}"
        );
        Err(RuntimeError::failed(Reason::ProcessStuck, message))
    }

    /// Sends a signal to the task's first process, or to `all`. One that has ended is no error.
    pub(super) async fn kill(
        &self,
        instance: InstanceName,
        signal: Signal,
        all: bool,
    ) -> Result<(), RuntimeError> {
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
            Err(error) => Err(failed(Reason::StopFailed, error)),
        }
    }

    async fn ends_within(
        &self,
        instance: InstanceName,
        timeout: Duration,
    ) -> Result<bool, RuntimeError> {
        let deadline = Instant::now() + timeout;
        loop {
            let request = api::WaitRequest {
                container_id: instance.to_string(),
                exec_id: String::new(),
            };
            let mut tasks = self.client.tasks();
            match tokio::time::timeout_at(deadline, tasks.wait(request)).await {
                Ok(Ok(_)) => return Ok(true),
                Ok(Err(status)) => match CallError::from(status) {
                    CallError::NotFound(_) => return Ok(true),
                    CallError::Unavailable(_) if Instant::now() < deadline => {
                        tokio::time::sleep(LOOK_AGAIN).await;
                    }
                    error @ (CallError::Unavailable(_)
                    | CallError::AlreadyExists
                    | CallError::Refused(_)) => {
                        return Err(failed(Reason::StopFailed, error));
                    }
                },
                Err(_) => {
                    return Ok(matches!(
                        self.task(instance).await?,
                        Task::Absent | Task::Stopped(_)
                    ));
                }
            }
        }
    }

    /// Takes an ended task away, and its shim with it.
    pub(super) async fn delete_task(&self, instance: InstanceName) -> Result<(), RuntimeError> {
        let _slot = self.shims.acquire().await;
        let request = api::DeleteTaskRequest {
            container_id: instance.to_string(),
        };
        let mut tasks = self.client.tasks();
        match tokio::time::timeout(DELETE_TIMEOUT, tasks.delete(request))
            .await
            .map(|reply| reply.map_err(CallError::from))
        {
            Ok(Ok(_) | Err(CallError::NotFound(_))) => Ok(()),
            Ok(Err(error)) => Err(failed(Reason::StopFailed, error)),
            Err(_) => Err(RuntimeError::Unavailable(format!(
                "the task of {instance} is not deleted within {} s",
                DELETE_TIMEOUT.as_secs()
            ))),
        }
    }

    pub(super) async fn take_away(
        &self,
        instance: InstanceName,
        how: &StopOrder,
    ) -> Result<(), RuntimeError> {
        match self.find(instance).await? {
            Some(container) if labels::are_ours(&container.labels) => {}
            // Nothing of that name is ours in containerd then, for the envelope outlives all else; only the network may be.
            Some(_) => return Ok(self.network.detach(instance).await?),
            // A task is reached only through a record of its name; and without one there is no telling whether it has one.
            None => self.create_envelope(instance).await?,
        }
        self.end_lost_shim(instance).await?;
        self.end_task(instance, how).await?;
        self.network.detach(instance).await?;
        self.discard(instance).await
    }

    /// Takes its snapshot and its container record away. It has no task.
    pub(super) async fn discard(&self, instance: InstanceName) -> Result<(), RuntimeError> {
        let snapshot = snapshots_api::RemoveSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: instance.to_string(),
        };
        gone(quick(self.client.snapshots().remove(snapshot)).await)?;
        let request = api::DeleteContainerRequest {
            id: instance.to_string(),
        };
        gone(quick(self.client.containers().delete(request)).await)
    }

    async fn create_envelope(&self, instance: InstanceName) -> Result<(), RuntimeError> {
        let container = api::Container {
            id: instance.to_string(),
            labels: labels::bare(instance),
            runtime: Some(api::container::Runtime {
                name: "io.containerd.runc.v2".to_owned(),
                options: None,
            }),
            // containerd 1.6 takes no record without a spec.
            spec: Some(prost_types::Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".to_owned(),
                value: b"{}".to_vec(),
            }),
            ..api::Container::default()
        };
        match quick(
            self.client
                .containers()
                .create(api::CreateContainerRequest {
                    container: Some(container),
                }),
        )
        .await
        {
            Ok(_) | Err(CallError::AlreadyExists) => Ok(()),
            Err(error) => Err(failed(Reason::RemoveFailed, error)),
        }
    }
}

/// What is not there is gone.
fn gone<T>(result: Result<T, CallError>) -> Result<(), RuntimeError> {
    match result {
        Ok(_) | Err(CallError::NotFound(_)) => Ok(()),
        Err(error) => Err(failed(Reason::RemoveFailed, error)),
    }
}

fn failed(reason: Reason, error: CallError) -> RuntimeError {
    match error {
        CallError::Unavailable(message) => RuntimeError::Unavailable(message),
        CallError::NotFound(message) | CallError::Refused(message) => {
            RuntimeError::failed(reason, format!("containerd: {message}"))
        }
        CallError::AlreadyExists => RuntimeError::failed(reason, "containerd: it exists already"),
    }
}
