//! Cordon and drain of the node by an operator: stored, and shown with what still runs.

use std::sync::Arc;

use state::cordon::NodeOrder;
use state::desired::Record;
use state::desired::set::Desired;
use state::observed::{Seen, Task};
use state::phase::Goal;
use state::status::Status;
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
        let desired = self.writer.store().desired();
        let marks = desired.marks();
        let mut left = Vec::new();
        if marks.drained_ms().is_some() {
            let records = desired.records();
            left.extend(records.filter_map(|record| self.left(&desired, record)));
            left.sort_by(|a: &LeftView, b| a.name.cmp(&b.name));
            left.extend(self.left_alone(&desired));
        }
        CordonView {
            by: marks.cordoned_by(),
            operator: marks.operator_cordon().cloned(),
            left,
        }
    }

    /// The container, if something of it runs.
    fn left(&self, desired: &Desired, record: &Arc<Record>) -> Option<LeftView> {
        let seen = self.board().known(record.id).seen;
        if !has_task(&seen) {
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
        } else if condition.next_attempt.is_some() && condition.status == Status::Stopping {
            format!(
                "cannot be stopped so far: {}",
                condition.message.unwrap_or_default()
            )
        } else if waits {
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
