//! Changes that are known to have been made, and are in no copy of the state any more.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Record;
use crate::id::ContainerId;

/// Lost changes: those after the copy that the state was rebuilt from. A container that they may
/// concern is left as it is until something is asked of it again, for its record may say the
/// opposite of what was acknowledged last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostChanges {
    /// Last change that was acknowledged. A record that was changed after it is certain.
    pub until: u64,
    /// Containers that the changes concern. `None`: it may be any.
    pub containers: Option<BTreeSet<ContainerId>>,
}

impl LostChanges {
    /// Whether a lost change may concern this record.
    #[must_use]
    pub fn concern(&self, record: &Record) -> bool {
        let containers = self.containers.as_ref();
        record.seq <= self.until && containers.is_none_or(|ids| ids.contains(&record.id))
    }
}
