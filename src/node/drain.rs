//! Cordon and drain of the node by an operator: stored, and shown with what still runs.

use std::sync::Arc;

use state::cordon::NodeOrder;
use state::desired::Record;
use state::desired::set::Desired;
use state::observed::{Seen, Task};
use state::phase::Goal;
use state::status::{Activity, Status};
use state::surroundings::Suspension;

use super::{AgentNode, wall_ms};
use crate::api::{self, NodeMaintenance, Refusal};
use crate::view::{CordonView, LeftView};

impl NodeMaintenance for AgentNode {
    async fn order_node(&self, order: NodeOrder) -> Result<(), Refusal> {
        let (handle, by) = (self.handle.clone(), api::current_call().by);
        self.write(move |store| {
            let changed = store.order_node(order, &by, wall_ms())?;
            changed.iter().for_each(|record| handle.wake(record.id));
            // Whoever follows the drain gives all others their turns.
            handle.board().changed();
            Ok(())
        })
        .await
    }

    fn cordon(&self) -> CordonView {
        self.cordon_view()
    }
}

impl AgentNode {
    /// Cordon of the node, and what still runs if it is drained.
    pub(super) fn cordon_view(&self) -> CordonView {
        // Before the look: what becomes known meanwhile may not be in it.
        let unsure = self.unsure();
        let desired = self.writer.store().desired();
        let marks = desired.marks();
        let is_drained = marks.drained_ms().is_some();
        let mut left = Vec::new();
        if is_drained {
            let records = desired.records();
            left.extend(records.filter_map(|record| self.left(&desired, record)));
            left.sort_by(|a: &LeftView, b| a.name.cmp(&b.name));
            left.extend(self.leftovers(&desired));
            left.extend(self.left_alone(&desired));
        }
        CordonView {
            by: marks.cordoned_by(),
            operator: marks.operator_cordon().cloned(),
            left,
            unsure: unsure.filter(|_| is_drained),
        }
    }

    /// Cause for which it is not known now what runs.
    fn unsure(&self) -> Option<String> {
        let unlisted = || "what containerd holds was not looked at since the agent began";
        let is_unlisted = !self.board().is_listed();
        let blocked = self.blocked();
        blocked.or_else(|| is_unlisted.then(unlisted).map(ToOwned::to_owned))
    }

    /// The container, if something of it runs, or is about to.
    fn left(&self, desired: &Desired, record: &Arc<Record>) -> Option<LeftView> {
        let known = self.board().known(record.id);
        let (is_starting, is_stopping) = match known.activity {
            Some(Activity::Creating) => (true, false),
            Some(Activity::Stopping) => (false, true),
            Some(Activity::Pulling) | None => (false, false),
        };
        if !has_task(&known.seen) && !is_starting && !is_stopping {
            return None;
        }
        let condition = self.managed(record).condition;
        let stays = Goal::of(Some(record)) == Goal::Uncertain;
        let waits = matches!(
            self.board().suspension(desired, record),
            Some(Suspension::Drained { is_due: false })
        );
        let why = if stays {
            "its last change is lost, and nobody knows whether it is to run".to_owned()
        } else if is_starting {
            "is being started".to_owned()
        } else if condition.next_attempt.is_some() && condition.status == Status::Stopping {
            format!(
                "cannot be stopped so far: {}",
                condition.message.unwrap_or_default()
            )
        } else if waits && !is_stopping {
            "waits until others have stopped, which were started after it or have a lower priority"
                .to_owned()
        } else {
            "is being stopped".to_owned()
        };
        Some(LeftView {
            name: record.name.to_string(),
            managed: Some(record.name.clone()),
            why,
            stays,
        })
    }

    /// Containers without a record of which something runs.
    fn leftovers(&self, desired: &Desired) -> Vec<LeftView> {
        // Then a record may be missing, and nothing without one is removed.
        let stays = desired.is_adoption_unreadable();
        let why = match stays {
            true => "has no record that this agent can read",
            false => "has no record, and is being removed",
        };
        let leftovers = self.board().leftovers(desired).into_iter();
        let running = leftovers.filter(|(_, seen)| has_task(seen));
        let shown = running.map(|(id, _)| LeftView {
            name: id.to_string(),
            managed: None,
            why: why.to_owned(),
            stays,
        });
        shown.collect()
    }

    /// Containers that run, and that the agent stops for no drain.
    fn left_alone(&self, desired: &Desired) -> Vec<LeftView> {
        let alone = |name: String, why: &str| LeftView {
            name,
            managed: None,
            why: why.to_owned(),
            stays: true,
        };
        let unreadable = desired.unreadable_ids().into_iter();
        let unreadable = unreadable.filter(|id| has_task(&self.board().known(*id).seen));
        let unreadable = unreadable.map(|id| {
            alone(
                id.to_string(),
                "its record is of another version, which this agent cannot read",
            )
        });
        let unmanaged = self.board().unmanaged().into_iter();
        let unmanaged = unmanaged.filter(|container| container.running);
        let unmanaged = unmanaged.map(|one| alone(one.id, "is not managed by this agent"));
        unreadable.chain(unmanaged).collect()
    }
}

fn has_task(seen: &Seen) -> bool {
    let mut instances = seen.instances.values();
    instances.any(|instance| instance.task != Task::Absent)
}
