//! Verdicts of probes at the end of a life, which the next one is to know.

use std::collections::BTreeMap;
use std::time::Duration;

use chas_node_agent::reconcile::Handle;
use state::health::{HealthState, Verdict};
use state::id::ContainerId;
use state::store::Store;

use crate::world::World;

/// Time after a change in which it may be lost.
pub(crate) const SAVED_AFTER: Duration = Duration::from_secs(2);

/// Verdicts that a life cannot have lost.
#[derive(Debug, Default)]
pub(crate) struct Verdicts(BTreeMap<ContainerId, HealthState>);

/// Answers on the way to another verdict. One more of those that confirm it is not saved.
fn on_the_way(health: &HealthState) -> Option<(bool, u32)> {
    let confirms = matches!(
        (health.verdict, health.is_success),
        (Verdict::Ready, true) | (Verdict::Unhealthy, false)
    );
    (!confirms).then_some((health.is_success, health.streak))
}

impl Verdicts {
    /// Verdicts of those that run, and of whom nothing was heard a moment ago.
    pub(crate) fn of(store: &Store, handle: &Handle, world: &World, is_orderly: bool) -> Self {
        let (desired, running) = (store.desired(), world.running());
        if world.judge().was_disk_bad || !store.is_writable() {
            return Self::default();
        }
        let kept = desired.records().filter_map(|record| {
            let is_quiet = world.judge().is_quiet(record.id, SAVED_AFTER);
            let is_kept = running.contains(&record.instance()) && is_quiet;
            let health = handle.board().known(record.id).history.health?;
            (is_kept && (is_orderly || health.last.is_some())).then_some((record.id, health))
        });
        Self(kept.collect())
    }

    /// Compares what the next life knows.
    pub(crate) fn check(&self, handle: &Handle, world: &World) -> Result<(), String> {
        let running = world.running();
        // What cannot be read is not known.
        if world.judge().was_disk_bad {
            return Ok(());
        }
        for (id, before) in &self.0 {
            let now = handle.board().known(*id).history.health;
            let of = |health: &HealthState| (health.verdict, health.since, on_the_way(health));
            if running.iter().all(|name| name.id != *id) {
                continue;
            }
            if now.as_ref().map(of) != Some(of(before)) {
                return Err(format!("of {id} {before:?} was known, and now {now:?}"));
            }
        }
        Ok(())
    }
}
