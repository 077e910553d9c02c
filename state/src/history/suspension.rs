//! Rest of a container while CHaS does not answer: what ends for it has not ended by itself, and no trial
//! goes on.

use super::History;
use crate::id::InstanceName;
use crate::observed::Exit;
use crate::time::BootTime;

impl History {
    /// Whether the container was stopped, or not started, since CHaS did not answer, and was not started
    /// since.
    #[must_use]
    pub const fn is_suspended(&self) -> bool {
        self.is_suspended
    }

    /// Notes that the container is to rest while CHaS does not answer.
    pub const fn record_suspension(&mut self) {
        self.is_suspended = true;
    }

    /// Notes a rest as [`Self::record_suspension`].
    pub const fn record_rest(&mut self, is_drained: bool) {
        self.record_suspension();
        if is_drained {
            self.record_drain();
        }
    }

    /// Notes that the node is drained: as after a boot, the container waits for others again before
    /// its next start, and others for it. Already when it is to be stopped, and not only once a look
    /// has found it stopped: the drain may be over by then. What runs on after all is seen to.
    pub const fn record_drain(&mut self) {
        (self.is_let_start, self.is_let_go) = (false, false);
        (self.waiting_since, self.trial.former.waiting_since) = (None, None);
        self.trial.former.is_let_start = false;
    }

    /// Notes that an instance was stopped for that, and how it ended, if that is known.
    pub fn record_suspended(&mut self, instance: InstanceName, ended: Option<Exit>, now: BootTime) {
        if instance.generation == self.made_at.unwrap_or(self.generation) {
            self.record_stop(ended, now);
        } else {
            self.record_removal(instance, now);
        }
    }

    /// Notes that the container runs (again). Its trial begins anew.
    pub fn end_suspension(&mut self, now: BootTime) {
        if std::mem::take(&mut self.is_suspended) && self.trial.since.is_some() {
            self.trial.since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests;
