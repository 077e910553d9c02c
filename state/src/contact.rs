//! Contact with CHaS: for how long it has not answered, and which containers are stopped for that. Pure;
//! the time is an argument, and the wall clock none.
//!
//! Silence is counted in boot time: steps of the wall clock do not count, and the time in which an agent
//! was down does, for the node ran on without CHaS. The time in which the node was off, and until its
//! agent began again, does not: nothing ran. What a boot had counted before is added up.
//!
//! Nothing that runs is stopped before this agent has asked CHaS itself. What is at rest for the silence
//! stays so until CHaS answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::spec::{Spec, is_default};
use crate::time::BootTime;

/// Notes of one silence: one for each this many parts of the shortest that ends a container.
const NOTES: u32 = 20;
/// Bounds of the time between two notes.
const NOTE_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));

/// Contact with CHaS, as one agent knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Last answer; or the beginning of the count in this boot, where there was none.
    since: BootTime,
    /// Silence that was counted in boots before.
    before: Duration,
    /// Longest time between two answers of a CHaS that is well.
    asked_every: Duration,
    /// Calls of this agent so far.
    asked: Asked,
}

/// Calls of one agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// No call has ended.
    Never,
    /// Each was in vain.
    InVain,
    /// At least one was answered.
    Answered,
}

/// Silence of CHaS for which a container is not to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Length that the spec gives.
    pub stop_after: Duration,
    /// Length in force; longer where CHaS is asked less often.
    pub in_force: Duration,
    /// Whether this agent has asked CHaS itself, so that what runs is stopped.
    pub is_certain: bool,
}

impl Silence {
    /// All of it in a sentence, which is the same for as long as it lasts.
    #[must_use]
    pub fn message(&self) -> String {
        let asked = humantime::format_duration(self.stop_after);
        let raised = match self.in_force > self.stop_after {
            true => {
                let in_force = humantime::format_duration(self.in_force);
                format!(", raised to {in_force} since CHaS is asked no more often")
            }
            false => String::new(),
        };
        format!(
            "CHaS has not answered for longer than on_disconnect.stop_after ({asked}{raised}); its next \
             answer starts the container again"
        )
    }
}

impl Contact {
    /// Contact of an agent that knows of none before it.
    #[must_use]
    pub const fn begun(now: BootTime) -> Self {
        Self {
            since: now,
            before: Duration::ZERO,
            asked_every: Duration::ZERO,
            asked: Asked::Never,
        }
    }

    /// Notes an answer of CHaS, which is asked at this interval at least.
    pub const fn record_answer(&mut self, now: BootTime, asked_every: Duration) {
        *self = Self {
            since: now,
            before: Duration::ZERO,
            asked_every,
            asked: Asked::Answered,
        };
    }

    /// Notes that CHaS was asked in vain.
    pub const fn record_failure(&mut self) {
        if matches!(self.asked, Asked::Never) {
            self.asked = Asked::InVain;
        }
    }

    /// Whether a call of this agent has ended, with an answer or without.
    #[must_use]
    pub const fn has_asked(&self) -> bool {
        !matches!(self.asked, Asked::Never)
    }

    /// Silence until now.
    #[must_use]
    pub fn silent_for(&self, now: BootTime) -> Duration {
        self.before.saturating_add(now.since(self.since))
    }

    /// Last answer in this boot; or the beginning of the count in it, where there was none.
    #[must_use]
    pub const fn since(&self) -> BootTime {
        self.since
    }

    /// Silence after which a container with this spec is stopped: twice the interval of the calls at
    /// least, so that one answer that is lost ends nothing. `None`: never.
    #[must_use]
    pub fn in_force(&self, spec: &Spec) -> Option<Duration> {
        let stop_after = spec.on_disconnect.stop_after?;
        Some(stop_after.max(self.asked_every.saturating_mul(2)))
    }

