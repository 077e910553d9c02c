//! Rules of the node's cordon and drain: nothing is started that is held back, and after a drain
//! each waits again for those that it is to be started after.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use state::desired::Record;
use state::id::{ContainerId, InstanceName};

use super::{DECISION, Judge};

/// Time after which a stop is for the drain, and for nothing that was asked before.
const SURELY_DRAINED: Duration = Duration::from_secs(30);

/// Cordon and drain as far as they were seen.
#[derive(Debug, Default)]
pub(super) struct Cordon {
    /// Since when the node is cordoned, by whomever. `None`: it is not.
    held: Option<Duration>,
    /// Since when it is drained. `None`: it is not.
    drained: Option<Duration>,
    /// Begin of the last drain, and the last moment at which it was seen.
    last_drain: Option<(Duration, Duration)>,
    /// Time at which each container was first asked for.
    born: BTreeMap<ContainerId, Duration>,
}

impl Judge {
    /// Looks who holds the cordon.
    pub(crate) fn look_at_cordon(&mut self) {
        let Some(store) = self.store.as_ref().and_then(Weak::upgrade) else {
            return;
        };
        let (now, desired) = (self.now(), store.desired());
        let (is_held, is_drained) = (
            desired.marks().cordoned_by().any(),
            desired.marks().drained_ms().is_some(),
        );
        let cordon = &mut self.cordon;
        cordon.held = is_held.then(|| cordon.held.unwrap_or(now));
        let begins = is_drained && cordon.drained.is_none();
        cordon.drained = is_drained.then(|| cordon.drained.unwrap_or(now));
        if let Some(began) = cordon.drained {
            cordon.last_drain = Some((began, now));
        }
        if begins {
            // From then on each may wait again, and nobody knows which of the ends meanwhile count.
            self.forget_starts();
            self.forget_all_exits();
        }
    }

    /// Notes that a container is asked for.
    pub(super) fn note_born(&mut self, id: ContainerId) {
        let now = self.now();
        self.cordon.born.entry(id).or_insert(now);
    }

    /// Whether the node is drained, or was when somebody decided what is done now.
    pub(super) fn may_be_drained(&mut self) -> bool {
        self.look_at_cordon();
        let last = self.cordon.last_drain;
        last.is_some_and(|(_, seen)| self.now() < seen + DECISION)
    }

    /// Checks that nothing is started that the cordon or the drain holds back.
    pub(super) fn starts_in_cordon(&mut self, record: &Record) {
        self.look_at_cordon();
        let (now, name, cordon) = (self.now(), &record.name, &self.cordon);
        let drained = cordon.drained.filter(|since| now > *since + DECISION);
        let born = cordon.born.get(&record.id);
        let is_new = cordon
            .held
            .is_some_and(|since| born.is_some_and(|born| *born > since));
        if let Some(since) = drained {
            self.broken(format!(
                "{name} was started, though the node is drained since {since:?}"
            ));
        }
        if is_new {
            self.broken(format!(
                "{name} was started, though it came when the node was cordoned"
            ));
        }
    }

    /// Whether a start may have been decided on before the last drain.
    pub(super) fn is_drain_new(&self) -> bool {
        let last = self.cordon.last_drain;
        last.is_some_and(|(began, _)| self.now() < began + DECISION)
    }

    /// The agent has stopped a process. If that was for the drain, it counts as started no more.
    pub(crate) fn stopped(&mut self, name: InstanceName) {
        if !self.may_be_drained() {
            return;
        }
        // Its run is begun again.
        self.lost_job(name);
        let record = self.store.as_ref().and_then(Weak::upgrade);
        let record = record.and_then(|store| store.desired().get(name.id).cloned());
        let is_sure = self.cordon.drained.is_some()
            && !self.was_asked_within(name.id, SURELY_DRAINED)
            && !self.may_rest(name);
        let Some(record) = record.filter(|record| is_sure && Self::is_to_run(record)) else {
            return;
        };
        self.started.0.remove(&name);
        if self.started.0.iter().all(|other| other.id != name.id) {
            self.started.1.remove(&record.name);
        }
    }
}
