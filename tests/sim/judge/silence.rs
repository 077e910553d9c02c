//! Rules of CHaS's silence: what is to rest for it does, nothing rests before its time, and nobody
//! counts longer than it lasts.

use std::time::Duration;

use state::id::{ContainerName, InstanceName};

use super::{DECISION, Judge};
use crate::bodies;
use crate::chas::ASKED_EVERY;

/// Longest time for which something runs on that is to rest: a stop that fails again and again waits
/// minutes.
const RESTS_WITHIN: Duration = Duration::from_mins(15);
/// Time by which an agent may count longer than the silence lasts, which notes it now and then.
const COUNTS_WITHIN: Duration = Duration::from_secs(2);

/// Time by which an answer is noted that ends a silence.
const NOTED_WITHIN: Duration = Duration::from_millis(300);

/// Silence after which a container with this name rests. `None`: never.
fn rests_after(name: &ContainerName) -> Option<Duration> {
    bodies::stop_after(name.as_str()).map(|after| after.max(2 * ASKED_EVERY))
}

impl Judge {
    /// CHaS has answered.
    pub(crate) fn chas_answers(&mut self) {
        (self.answered_before, self.answered) = (self.answered, self.now());
        if !self.was_disk_bad {
            self.noted = self.answered;
        }
    }

    /// The agent was killed, and may not have noted the last answer.
    pub(crate) fn lose_answer(&mut self) {
        if self.silence() < NOTED_WITHIN {
            self.answered = self.answered_before;
            // A disk that took no notes has an older one.
            self.noted = self.noted.min(self.answered_before);
        }
    }

    /// The node was off for a time, which is not counted.
    pub(crate) fn was_off(&mut self, time: Duration) {
        self.answered += time;
        self.noted += time;
        self.answered_before += time;
    }

    /// Silence until now.
    pub(crate) fn silence(&self) -> Duration {
        self.now().saturating_sub(self.answered)
    }

    /// The part of it that this life has seen itself.
    fn seen_silence(&self) -> Duration {
        self.now().saturating_sub(self.answered.max(self.before))
    }

    /// Whether this life has seen enough of it that everything is to rest that rests at all.
    pub(crate) fn is_long_silent(&self) -> bool {
        self.seen_silence() > bodies::STOP_AFTER.max(2 * ASKED_EVERY) + DECISION
    }

    /// Whether an instance may be ended for it.
    pub(super) fn may_rest(&self, name: InstanceName) -> bool {
        let after = self.record_of(name).and_then(|name| rests_after(&name));
        after.is_some_and(|after| self.silence() + COUNTS_WITHIN >= after)
    }

    fn record_of(&self, name: InstanceName) -> Option<ContainerName> {
        let store = self.store.as_ref().and_then(std::sync::Weak::upgrade)?;
        let record = store.desired().get(name.id).cloned();
        record.map(|record| record.name.clone())
    }

    /// Checks that nothing is started which is to rest.
    pub(super) fn starts_in_silence(&mut self, name: &ContainerName) {
        let silence = self.seen_silence();
        if rests_after(name).is_some_and(|after| silence > after + DECISION) {
            self.broken(format!(
                "{name} was started after {silence:?} without an answer of CHaS"
            ));
        }
    }

    /// Checks that what runs is not to rest.
    pub(crate) fn runs_in_silence(&mut self, name: &ContainerName) {
        let silence = self.seen_silence();
        if rests_after(name).is_some_and(|after| silence > after + RESTS_WITHIN) {
            self.broken(format!(
                "{name} runs after {silence:?} without an answer of CHaS"
            ));
        }
    }

    /// Checks that the agent counts no longer than the silence lasts.
    pub(crate) fn counts(&mut self, silent: Duration) {
        let silence = self.silence();
        if silent > silence + COUNTS_WITHIN {
            self.broken(format!("CHaS was silent for {silence:?}, not {silent:?}"));
        }
    }
}
