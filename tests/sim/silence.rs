//! Silence of CHaS that the agent has counted at the end of a life, and the next one is to know.

use std::time::Duration;

use chas_node_agent::reconcile::Handle;
use state::store::Store;

use crate::bodies;
use crate::world::World;

/// Time that may be lost: two notes, each a twentieth of the shortest silence that ends a container.
const LOST_MAX: Duration = Duration::from_secs(25);
/// Time without a change after which the agent has noted it.
const NOTED_AFTER: Duration = Duration::from_secs(60);

/// Silence that a life cannot have lost. `None`: none.
#[derive(Debug, Default)]
pub(crate) struct Silence(Option<Duration>);

impl Silence {
    /// The silence that was counted.
    pub(crate) fn of(store: &Store, handle: &Handle, world: &World) -> Self {
        let (board, desired) = (handle.board(), store.desired());
        let mut judge = world.judge();
        let mut records = desired.records();
        let is_noted = records.any(|record| {
            let rests = bodies::stop_after(record.name.as_str()).is_some() && !record.removing;
            rests && judge.is_asked_before(record.id, NOTED_AFTER)
        });
        if judge.was_disk_bad || !store.is_writable() || !is_noted {
            return Self::default();
        }
        let contact = board.contact();
        let silent = contact.map(|contact| contact.silent_for(board.clock.now()));
        judge.trace(|| format!("silence of CHaS: {silent:?}"));
        Self(silent)
    }

    /// The agent is away for a time, and the node is not.
    pub(crate) fn passes(&mut self, time: Duration) {
        self.0 = self.0.map(|silent| silent + time);
    }

    /// Compares what the next life knows.
    pub(crate) fn check(&self, handle: &Handle, world: &World) -> Result<(), String> {
        let board = handle.board();
        let contact = board.contact().ok_or("the agent knows of no CHaS")?;
        let now = contact.silent_for(board.clock.now());
        let is_read = !world.judge().was_disk_bad;
        match self.0.filter(|_| is_read) {
            Some(before) if now + LOST_MAX < before => Err(format!(
                "CHaS was silent for {before:?}, and the next life knows of {now:?}"
            )),
            Some(_) | None => Ok(()),
        }
    }
}
