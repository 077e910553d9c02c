//! Instances whose shim does not answer: left alone while they are wanted; when they are to end, and
//! the shim has had its time, ended with it.

use std::time::Duration;

use state::id::InstanceName;
use state::observed::{Exit, Task};
use state::reason::Reason;
use tokio::time::Instant;

use super::Instances;
use crate::lock::lock;
use crate::runtime::RuntimeError;

/// Time for a shim to answer again, before it is ended with what it runs. A shim that was swapped
/// out or has a slow disk is back by then.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time in which containerd notices that a shim has gone, and clears away after it.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);
/// Pause between two looks for that.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Instances {
    /// Notes whether an instance's shim answers.
    pub(super) fn note_silence(&self, instance: InstanceName, task: &Task) {
        let mut silent = lock(&self.silent);
        if *task == Task::Unresponsive {
            silent.entry(instance).or_insert_with(Instant::now);
        } else {
            silent.remove(&instance);
        }
    }

    /// Ends a task that is to end, and whose shim does not answer: the shim is ended, and containerd
    /// kills what it ran.
    ///
    /// # Errors
    /// [`Reason::ShimUnresponsive`]: the shim may still answer.
    pub(super) async fn end_unresponsive(
        &self,
        instance: InstanceName,
    ) -> Result<Option<Exit>, RuntimeError> {
        let since = lock(&self.silent).get(&instance).copied();
        let left = PATIENCE.saturating_sub(since.map_or(Duration::ZERO, |since| since.elapsed()));
        if !left.is_zero() {
            let message = format!(
                "the shim of {instance} does not answer, so its process cannot be asked to end; \
                 in {} s the shim is ended, and its process killed without a grace period",
                left.as_secs().max(1)
            );
            return Err(RuntimeError::failed(Reason::ShimUnresponsive, message));
        }
        self.shims.end(instance).await?;
        let deadline = Instant::now() + NOTICED_WITHIN;
        while Instant::now() < deadline {
            match self.task(instance).await? {
                Task::Absent => return Ok(None),
                Task::Stopped(_) => return self.delete_task(instance).await,
                Task::Created { .. } | Task::Running { .. } | Task::Unresponsive => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        }
        let message = format!("containerd has not noticed that the shim of {instance} has ended");
        Err(RuntimeError::failed(Reason::ShimUnresponsive, message))
    }
}
