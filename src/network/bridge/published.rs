//! Instances that this agent published last: ports and names go from one generation to the next while
//! others still have a list of before.

use std::collections::BTreeSet;

use state::id::InstanceName;
use tokio::time::Instant;

use super::{BridgeNetwork, BridgeState, SPARED_FOR};
use crate::network::AssignedInstance;

impl BridgeState {
    /// Notes that an instance has the ports and names of its container.
    pub(super) fn note_published(&mut self, instance: InstanceName) {
        self.published_at
            .insert(instance.id, (instance, Instant::now()));
    }

    /// Forgets an instance that is gone.
    pub(super) fn forget(&mut self, instance: InstanceName) {
        self.connected_at.remove(&instance);
        self.looked_for_ipv6.remove(&instance);
        self.arrivals.remove(&instance);
        self.published_at.retain(|_, (last, _)| *last != instance);
    }
}

impl BridgeNetwork {
    /// The wanted instances, but with the names for those that were published since the caller's list
    /// was made: ports and names go from one generation to the next meanwhile.
    pub(super) fn as_published(&self, wanted: &[AssignedInstance]) -> Vec<AssignedInstance> {
        let mut state = self.state();
        state
            .published_at
            .retain(|_, (_, at)| at.elapsed() < SPARED_FOR);
        let mut wanted = wanted.to_vec();
        for (instance, names, ..) in &mut wanted {
            if let Some((last, _)) = state.published_at.get(&instance.id) {
                names.stands_back = last != instance;
            }
        }
        wanted
    }

    /// Live instances that were published last.
    pub(super) fn last_published(&self, live: &[AssignedInstance]) -> BTreeSet<InstanceName> {
        let state = self.state();
        let is_last = |live: &InstanceName| {
            let last = state.published_at.get(&live.id);
            last.is_some_and(|(last, _)| last == live)
        };
        let live = live.iter().map(|(instance, ..)| *instance);
        live.filter(is_last).collect()
    }
}
