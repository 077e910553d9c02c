//! Knowledge of the agent before this one: taken in at the start, or once the files that hold it can be
//! opened.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;

use state::desired::set::Desired;

use super::Reconciler;
use crate::runtime::Runtime;

impl<R: Runtime> Reconciler<R> {
    /// Takes the saved histories in: at the start, or once the files that hold them can be opened.
    pub(super) fn remember_histories(&self) {
        // Before they are read: what becomes known meanwhile is taken in later.
        let is_known = !self.writer.store().desired().is_unknown();
        let boot_id = self.board.clock.boot_id();
        for (id, history) in self.writer.store().histories(&boot_id) {
            self.board.update(id, |known| known.history = history);
        }
        self.board.look_for_brake();
        self.remembers.store(is_known, Ordering::Relaxed);
    }

    /// Whether what the agent before knew is taken in.
    pub(super) fn remembers(&self) -> bool {
        self.remembers.load(Ordering::Relaxed)
    }

    /// Whether a turn may act, and count what it finds: it is known what was asked last, and what the
    /// agent before knew is taken in. A turn that may not has another once it is.
    pub(super) fn may_act(&self, desired: &Desired) -> bool {
        let is_unknown = desired.is_unknown();
        if is_unknown && self.remembers.swap(false, Ordering::Relaxed) {
            self.look_at_all.notify_one();
        }
        !is_unknown && self.remembers()
    }

    /// Goes on once it is known what was asked last. A turn before that has led to nothing, nor to a turn
    /// later: so each container has one now, whatever it waits for.
    pub(super) fn become_known(&self) {
        self.remember_histories();
        self.remember_contact();
        let desired = self.writer.store().desired();
        let mut records: Vec<_> = desired.records().collect();
        records.sort_by_key(|record| Reverse((record.priority, record.id)));
        for record in records {
            self.queue.wake(record.id);
        }
    }
}
