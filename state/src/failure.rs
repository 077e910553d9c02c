//! A failed step, as a person reads it: a code of the closed set, a sentence, and when to try
//! again.

use std::time::Duration;

use crate::reason::Reason;

/// Failure of a step for a reason of the container's own: shown, and tried again after a wait.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The code to show.
    pub reason: Reason,
    /// A sentence that says what happened and what would help.
    pub message: String,
    /// Wait that the other side asks for. `None`: it asks for none.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure with nothing known about when to try again.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            retry_after: None,
        }
    }

    /// The same failure, not to be tried again before `wait` has passed.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}
