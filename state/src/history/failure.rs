//! Steps that failed, and when another pull is no remedy.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Backoff, Cause, History};
use crate::reason::Reason;
use crate::time::BootTime;

/// A step that failed, and may have been overcome since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastFailure {
    /// Reason code.
    pub reason: Reason,
    /// Description in a sentence.
    pub message: String,
    /// Time of the failure. `None`: before this boot.
    pub at: Option<BootTime>,
}

impl History {
    /// Counts a failed step, which is not tried again for `wait`.
    pub fn record_failure(
        &mut self,
        cause: Cause,
        reason: Reason,
        message: String,
        now: BootTime,
        wait: Duration,
    ) {
        self.attempts = self.attempts.saturating_add(1);
        self.last_failure = Some(PastFailure {
            reason,
            message: message.clone(),
            at: Some(now),
        });
        self.backoff = Some(Backoff {
            cause,
            reason,
            message,
            retry_at: now.after(wait),
        });
    }

    /// Notes that the image is on the node. That mends nothing yet where it was lost: who takes it
    /// away may do so again.
    pub fn record_pull(&mut self) {
        if !self.is_image_lost() {
            self.attempts = 0;
        }
        self.keep_backoff(|cause| cause == Cause::Exit);
    }

    /// Whether the last failure was the image's loss.
    #[must_use]
    pub fn is_image_lost(&self) -> bool {
        let last = self.last_failure.as_ref();
        last.is_some_and(|failure| failure.reason == Reason::ImageLost)
    }
}
