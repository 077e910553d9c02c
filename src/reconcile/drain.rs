//! Drain of the node: containers get their turns to be stopped, one wave after the other, and all of them
//! a turn when it begins or is over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use state::cordon::{DrainedContainer, due};
use state::desired::Record;
use state::desired::set::Desired;
use state::history::Cause;
use state::id::ContainerId;
use state::observed::Task;
use state::phase::Goal;
use state::surroundings::Suspension;

use super::{Board, Handle};
use crate::lock::lock;
use crate::writer::Writer;

/// Shortest time between two looks: much changes on a node that is drained.
const LOOK_AFTER: Duration = Duration::from_millis(50);

impl Board {
    /// Cause for which a container is not to run for a while. `None`: it may run.
    #[must_use]
    pub fn suspension(&self, desired: &Desired, record: &Record) -> Option<Suspension> {
        let silent = self.silence(&record.spec).map(Suspension::Silent);
        let drained = desired.marks().drained_ms().map(|order| {
            let due = lock(&self.drain_due);
            let is_due = due.0 == order && due.1.contains(&record.id);
            Suspension::Drained { is_due }
        });
        Suspension::either(drained, silent)
    }

    /// Notes that each container waits for others again before its next start.
    fn note_drain(&self) {
        let mut all = lock(&self.known);
        all.values_mut()
            .for_each(|known| known.history.record_drain());
    }

    /// Ids of the containers of which something runs, or could, and whether they could not be stopped
    /// so far.
    fn with_tasks(&self) -> BTreeMap<ContainerId, bool> {
        let mut found = BTreeMap::new();
        self.each(|id, known| {
            let mut instances = known.seen.instances.values();
            if instances.any(|instance| instance.task != Task::Absent) {
                let backoff = known.history.backoff.as_ref();
                let is_stuck = backoff.is_some_and(|backoff| backoff.cause == Cause::End);
                found.insert(id, is_stuck);
            }
        });
        found
    }
}

/// Follower of the drain. It never ends.
pub async fn follow_drain(writer: Writer, handle: Handle) {
    let mut changes = handle.board().changes();
    let mut before = writer.store().desired().marks().drained_ms();
    loop {
        changes.mark_unchanged();
        let desired = writer.store().desired();
        let order = desired.marks().drained_ms();
        let newly = match order {
            Some(order) => let_go(&desired, &handle, order),
            None => BTreeSet::new(),
        };
        if order == before {
            newly.into_iter().for_each(|id| handle.wake(id));
        } else {
            desired.records().for_each(|record| handle.wake(record.id));
        }
        before = order;
        if order.is_some() {
            tokio::time::sleep(LOOK_AFTER).await;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Notes whose turn it is now; answers those whose turn it was not before.
fn let_go(desired: &Desired, handle: &Handle, order: u64) -> BTreeSet<ContainerId> {
    let board = handle.board();
    let with_tasks = board.with_tasks();
    let is_wanted = |record: &Record| {
        let is_to_run = matches!(Goal::of(Some(record)), Goal::Running | Goal::Cordoned);
        is_to_run && with_tasks.contains_key(&record.id)
    };
    let records = desired.records().filter(|record| is_wanted(record));
    let running: Vec<_> = records
        .map(|record| DrainedContainer {
            id: record.id,
            name: &record.name,
            after: record.spec.after.iter().map(|after| &after.name).collect(),
            priority: record.priority,
            is_stuck: with_tasks.get(&record.id).is_some_and(|stuck| *stuck),
        })
        .collect();
    let now = due(&running);
    let mut due = lock(&board.drain_due);
    if due.0 != order {
        *due = (order, BTreeSet::new());
        // Before anything is stopped: what waits or is being tried has no turn until then.
        board.note_drain();
    }
    let newly: BTreeSet<_> = now.difference(&due.1).copied().collect();
    due.1.extend(&newly);
    newly
}
