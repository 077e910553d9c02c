//! A failed step, as a person reads it: a code of the closed set, a sentence, and when to try
//! again.

use std::borrow::Cow;
use std::time::Duration;

use crate::reason::Reason;
use crate::text::{MESSAGE_CHARS_MAX, shown};

/// Failure of a step for a reason of the container's own: shown, and tried again after a wait.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct Failure {
    /// The code to show.
    pub reason: Reason,
    /// A sentence that says what happened and what would help. It may repeat what others wrote (an
    /// image's command, a registry's words), and is fit to be shown.
    pub message: String,
    /// Wait that the other side asks for. `None`: it asks for none.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure with nothing known about when to try again.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let message = message.into();
        let message = match shown(&message, MESSAGE_CHARS_MAX) {
            Cow::Borrowed(_) => message,
            Cow::Owned(fit) => fit,
        };
        Self {
            reason,
            message,
            retry_after: None,
        }
    }

    /// The same failure, not to be tried again before `wait` has passed, if there is one.
    #[must_use]
    pub fn with_retry_after(mut self, wait: impl Into<Option<Duration>>) -> Self {
        self.retry_after = wait.into();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_shown_in_one_line() {
        let failure = Failure::new(Reason::CommandNotFound, "no /x\n2026 ERROR \u{1b}[31m");
        assert_eq!(failure.to_string(), "no /x\\n2026 ERROR \\u001b[31m");
        let long = Failure::new(Reason::CommandNotFound, "x".repeat(5000));
        assert_eq!(long.message.chars().count(), MESSAGE_CHARS_MAX);
    }
}
