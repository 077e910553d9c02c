//! Containers, the set owned by push and the link to CHaS, read from the store and the board: every answer
//! comes from memory.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use state::access::NameScope;
use state::desired::{Owner, Record};
use state::due::next_run;
use state::health;
use state::id::ContainerId;
use state::observed::{Exit, Instance, Task};
use state::ownership;
use state::status::{Condition, Status, condition};
use state::time::unix_ms;

use super::AgentNode;
use crate::reconcile::{Board, Known};
use crate::runtime::UnmanagedContainer;
use crate::view::{
    ContainerView, FindError, Found, LinkView, ManagedView, Moment, Naming, ProbeView, PushSetView,
    UnmanagedView, find,
};

impl AgentNode {
    /// Every container: the managed ones by name, then the unmanaged.
    pub(super) fn containers(&self) -> Vec<ContainerView> {
        let mut views: Vec<_> = self.managed_containers().collect();
        views.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        let managed = views.into_iter().map(Box::new).map(ContainerView::Managed);
        let unmanaged = self.unmanaged().into_iter().map(ContainerView::Unmanaged);
        managed.chain(unmanaged).collect()
    }

    /// Every managed container, by id.
    pub(super) fn managed_containers(&self) -> impl Iterator<Item = ManagedView> {
        let desired = self.writer.store().desired();
        let records: Vec<_> = desired.records().cloned().collect();
        records.into_iter().map(|record| self.managed(&record))
    }

    /// The managed container with this id.
    pub(super) fn container(&self, id: ContainerId) -> Option<ManagedView> {
        let desired = self.writer.store().desired();
        desired.get(id).map(|record| self.managed(record))
    }

    /// The container that a text names.
    pub(super) fn find(&self, text: &str, naming: Naming) -> Result<ContainerView, FindError> {
        let desired = self.writer.store().desired();
        let found = find(&desired, &self.unmanaged(), text, naming);
        if found.is_err() && desired.is_unknown() {
            return Err(FindError::StateUnknown(text.to_owned()));
        }
        Ok(match found? {
            Found::Managed(record) => ContainerView::Managed(Box::new(self.managed(&record))),
            Found::Unmanaged(view) => ContainerView::Unmanaged(view),
        })
    }

    /// The container that a record asks for. The record may not be stored yet.
    pub(super) fn managed(&self, record: &Arc<Record>) -> ManagedView {
        let mut known = self.board().known(record.id);
        // The board is older than the record until the turn that the change woke has taken its
        // first look.
        known.history = known.history.of(record);
        let taken = moment(self.board());
        // What is stored outlives the history, which may tell of an earlier end.
        let stored = record.finished.as_ref().map(Exit::stored);
        let exit = stored.as_ref().or(known.history.last_exit.as_ref());
        ManagedView {
            condition: self.shown_condition(record, &known),
            taken,
            started: started(&known, record, taken),
            finished: exit.map(|exit| exit.at),
            exit_code: exit.map(|exit| exit.code),
            memory_kills: known.history.memory_kills.total,
            restart_count: known.history.restart_count,
            pull: known.pull.as_ref().map(|progress| progress.get()),
            next_run: next_run(record, unix_ms(taken.wall))
                .map(|at_ms| SystemTime::UNIX_EPOCH + Duration::from_millis(at_ms)),
            applied_generation: known.seen.serving_generation(record, |instance| {
                known.history.trial.drain_of(instance).is_some()
            }),
            ready_since: known.history.ready_since(),
            health: probe(&known, record, taken),
            record: Arc::clone(record),
        }
    }

    /// Condition of the container, or why none can be looked at while it is pending.
    fn shown_condition(&self, record: &Record, known: &Known) -> Condition {
        let phase = self
            .board()
            .told_phase(&self.writer.store().desired(), record, known);
        let (activity, out_of_reach) = (known.activity, self.out_of_reach());
        let told = out_of_reach.as_ref().map(|(_, message)| message.as_str());
        let mut condition = condition(record, &phase, &known.history, activity, told);
        if let Some((reason, message)) = &out_of_reach
            && condition.message.as_ref() == Some(message)
        {
            condition.reason = Some(*reason);
        }
        if let Some(noted) = known.pull.as_ref().and_then(|progress| progress.noted()) {
            condition.message = Some(noted);
        }
        condition
    }

