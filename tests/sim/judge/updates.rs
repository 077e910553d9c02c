//! Rules of updates and probes: who serves, what is ended for whom, and what is given up.

use std::time::Duration;

use state::desired::Record;
use state::desired::update::UpdateStage;
use state::id::{ContainerId, InstanceName};

use super::{DECISION, Judge};
use crate::bodies::{self, MIN_READY_SECS, RETRIES};
use crate::verdicts::SAVED_AFTER;

/// Longest time for which nobody may have the host ports although somebody serves: a step that
/// fails again and again waits minutes.
const GAP: Duration = Duration::from_mins(15);
/// Longest start of a process, from the decision on.
const START: Duration = Duration::from_secs(20);

/// Answers of one process to its probe.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Readiness {
    /// Since when it runs. `None`: it has ended.
    began: Option<Duration>,
    /// Since when it is ready.
    since: Option<Duration>,
    /// Longest time for which it was.
    longest: Duration,
    /// Failures in a row, and the time of the last one that made it unhealthy.
    failures: u32,
    /// Whether the agent may count failures of the run before: of a process nobody tells its start, and
    /// that another one was started may be lost.
    is_mixed: bool,
    /// Whether it is unhealthy now, and whether the run before was to its end.
    is_unhealthy: bool,
    was_unhealthy: bool,
    unhealthy_at: Option<Duration>,
    /// Last answer for which the body of then has it end.
    endable_at: Option<Duration>,
}

/// Whether the record is of a body without a probe.
fn is_unprobed(record: &Record) -> bool {
    record
        .spec
        .health
        .as_ref()
        .is_none_or(|health| health.check().is_none())
}

impl Judge {
    fn record(&self, id: ContainerId) -> Option<Record> {
        let store = self.store.as_ref().and_then(std::sync::Weak::upgrade)?;
        store.desired().get(id).map(|record| Record::clone(record))
    }

    /// Whether the instance is the generation before, which serves while the next one is tried.
    pub(super) fn is_serving_former(record: &Record, name: InstanceName) -> bool {
        record.update.as_ref().is_some_and(|update| {
            update.is_beside
                && update.stage == UpdateStage::Trying
                && update.former.instance() == name
        })
    }

    /// Notes that somebody has asked for something else.
    pub(crate) fn note_asked(&mut self, id: ContainerId) {
        let now = self.now();
        self.asked_at.insert(id, now);
        self.note_born(id);
        self.hear_of(id);
    }

    pub(super) fn was_asked_within(&self, id: ContainerId, time: Duration) -> bool {
        let at = self.asked_at.get(&id);
        at.is_some_and(|at| self.now() < *at + time)
    }

    /// Whether something was asked of a container, and nothing since so long.
    pub(crate) fn is_asked_before(&self, id: ContainerId, time: Duration) -> bool {
        self.asked_at.contains_key(&id) && !self.was_asked_within(id, time)
    }

    /// Notes the start of a process, and checks that no other runs that is not of the same update.
    pub(super) fn begins(&mut self, name: InstanceName, beside: usize) {
        let (now, record) = (self.now(), self.record(name.id));
        let is_unprobed = record.as_ref().is_none_or(is_unprobed);
        let was_unhealthy = self
            .readiness
            .get(&name)
            .is_some_and(|before| before.is_unhealthy || (before.is_mixed && before.was_unhealthy));
        let readiness = Readiness {
            was_unhealthy,
            began: Some(now),
            since: is_unprobed.then_some(now),
            ..Readiness::default()
        };
        self.readiness.insert(name, readiness);
        let Some(record) = record.filter(|_| !self.was_asked_within(name.id, START)) else {
            return;
        };
        let update = record.update.as_ref();
        // Also once the next one counts: the one before may be ending just then, by its stop signal.
        let are_two = update
            .is_some_and(|update| update.is_beside && update.stage != UpdateStage::Leaving)
            && record.of_instance(name).is_some();
        if beside > usize::from(are_two) {
            self.broken(format!("{name} was started while {beside} others run"));
        }
    }

    /// Notes the answer of a process to its probe.
    pub(crate) fn answers(&mut self, name: InstanceName, works: bool) {
        let now = self.now();
        self.trace(|| format!("{name} answers {works}"));
        self.hear_of(name.id);
        let restarts = self.is_restarted_unhealthy(name);
        let readiness = self.readiness.entry(name).or_default();
        if works {
            (readiness.failures, readiness.since) = (0, readiness.since.or(Some(now)));
            (readiness.is_mixed, readiness.is_unhealthy) = (false, false);
            return;
        }
        readiness.failures += 1;
        if readiness.failures >= RETRIES {
            readiness.longest = readiness.longest.max(ready_for(readiness, now));
            (readiness.since, readiness.unhealthy_at) = (None, Some(now));
            readiness.is_unhealthy = true;
        }
        if restarts && readiness.is_failing() {
            readiness.endable_at = Some(now);
        }
    }

    /// Whether the body that the instance is of has it end where it does not work.
    fn is_restarted_unhealthy(&self, name: InstanceName) -> bool {
        let record = self.record(name.id);
        let of = record.as_ref().and_then(|record| record.of_instance(name));
        let body = of
            .or(record.as_ref())
            .and_then(|record| record.spec.labels["body"].parse().ok());
        body.is_some_and(bodies::restarts)
    }

