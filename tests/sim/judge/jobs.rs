//! Rules of containers with a schedule: each of its times has one process, and no second one.

use std::time::Duration;

use state::desired::Record;
use state::id::InstanceName;

use super::Judge;
use crate::dice;

impl Judge {
    /// Notes the start of a process, and checks that it is the first for its time.
    pub(super) fn runs_job(&mut self, name: InstanceName) {
        let Some(record) = self.current(name) else {
            return;
        };
        if record.spec.schedule.is_none() {
            return;
        }
        let takes = match dice::below(10) {
            0..6 => dice::millis(20_000),
            6..9 => dice::millis(100_000),
            _ => dice::millis(400_000),
        };
        let end = self.now() + takes;
        self.job_ends.insert(name, end);
        let Some(at) = self.launched_for.remove(&name) else {
            return;
        };
        self.trace(|| format!("{name} runs for {at}"));
        if !self.ran.insert((name, at)) {
            self.broken(format!("{name} was run twice for {at}"));
        }
    }

    /// Notes for which time a process is to be started. Another may come before it is.
    pub(super) fn launches_job(&mut self, record: &Record) {
        let run = record.job.as_ref().and_then(|job| job.run);
        match run.and_then(|run| run.scheduled_ms) {
            Some(at) => self.launched_for.insert(record.instance(), at),
            None => self.launched_for.remove(&record.instance()),
        };
    }

    fn current(&self, name: InstanceName) -> Option<Record> {
        let store = self.store.as_ref().and_then(std::sync::Weak::upgrade)?;
        let record = Record::clone(store.desired().get(name.id)?);
        (record.instance() == name).then_some(record)
    }

    /// A process is gone, and nobody knows how far its run was: it is begun again.
    pub(crate) fn lost_job(&mut self, name: InstanceName) {
        self.ran.retain(|(ran, _)| *ran != name);
    }

    /// Nobody knows any more which times had their runs.
    pub(crate) fn forget_runs(&mut self) {
        self.ran.clear();
    }

    /// Jobs whose work is done by now.
    pub(crate) fn done_jobs(&mut self) -> Vec<InstanceName> {
        let now = self.now();
        let due = self.job_ends.iter().filter(|(_, end)| **end <= now);
        let done: Vec<_> = due.map(|(name, _)| *name).collect();
        self.job_ends.retain(|_, end| *end > now);
        done
    }

    /// Time from the history's begin, for the clock on the wall.
    pub(crate) fn age(&self) -> Duration {
        self.now()
    }
}
