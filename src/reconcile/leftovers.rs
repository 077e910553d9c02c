//! What the runtime holds that nothing asks for, as far as it is known.

use std::collections::BTreeMap;

use state::desired::set::Desired;
use state::id::ContainerId;
use state::observed::Seen;

use super::board::Board;
use crate::lock::lock;

impl Board {
    /// What was found of containers that have no record. Nothing, while what has none is not known to be unwanted.
    #[must_use]
    pub fn leftovers(&self, desired: &Desired) -> BTreeMap<ContainerId, Seen> {
        if desired.adoption().is_some() {
            return BTreeMap::new();
        }
        let known = lock(&self.known);
        let left = known.iter().filter(|(id, known)| {
            desired.get(**id).is_none() && !desired.holds(**id) && !known.seen.instances.is_empty()
        });
        left.map(|(id, known)| (*id, known.seen.clone())).collect()
    }
}