    /// The agent may have lost of whom it knows which answers.
    pub(crate) fn mix_answers(&mut self) {
        let was_disk_bad = self.was_disk_bad;
        let names: Vec<_> = self.readiness.keys().copied().collect();
        for name in names {
            let is_lost = was_disk_bad || !self.is_quiet(name.id, SAVED_AFTER);
            if let Some(readiness) = self.readiness.get_mut(&name) {
                readiness.is_mixed |= is_lost;
            }
        }
    }

    /// Notes that a process has ended.
    pub(crate) fn over(&mut self, name: InstanceName) {
        let now = self.now();
        if let Some(readiness) = self.readiness.get_mut(&name) {
            readiness.longest = readiness.longest.max(ready_for(readiness, now));
            (readiness.began, readiness.since, readiness.failures) = (None, None, 0);
        }
    }

    /// Whether the agent may end the process for its answers.
    pub(super) fn is_unhealthy(&self, name: InstanceName) -> bool {
        let Some(readiness) = self.readiness.get(&name) else {
            return false;
        };
        let is_recent = |at: Option<Duration>| at.is_some_and(|at| self.now() < at + DECISION);
        let may_be = readiness.is_failing() || is_recent(readiness.unhealthy_at);
        // It may be ended for the body before, which was another one when that was decided.
        (may_be && self.is_restarted_unhealthy(name)) || is_recent(readiness.endable_at)
    }

    /// Checks that the host ports go from a process that serves only to one that was ready for long
    /// enough.
    pub(crate) fn ports_move(&mut self, to: InstanceName, from: InstanceName) {
        self.trace(|| format!("the ports go from {from} to {to}"));
        let Some(record) = self.record(to.id) else {
            return;
        };
        let update = record.update.as_ref().filter(|update| update.is_beside);
        let is_next = update.is_some_and(|update| update.former.instance() == from)
            && record.instance() == to;
        if !is_next {
            return;
        }
        let now = self.now();
        let mut readiness = self.readiness.get(&to).copied().unwrap_or_default();
        // Ready is without a probe what runs, also where a live change has taken the probe away.
        if is_unprobed(&record) {
            readiness.since = readiness.began;
        }
        let ready = readiness.longest.max(ready_for(&readiness, now));
        if ready < Duration::from_secs(MIN_READY_SECS) {
            self.broken(format!(
                "{to} got the ports of {from}, which runs, after it was ready for {ready:?}"
            ));
        }
    }

    /// Checks that what has the host ports is not removed while another one runs that is to get them.
    pub(crate) fn unserves(&mut self, name: InstanceName) {
        let Some(record) = self.record(name.id) else {
            return;
        };
        let is_update = record.update.is_some() && Self::is_to_run(&record);
        if is_update && !self.was_asked_within(name.id, DECISION) {
            self.broken(format!(
                "{name} has the ports and was removed, while another one runs"
            ));
        }
    }

    /// Checks that what was given up had it coming.
    pub(crate) fn gave_up(&mut self, id: ContainerId, generation: u64) {
        let name = InstanceName { id, generation };
        self.trace(|| format!("{name} was given up"));
        let readiness = self.readiness.get(&name).copied().unwrap_or_default();
        let ready = ready_for(&readiness, self.now());
        let is_steady = ready > Duration::from_secs(MIN_READY_SECS + 20);
        let knew = self.life.is_some_and(|life| life.elapsed() > ready);
        if is_steady && knew && !self.was_disk_bad && self.record(id).is_some() {
            self.broken(format!("{name} was given up, and was ready for {ready:?}"));
        }
    }

    /// Checks that somebody has the host ports of a container of which somebody serves. `serving`
    /// runs; `has` has the ports and runs.
    pub(crate) fn note_ports(&mut self, serving: InstanceName, has: Option<InstanceName>) {
        let now = self.now();
        if has.is_some() {
            self.gaps.remove(&serving.id);
            return;
        }
        let since = *self.gaps.entry(serving.id).or_insert(now);
        if now > since + GAP {
            self.broken(format!(
                "{serving} serves, and nobody has the ports since {since:?}"
            ));
        }
    }

    /// Nobody serves of a container, so that nobody is without its ports.
    pub(crate) fn note_no_server(&mut self, id: ContainerId) {
        self.gaps.remove(&id);
    }

    /// Notes that something happened to a container.
    pub(crate) fn hear_of(&mut self, id: ContainerId) {
        let now = self.now();
        self.last_heard.insert(id, now);
    }

    /// Whether nothing has happened to a container for so long.
    pub(crate) fn is_quiet(&self, id: ContainerId, time: Duration) -> bool {
        let last = self.last_heard.get(&id);
        last.is_none_or(|last| self.now() > *last + time)
    }

    /// Nobody knows how long that will last which there was before.
    pub(crate) fn forget_gaps(&mut self) {
        self.gaps.clear();
    }
}

impl Readiness {
    /// Whether it fails often enough to count as unhealthy.
    fn is_failing(&self) -> bool {
        let least = match (self.is_mixed, self.was_unhealthy) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => RETRIES,
        };
        self.failures >= least
    }
}

fn ready_for(readiness: &Readiness, now: Duration) -> Duration {
    readiness
        .since
        .map_or(Duration::ZERO, |since| now.saturating_sub(since))
}