    /// Time at which a container with this spec is stopped, if CHaS does not answer until then.
    /// `None`: never.
    #[must_use]
    pub fn stops_at(&self, spec: &Spec) -> Option<BootTime> {
        let left = self.in_force(spec)?.saturating_sub(self.before);
        Some(self.since.after(left))
    }

    /// The silence for which a container with this spec is not to run now. `None`: it may run.
    #[must_use]
    pub fn suspension(&self, spec: &Spec, now: BootTime) -> Option<Silence> {
        let (stop_after, in_force) = (spec.on_disconnect.stop_after?, self.in_force(spec)?);
        (self.silent_for(now) >= in_force).then_some(Silence {
            stop_after,
            in_force,
            is_certain: self.has_asked(),
        })
    }

    /// Form in which it outlives the agent, after the `last` note; `shortest` is the shortest silence
    /// that ends a container.
    #[must_use]
    pub fn to_store(
        &self,
        last: Option<&StoredContact>,
        (boot_id, shortest): (&str, Duration),
        now: BootTime,
    ) -> StoredContact {
        // Answers that come before the next note are not noted.
        let is_heard = self.asked == Asked::Answered && last.is_none_or(|last| self.is_newer(last));
        StoredContact {
            boot_id: boot_id.to_owned(),
            since: self.since,
            before: self.before,
            asked_every: self.asked_every,
            noted: if is_heard { self.since } else { now },
            is_silent: !is_heard,
            note_every: note_every(shortest),
        }
    }

    /// Whether CHaS has answered this agent since that note.
    fn is_newer(&self, last: &StoredContact) -> bool {
        self.asked == Asked::Answered && self.since > last.since
    }
}

/// Time between two notes, where this is the shortest silence that ends a container.
fn note_every(shortest: Duration) -> Duration {
    let (least, most) = NOTE_EVERY;
    (shortest / NOTES).clamp(least, most)
}

/// Contact with CHaS as it is stored over a restart of the agent. Not each answer is: after a kill
/// it may last longer by [`note_every`](Self::note_every) than the spec says, and never shorter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredContact {
    /// Boot that the times are of.
    pub boot_id: String,
    /// Last answer that was noted.
    pub since: BootTime,
    /// Silence in boots before.
    #[serde(default, skip_serializing_if = "is_default")]
    pub before: Duration,
    /// Longest time between two answers of a CHaS that is well.
    #[serde(default, skip_serializing_if = "is_default")]
    pub asked_every: Duration,
    /// Time until which the silence is known.
    pub noted: BootTime,
    /// Whether no answer came after [`since`](Self::since), until the note.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_silent: bool,
    /// Time until the next note.
    pub note_every: Duration,
}

impl StoredContact {
    /// Whether another note is due, now that this is the contact, and `shortest` the shortest silence
    /// that ends a container.
    #[must_use]
    pub fn is_outdated(
        &self,
        contact: &Contact,
        (boot_id, shortest): (&str, Duration),
        now: BootTime,
    ) -> bool {
        self.boot_id != boot_id
            || note_every(shortest) < self.note_every
            || now.since(self.noted) >= self.note_every
            // It tells of a silence that is over.
            || (self.is_silent && contact.is_newer(self))
    }

    /// The contact as an agent knows it that begins now, in this boot.
    #[must_use]
    pub fn in_boot(&self, boot_id: &str, now: BootTime) -> Contact {
        let Self {
            since,
            before,
            noted,
            asked_every,
            ..
        } = *self;
        let is_other_boot = self.boot_id != boot_id;
        let (since, before) = match is_other_boot {
            true => (now, before.saturating_add(noted.since(since))),
            // CHaS may have answered until the next note was due.
            false if !self.is_silent => (since.after(self.note_every).min(now), before),
            false => (since.min(now), before),
        };
        Contact {
            since,
            before,
            asked_every,
            asked: Asked::Never,
        }
    }
}

#[cfg(test)]
mod tests;
