//! Leftovers: containers that the runtime holds without a record, as far as they are known.

use std::collections::BTreeMap;

use state::desired::set::Desired;
use state::id::ContainerId;
use state::observed::Seen;

use super::board::Board;
use crate::lock::lock;

impl Board {
    /// The last look at each leftover. None, as long as a record may be missing: then nothing is known to be unwanted.
    #[must_use]
    pub fn leftovers(&self, desired: &Desired) -> BTreeMap<ContainerId, Seen> {
        if desired.may_lack_records() {
            return BTreeMap::new();
        }
        let known = lock(&self.known);
        let left = known.iter().filter(|(id, known)| {
            desired.get(**id).is_none()
                && !desired.is_unreadable(**id)
                && !known.seen.instances.is_empty()
        });
        left.map(|(id, known)| (*id, known.seen.clone())).collect()
    }
}
