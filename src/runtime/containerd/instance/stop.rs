//! End of an instance: its task by signal, grace and SIGKILL, and then everything that bears its
//! name.

use std::time::Duration;

use containerd_client::services::v1 as api;
use state::id::InstanceName;
use state::observed::{Exit, Task};
use state::reason::Reason;
use state::spec::Signal;
use tokio::time::Instant;

use super::Instances;
use crate::lock::lock;
use crate::runtime::containerd::rpc::client::CallError;
use crate::runtime::containerd::rpc::{containers, labels, snapshots};
use crate::runtime::engine::EndedInstance;
use crate::runtime::{RuntimeError, StopOrder};

/// Time after which a process that SIGKILL has not ended is stuck in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the last that a container's own program printed.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Pause between two looks while the connection is broken.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Signal that a container's task is stopped with: the one asked for, else the image's, else SIGTERM.
fn stop_signal(container: Option<&api::Container>, how: &StopOrder) -> Signal {
    let own = container.and_then(|container| container.labels.get(labels::STOP_SIGNAL));
    let own = own.and_then(|name| name.parse().ok());
    how.signal.or(own).unwrap_or(Signal::TERM)
}

impl Instances {
    /// Ends the instance's task: signal, grace, SIGKILL. Answers how it ended, if it ran.
    pub(crate) async fn stop(
        &self,
        instance: InstanceName,
        how: &StopOrder,
    ) -> Result<Option<Exit>, RuntimeError> {
        // The container first: an unmanaged one is not touched, whatever its task looks like.
        let container = self.container(instance).await?;
        match self.task(instance).await? {
            Task::Absent => return Ok(None),
            Task::Stopped(_) => {}
            Task::Unresponsive => return self.end_unresponsive(instance).await,
            Task::Created { .. } => {
                self.kill_hard(instance).await?;
                self.delete_task(instance).await?;
                return Ok(None);
            }
            Task::Running { .. } => {
                let signal = stop_signal(container.as_ref(), how);
                self.kill(instance, signal, false).await?;
                if !self.ends_within(instance, how.grace).await? {
                    tracing::info!(%instance, grace_ms = how.grace.as_millis(), "task outlived its grace; killing it");
                    self.kill_hard(instance).await?;
                }
            }
        }
        self.delete_task(instance).await
    }

    /// Sends the instance's task the signal that it is stopped with, if it runs.
    pub(crate) async fn signal(
        &self,
        instance: InstanceName,
        how: &StopOrder,
    ) -> Result<(), RuntimeError> {
        let container = self.container(instance).await?;
        match self.task(instance).await? {
            Task::Running { .. } => {
                let signal = stop_signal(container.as_ref(), how);
                self.kill(instance, signal, false).await
            }
            Task::Absent | Task::Created { .. } | Task::Stopped(_) | Task::Unresponsive => Ok(()),
        }
    }

    pub(super) async fn kill_hard(&self, instance: InstanceName) -> Result<(), RuntimeError> {
        self.kill(instance, Signal::KILL, true).await?;
        if self.ends_within(instance, KILL_TIMEOUT).await? {
            return Ok(());
        }
        let message = format!(
            "the process of {instance} does not end even by SIGKILL: it hangs in the kernel; look for a lost disk or network file system"
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
        let sent = self.tasks.kill(instance, signal, all).await;
        sent.map_err(|error| error.into_error(Reason::StopFailed, "send a signal to a task"))
    }

    async fn ends_within(
        &self,
        instance: InstanceName,
        timeout: Duration,
    ) -> Result<bool, RuntimeError> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.tasks.ended(instance, deadline).await {
                Some(Ok(())) => return Ok(true),
                Some(Err(CallError::Unavailable(_))) if Instant::now() < deadline => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Some(Err(error)) => {
                    return Err(error.into_error(Reason::StopFailed, "wait for the end of a task"));
                }
                None => {
                    let task = self.task(instance).await?;
                    return Ok(matches!(task, Task::Absent | Task::Stopped(_)));
                }
            }
        }
    }

    /// Deletes a task that has ended, and its shim with it. Answers how it ended.
    pub(super) async fn delete_task(
        &self,
        instance: InstanceName,
    ) -> Result<Option<Exit>, RuntimeError> {
        self.await_own_program(instance).await;
        let deleted = self.tasks.delete(instance).await;
        deleted.map_err(|error| error.into_error(Reason::StopFailed, "delete a task"))
    }

    /// Waits until a caller has what the instance's own program printed last, which the shim holds. A
    /// caller that takes nothing is not waited for.
    async fn await_own_program(&self, instance: InstanceName) {
        let deadline = Instant::now() + LAST_WORDS;
        while self.execs.has_own(instance) && Instant::now() < deadline {
            tokio::time::sleep(LOOK_AGAIN / 10).await;
        }
    }

    /// Ends the instance's task as [`Self::stop`] does, also where only a shim is left of it.
    pub(crate) async fn end(
        &self,
        instance: InstanceName,
        how: &StopOrder,
    ) -> Result<EndedInstance, RuntimeError> {
        match self.find(instance).await? {
            Some(container) if labels::is_managed(&container.labels) => {}
            // Nothing of that name is managed in containerd then, for the envelope outlives all
            // else.
            Some(_) => return Ok(EndedInstance::Unmanaged),
            // A task is reached only through a container of its name; without one there is no
            // telling whether it has one.
            None => self.create_envelope(instance).await?,
        }
        self.end_lost_shim(instance).await?;
        Ok(EndedInstance::Managed(self.stop(instance, how).await?))
    }

    /// Removes the snapshot and the container of an instance that has no task, and whatever a killed
    /// shim left of it on the host.
    pub(crate) async fn discard(&self, instance: InstanceName) -> Result<(), RuntimeError> {
        snapshots::remove(&self.client, &instance.to_string())
            .await
            .map_err(|error| error.into_error(Reason::RemoveFailed, "remove a snapshot"))?;
        self.remains.take_away(instance).await?;
        containers::delete(&self.client, instance)
            .await
            .map_err(|error| error.into_error(Reason::RemoveFailed, "delete a container"))?;
        self.take_values(instance).await;
        self.ids.release(instance).await;
        lock(&self.begun).remove(&instance);
        Ok(())
    }

    async fn create_envelope(&self, instance: InstanceName) -> Result<(), RuntimeError> {
        let labels = labels::minimal_for(instance);
        let runtime = self.config.oci_runtime.to_wire();
        let container = containers::bare(instance, labels, runtime, b"{}".to_vec());
        containers::create(&self.client, container)
            .await
            .map_err(|error| error.into_error(Reason::RemoveFailed, "create a container"))
    }
}
