//! The part of a history that a container's probe makes: its health, and the end of what is
//! unhealthy.

use std::time::Duration;

use super::History;
use crate::desired::{Record, RunState};
use crate::health::{HealthState, ProbeAnswer, Verdict, VerdictChange, check_of};
use crate::observed::{Exit, Instance};
use crate::spec::{HealthCheck, OnFailure};
use crate::time::BootTime;

/// Ticks of the kernel's clock, in which it tells the start of a process.
const TICKS: Duration = Duration::from_millis(50);

impl History {
    /// The time since which the container counts as ready: that of its start where it has no probe,
    /// else that since which its probe says so. `None`: it is not ready.
    #[must_use]
    pub fn ready_since(&self) -> Option<BootTime> {
        let started = self.started?;
        match &self.health {
            None => Some(started),
            Some(health) => health.ready_since(),
        }
    }

    /// Whether the probe says that the container does not work.
    #[must_use]
    pub fn is_unhealthy(&self) -> bool {
        let health = self.health.as_ref();
        health.is_some_and(|health| health.verdict == Verdict::Unhealthy)
    }

    /// Whether the process is to be ended since it is unhealthy, and for nothing else.
    #[must_use]
    pub fn is_to_restart(&self, record: &Record) -> bool {
        let is_to_run = record.run == RunState::Running
            && !record.removing
            && !record.restart_pending
            && record.finished.is_none();
        if !is_to_run {
            return false;
        }
        let check = record
            .spec
            .health
            .as_ref()
            .and_then(|health| health.check());
        let restarts = |check: &HealthCheck| check.on_failure == OnFailure::Restart;
        self.is_unhealthy() && check.is_some_and(restarts)
    }

    /// Notes that a process was started of which the next look tells whether its image has a check:
    /// until then it is not known to be ready.
    pub fn await_look(&mut self) {
        self.health.get_or_insert_default();
    }

    /// Takes in the answer to a probe. Nothing, if it is of another run or to another check.
    pub fn record_answer(
        &mut self,
        check: &HealthCheck,
        started: BootTime,
        answer: &ProbeAnswer,
    ) -> VerdictChange {
        let is_of_run = self.started == Some(started);
        match self
            .health
            .as_mut()
            .filter(|health| is_of_run && health.is_of(check))
        {
            Some(health) => health.record(check, started, answer),
            None => VerdictChange::None,
        }
    }

    /// Notes that the process was stopped since it was unhealthy, and how it ended: an exit like
    /// one by itself. Where nothing is known of the end, the next look finds it.
    pub fn record_unhealthy_stop(
        &mut self,
        record: &Record,
        ended: Option<Exit>,
        now: BootTime,
        delay: impl Fn(u32) -> Duration,
    ) {
        self.attempts = 0;
        self.keep_backoff(|cause| cause != super::Cause::End);
        if let Some(exit) = ended.filter(|exit| !self.is_counted(exit)) {
            self.record_exit((record, record.restart_pending), exit, now, delay);
        }
    }

    /// Holds the health against what a look found: another check, or another run than the one that
    /// is known, begins anew.
    pub(super) fn note_check(&mut self, record: &Record, instance: Option<&Instance>) {
        if instance.is_none() && record.spec.health.is_none() {
            return;
        }
        self.health = check_of(record, instance).map(|check| match self.health.take() {
            Some(health) if health.is_of(check) => health,
            Some(_) | None => HealthState::of(check),
        });
    }

    /// Notes the start of the process that a look found: of one that began later than the run that
    /// is known, nothing is known.
    pub(super) fn note_run(&mut self, since: Option<BootTime>, now: BootTime) {
        let started = *self.started.get_or_insert(since.unwrap_or(now));
        if let Some(since) = since.filter(|since| since.since(started) > TICKS) {
            self.started = Some(since);
            self.end_health();
        }
    }

    /// The run that the answers are about has ended.
    pub(super) fn end_health(&mut self) {
        self.health = self.health.as_ref().map(HealthState::anew);
    }

    /// The cause for which the run that ends now was to end, if it is its health.
    pub(super) fn unhealthy_end(&self, record: &Record) -> Option<String> {
        let health = self.health.as_ref().filter(|_| self.is_to_restart(record));
        health.map(HealthState::why)
    }
}

#[cfg(test)]
mod tests;