    fn unmanaged(&self) -> Vec<UnmanagedView> {
        let unmanaged_containers = self.board().unmanaged();
        unmanaged_containers.into_iter().map(unmanaged).collect()
    }

    /// Containers with these names of the set owned by push.
    pub(super) fn push_set(&self, scope: &NameScope) -> PushSetView {
        let desired = self.writer.store().desired();
        let set = ownership::push_set(&desired).into_iter();
        PushSetView {
            records: set
                .filter(|record| scope.has(&record.name))
                .cloned()
                .collect(),
            etag: ownership::etag_of(&desired, scope),
        }
    }

    /// The link to CHaS. `None`: none is configured.
    pub(super) fn link_view(&self) -> Option<LinkView> {
        let standing = self.contact.as_ref()?.status();
        let desired = self.writer.store().desired();
        let applied = desired.marks().applied_set();
        let unconfirmed = applied.and_then(|applied| applied.unconfirmed.as_ref());
        let is_owned = |record: &&Arc<Record>| record.owner == Owner::Chas && !record.removing;
        Some(LinkView {
            reachable: standing.reachable,
            since: standing.since,
            error: standing.error,
            failing_since: standing.failing_since,
            refuses: standing.refuses,
            silent_for: self
                .board()
                .contact()
                .map(|contact| contact.silent_for(self.board().clock.now())),
            registered: standing.registered,
            identity_conflict: standing.identity_conflict,
            stale: standing.freshness.stale,
            age_s: standing.freshness.age_s,
            fault_code: standing.freshness.fault.as_ref().map(|fault| fault.code),
            fault: standing.freshness.fault.map(|fault| fault.message),
            fault_since: standing.fault_since,
            generation: applied.map(|applied| applied.version.generation),
            owned: desired.records().filter(is_owned).count(),
            pending_prune: unconfirmed
                .map(|unconfirmed| unconfirmed.names().map(ToString::to_string).collect())
                .unwrap_or_default(),
            refused: applied
                .and_then(|applied| applied.refused.as_ref())
                .map(|refused| (refused.epoch.clone(), refused.generation)),
            cordoned: desired.marks().cordoned(),
            conflicts: applied.map_or(0, |applied| applied.conflicts.len()),
            rejected: applied.map_or(0, |applied| applied.rejected.len()),
        })
    }
}

/// The start of the container's process: of the one that runs, else of the one that ended last.
fn started(known: &Known, record: &Record, taken: Moment) -> Option<SystemTime> {
    let history = &known.history;
    // Right after the agent's start, the look is there before the history has taken it in.
    let seen = match known.seen.task(record) {
        Task::Running { since, .. } => *since,
        Task::Created { .. } | Task::Stopped(_) | Task::Unresponsive | Task::Absent => None,
    };
    let running = history.started.or(seen).map(|at| taken.wall_at(at));
    let ended = || {
        let end = history.last_exit.as_ref()?.at;
        // The end of a task that was lost has no known time.
        (end > SystemTime::UNIX_EPOCH)
            .then_some(end)?
            .checked_sub(history.last_run?)
    };
    running.or_else(ended)
}

/// The probe of a container that runs, and what it says.
fn probe(known: &Known, record: &Record, taken: Moment) -> Option<ProbeView> {
    let instance = known.seen.instance(record);
    let is_running = |instance: &&Instance| matches!(instance.task, Task::Running { .. });
    let check = health::check_of(record, Some(instance.filter(is_running)?))?;
    let state = known.history.health.as_ref()?;
    Some(ProbeView {
        check: check.clone(),
        state: state.clone(),
        is_stale: state.is_stale(check, known.history.started?, taken.boot),
        is_of_image: record.spec.health.is_none(),
    })
}

pub(super) fn moment(board: &Board) -> Moment {
    let (boot, wall) = board.now_by_both();
    Moment { boot, wall }
}

fn unmanaged(container: UnmanagedContainer) -> UnmanagedView {
    UnmanagedView {
        id: container.id,
        image: container.image,
        status: if container.running {
            Status::Running
        } else {
            Status::Stopped
        },
    }
}
