//! Tasks that run, for callers who send a signal: nothing here ends or starts a container.

use std::sync::Arc;

use state::id::InstanceName;
use state::observed::Task;
use state::reason::Reason;
use state::spec::Signal;

use super::Instances;
use crate::runtime::RuntimeError;

/// Tasks that run. Clones reach the same ones.
#[derive(Clone, Debug)]
pub(crate) struct RunningTasks(pub(super) Arc<Instances>);

impl RunningTasks {
    /// Sends a signal to the first process of an instance. Answers whether one ran.
    ///
    /// # Errors
    /// The container is not the agent's; its shim or containerd does not answer, or refuses.
    pub(crate) async fn send(
        &self,
        instance: InstanceName,
        signal: Signal,
    ) -> Result<bool, RuntimeError> {
        if self.0.container(instance).await?.is_none() {
            return Ok(false);
        }
        match self.0.task(instance).await? {
            Task::Running { .. } => {
                self.0.kill(instance, signal, false).await?;
                Ok(true)
            }
            Task::Absent | Task::Created { .. } | Task::Stopped(_) => Ok(false),
            Task::Unresponsive => {
                let message = format!(
                    "the shim of {instance} does not answer, and alone could hand on a signal; stop \
                     or remove the container, which ends both"
                );
                Err(RuntimeError::failed(Reason::ShimUnresponsive, message))
            }
        }
    }
}
