//! Knowledge of the agent before this one: taken in at the start, or once the files that hold it can be
//! opened.

use std::cmp::Reverse;

use super::Reconciler;
use crate::runtime::Runtime;

impl<R: Runtime> Reconciler<R> {
    /// Takes the saved histories in: at the start, or once the files that hold them can be opened.
    pub(super) fn remember_histories(&self) {
        let boot_id = self.board.clock.boot_id();
        for (id, history) in self.writer.store().histories(&boot_id) {
            self.board.update(id, |known| known.history = history);
        }
        self.board.look_for_brake();
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
