//! Surroundings of containers, from what the board knows of the others; and the turns of those that
//! waited for one that changed.

use state::desired::Record;
use state::desired::set::Desired;
use state::event::{Event, EventKind, EventSubject};
use state::history::History;
use state::id::ContainerName;
use state::order::{Other, circle, former_waits, given_up, is_waiting, waits};
use state::phase::{Goal, Phase};
use state::surroundings::Surroundings;

use super::{Board, Known, Reconciler};
use crate::runtime::Runtime;

impl Board {
    /// All that stands outside of a container and holds it back, as it is now.
    #[must_use]
    pub fn surroundings(&self, desired: &Desired, record: &Record) -> Surroundings {
        if Self::waits_for_none(record) {
            return self.node_alone(desired, record);
        }
        let history = self.known(record.id).history.of(record);
        self.surroundings_of(desired, record, &history)
    }

    /// [`Self::surroundings`], with words about those that the container waits for.
    #[must_use]
    pub(crate) fn told_surroundings(&self, desired: &Desired, record: &Record) -> Surroundings {
        let mut around = self.surroundings(desired, record);
        let both = around.waits.iter_mut().chain(&mut around.former_waits);
        for waits in both {
            let find = |name: &ContainerName| self.other(desired, name);
            state::order::tell(waits, find, self.clock.now());
            for entry in &mut waits.entries {
                if desired.is_unreadable_name(&entry.name) {
                    entry.why = Some("has a record that this agent cannot read".to_owned());
                }
            }
        }
        around
    }

    /// The verdict about a container, as things are now, with words for those who read it. What is known
    /// of it has the history of this record.
    #[must_use]
    pub(crate) fn told_phase(&self, desired: &Desired, record: &Record, known: &Known) -> Phase {
        let around = self.told_surroundings(desired, record);
        Phase::of(
            record.id,
            Some(record),
            &known.seen,
            &known.history,
            &around,
        )
    }

    /// The verdict about a container, as things are now.
    #[must_use]
    pub fn phase(&self, desired: &Desired, record: &Record) -> Phase {
        let around = self.surroundings(desired, record);
        let known = self.known(record.id);
        let history = known.history.of(record);
        Phase::of(record.id, Some(record), &known.seen, &history, &around)
    }

    /// The surroundings of a container with this history.
    pub(super) fn surroundings_of(
        &self,
        desired: &Desired,
        record: &Record,
        history: &History,
    ) -> Surroundings {
        if Self::waits_for_none(record) {
            return self.node_alone(desired, record);
        }
        let find = |name: &ContainerName| self.other(desired, name);
        let now = self.clock.now();
        let mut waits = waits(record, history, find, now);
        // Whoever waits for himself by way of others would wait for ever.
        if waits.is_some()
            && let Some(left) = circle::left(desired, record)
        {
            waits = state::order::waits(&left, history, find, now);
        }
        let free = |former: &Record| circle::left(desired, former);
        Surroundings {
            waits,
            former_waits: former_waits(record, history, find, free, now),
            ..self.node_alone(desired, record)
        }
    }

    /// Surroundings as the node itself makes them, apart from its other containers.
    fn node_alone(&self, desired: &Desired, record: &Record) -> Surroundings {
        Surroundings {
            suspension: self.suspension(desired, record),
            spares_unhealthy: self.is_braked(),
            cordon: desired.marks().cordoned_by(),
            ..Surroundings::NONE
        }
    }

    fn waits_for_none(record: &Record) -> bool {
        let mut records = record.with_former();
        records.all(|record| record.spec.after.is_empty())
    }

    fn other(&self, desired: &Desired, name: &ContainerName) -> Option<Other> {
        let record = desired.named(name)?;
        let known = self.known(record.id);
        let suspension = self.suspension(desired, record);
        Some(Other {
            record: record.clone(),
            seen: known.seen,
            history: known.history,
            activity: known.activity,
            suspension,
        })
    }
}

impl<R: Runtime> Reconciler<R> {
    /// Lets a container go that waits for nobody (any more), and tells whom it has waited for in vain.
    pub(super) fn let_go(&self, desired: &Desired, record: &Record, history: &History) {
        if record.spec.after.is_empty() || history.is_let_go(record) {
            return;
        }
        let find = |name: &ContainerName| self.board.other(desired, name);
        let names = given_up(record, history, find, self.board.clock.now());
        if let Some(circle) = circle::of(desired, record) {
            let (container, circle) = (&record.name, circle::as_text(&circle));
            tracing::warn!(%container, %circle, "started without those that wait for it");
        }
        self.board
            .update(record.id, |known| known.history.record_let_go());
        if !names.is_empty() {
            let names = names.iter().map(ToString::to_string).collect();
            let subject = EventSubject::new(record.id, Some(record));
            let given_up = Event::from(EventKind::WaitGivenUp { names });
            self.journal.record(given_up.about(subject));
        }
    }

    /// Gives those a turn that waited for the container with this name, and wait no more.
    pub(super) fn wake_followers(&self, name: &ContainerName) {
        let desired = self.writer.store().desired();
        let follows = |record: &Record| {
            let mut afters = record.with_former().flat_map(|record| &record.spec.after);
            let is_named = afters.any(|after| after.name == *name);
            is_named && matches!(Goal::of(Some(record)), Goal::Running | Goal::Cordoned)
        };
        for record in desired.records().filter(|record| follows(record)) {
            let history = self.board.known(record.id).history.of(record);
            let find = |name: &ContainerName| self.board.other(&desired, name);
            let now = self.board.clock.now();
            let is_waiting = |record: &Record| is_waiting(record, &history, find, now);
            let is_due = !history.is_let_go(record)
                && (!is_waiting(record)
                    || circle::left(&desired, record).is_some_and(|left| !is_waiting(&left)));
            let free = |former: &Record| circle::left(&desired, former);
            let former_is_due =
                record.stands_back() && former_waits(record, &history, find, free, now).is_none();
            if is_due || former_is_due {
                self.queue.wake(record.id);
            }
        }
    }
}
