//! Health of a running container: the verdict that follows from the answers to its probe. Pure; the
//! agent's probes ask, and time is an argument.

use serde::{Deserialize, Serialize};

use crate::desired::Record;
use crate::observed::Instance;
use crate::spec::{HealthCheck, Probe, is_default};
use crate::text::shown;
use crate::time::BootTime;

pub mod brake;

/// Characters of an answer that are kept.
pub const ANSWER_CHARS_MAX: usize = 200;
/// Intervals without an answer after which a verdict is old.
const STALE_INTERVALS: u32 = 3;

/// The check of a container: what its record says, else the HEALTHCHECK that its instance has of its
/// image. `None`: it has none.
#[must_use]
pub fn check_of<'a>(record: &'a Record, instance: Option<&'a Instance>) -> Option<&'a HealthCheck> {
    match &record.spec.health {
        Some(health) => health.check(),
        None => instance?.image_check.as_deref(),
    }
}

/// The verdict in a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Too few answers yet.
    #[default]
    Starting,
    /// The container works.
    Ready,
    /// The container does not work.
    Unhealthy,
}

impl Verdict {
    /// The verdict as it stands in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// The answer to one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// Whether the container works by it.
    pub is_success: bool,
    /// Text of the answer, or the fault, of any length and any characters.
    pub text: String,
    /// Time of the answer.
    pub at: BootTime,
}

/// The consequence of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictChange {
    /// None that matters: one more of many alike.
    None,
    /// The way to another verdict is shorter or longer.
    Streak,
    /// Another verdict.
    Verdict(Verdict),
}

/// Health of one run of a container.
///
/// Part of [`History`](crate::history::History), and stored with it over restarts of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthState {
    /// Fingerprint of the probe that the answers are to.
    check: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Time of the verdict. `None`: there is none yet.
    #[serde(default, skip_serializing_if = "is_default")]
    pub since: Option<BootTime>,
    /// Answers in a row that were like the last one, and count.
    #[serde(default, skip_serializing_if = "is_default")]
    pub streak: u32,
    /// Whether the last answer was a success.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_success: bool,
    /// Whether an answer of this run was a success: the start period is over then.
    #[serde(default, skip_serializing_if = "is_default")]
    has_succeeded: bool,
    /// The last answer, cleaned and bounded.
    #[serde(default, skip_serializing_if = "is_default")]
    pub answer: Option<String>,
    /// Time of the last answer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub last: Option<BootTime>,
}

impl HealthState {
    /// The state before the first answer.
    #[must_use]
    pub fn of(check: &HealthCheck) -> Self {
        Self {
            check: fingerprint(&check.probe),
            ..Self::default()
        }
    }

    /// Whether the answers are to the probe of this check. Other numbers beside it change no answer.
    #[must_use]
    pub fn is_of(&self, check: &HealthCheck) -> bool {
        self.check == fingerprint(&check.probe)
    }

    /// Whether an answer of this run was a success.
    #[must_use]
    pub const fn has_succeeded(&self) -> bool {
        self.has_succeeded
    }

    /// The same before the first answer.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self {
            check: self.check.clone(),
            ..Self::default()
        }
    }

    /// The time since which the container works. `None`: it does not, or nobody knows.
    #[must_use]
    pub fn ready_since(&self) -> Option<BootTime> {
        self.since.filter(|_| self.verdict == Verdict::Ready)
    }

    /// Whether the answers are too old to say how the container is now, or none has come for as long
    /// since its start.
    #[must_use]
    pub fn is_stale(&self, check: &HealthCheck, started: BootTime, now: BootTime) -> bool {
        let old = check.interval.saturating_mul(STALE_INTERVALS) + check.timeout;
        now.since(self.last.unwrap_or(started)) > old
    }

    /// Takes in an answer about the run that began at `started`.
    pub fn record(
        &mut self,
        check: &HealthCheck,
        started: BootTime,
        answer: &ProbeAnswer,
    ) -> VerdictChange {
        let (before, was_success) = (self.streak, self.is_success);
        let had_succeeded = self.has_succeeded;
        self.has_succeeded |= answer.is_success;
        let is_starting = answer.at.since(started) < check.start_period;
        let counts = answer.is_success || self.has_succeeded || !is_starting;
        self.streak = match (answer.is_success == was_success, counts) {
            (_, false) => 0,
            (true, true) => self.streak.saturating_add(1),
            (false, true) => 1,
        };
        self.is_success = answer.is_success;
        self.answer = Some(shown(answer.text.trim(), ANSWER_CHARS_MAX).into_owned());
        self.last = Some(answer.at);
        let (verdict, enough) = match answer.is_success {
            true => (Verdict::Ready, check.success_threshold),
            false => (Verdict::Unhealthy, check.retries),
        };
        if self.verdict == verdict {
            // The way to the other one is as long as ever.
            let was_on_way = was_success != answer.is_success && before > 0;
            return if was_on_way {
                VerdictChange::Streak
            } else {
                VerdictChange::None
            };
        }
        if self.streak >= enough {
            (self.verdict, self.since) = (verdict, Some(answer.at));
            return VerdictChange::Verdict(verdict);
        }
        let is_same = (self.streak, self.is_success) == (before, was_success);
        match is_same && self.has_succeeded == had_succeeded {
            true => VerdictChange::None,
            false => VerdictChange::Streak,
        }
    }

    /// The last answer, as the cause of a verdict.
    #[must_use]
    pub fn why(&self) -> String {
        let answer = self.answer.as_deref().unwrap_or("no answer yet");
        match self.streak {
            0 | 1 => format!("its probe failed: {answer}"),
            times => format!("its probe failed {times} times in a row: {answer}"),
        }
    }
}

/// Fingerprint of a probe: 16 hex digits.
fn fingerprint(probe: &Probe) -> String {
    // None of its types can fail to serialise.
    let json = serde_json::to_vec(probe).expect("a probe is plain data");
    let mut hash = crate::digest::sha256(&json);
    hash.drain(.."sha256:".len());
    hash.truncate(16);
    hash
}

#[cfg(test)]
mod tests;
