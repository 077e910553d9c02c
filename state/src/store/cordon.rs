//! The operator's cordon and drain of the node.

use std::sync::Arc;

use super::{Store, StoreError};
use crate::cordon::{NodeOrder, OperatorCordon};
use crate::desired::Record;
use crate::desired::marks::Mark;
use crate::desired::set::{Desired, DesiredChange};

impl Store {
    /// Carries out an operator's order about the node. Answers the containers that it changes: those that
    /// waited for the end of the cordon. An order that is carried out already changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Disk`], [`StoreError::Audit`].
    pub fn order_node(
        &self,
        order: NodeOrder,
        by: &str,
        now_ms: u64,
    ) -> Result<Vec<Arc<Record>>, StoreError> {
        self.transact(|desired| {
            let before = desired.marks().operator_cordon();
            let begun = || OperatorCordon {
                by: by.to_owned(),
                at_ms: now_ms,
                drained_ms: None,
            };
            let drained = |cordon: OperatorCordon| OperatorCordon {
                by: by.to_owned(),
                drained_ms: Some(now_ms),
                ..cordon
            };
            let is_drained = desired.marks().drained_ms().is_some();
            let cordon = match (order, before) {
                (NodeOrder::Uncordon, None) | (NodeOrder::Cordon, Some(_)) => {
                    return Ok((Vec::new(), Vec::new()));
                }
                (NodeOrder::Drain, Some(_)) if is_drained => return Ok((Vec::new(), Vec::new())),
                (NodeOrder::Uncordon, Some(_)) => None,
                (NodeOrder::Cordon, None) => Some(begun()),
                (NodeOrder::Drain, before) => Some(drained(before.cloned().unwrap_or_else(begun))),
            };
            let mark = DesiredChange::Mark(Mark::OperatorCordon(cordon));
            let after = desired.with(std::slice::from_ref(&mark));
            let freed = freed(&after);
            let changed = freed.iter().cloned().map(Arc::new).collect();
            let puts = freed
                .into_iter()
                .map(|record| DesiredChange::Put(Box::new(record)));
            Ok(([mark].into_iter().chain(puts).collect(), changed))
        })
    }
}

/// Containers that came while the node was cordoned and wait no more, as they are then; none while
/// somebody holds the cordon.
pub(super) fn freed(desired: &Desired) -> Vec<Record> {
    if desired.marks().cordoned_by().any() {
        return Vec::new();
    }
    let waiting = desired.records().filter(|record| record.cordoned);
    let free = waiting.map(|record| Record {
        cordoned: false,
        ..Record::clone(record)
    });
    free.collect()
}
