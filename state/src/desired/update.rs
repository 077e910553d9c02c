//! Update of a container: the way from one generation to the next, while what is left of the one
//! before is still needed. What follows from it is the rules' matter.
//!
//! One of the two has the host ports and the names at any time ([`Record::serving`]).

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{Assignment, Record};
use crate::id::InstanceName;
use crate::spec::is_default;

/// Update that is under way, in the record of the next generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Progress of it.
    pub stage: UpdateStage,
    /// Whether both generations run for a while, each at an address of its own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_beside: bool,
    /// Generation that the instance was made as which has the host ports and the names until the
    /// record's own instance is there, where the two do not run at once. `None`: the record before
    /// tells of none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub serving: Option<u64>,
    /// Generation before: the one that served last, and that is gone back to.
    pub former: Box<Record>,
}

/// Progress of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpdateStage {
    /// The next generation does not count yet. Where the one before runs beside it, that one serves.
    Trying,
    /// The next generation was ready for long enough, and serves.
    Switched,
    /// The other generation has only to go, before anything else is begun.
    Leaving,
}

impl Update {
    /// Address of an instance that goes before the next generation is started, and that this one can
    /// have then. `before`: the record that the update is from.
    pub(crate) fn spare_address(&self, before: &Record) -> Option<Ipv4Addr> {
        let mut places = before.with_former().map(|record| record.assignment.address);
        places.find(|address| *address != self.former.assignment.address)?
    }

    /// Whether the generation before serves.
    fn is_former_serving(&self) -> bool {
        self.is_beside && self.stage == UpdateStage::Trying
    }
}

impl Record {
    /// Record of the instance that has the host ports and the names.
    #[must_use]
    pub fn serving(&self) -> &Self {
        match &self.update {
            Some(update) if update.is_former_serving() => &update.former,
            Some(_) | None => self,
        }
    }

    /// Generation that the instance was made as which has host ports and names, or had them last.
    pub(crate) fn served_last(&self) -> u64 {
        match &self.update {
            Some(update) if !update.is_former_serving() => update.serving,
            Some(_) | None => None,
        }
        .unwrap_or_else(|| self.serving().instance().generation)
    }

    /// Instance that has the host ports and the names, of those that are there. `None`: none is there
    /// that the record knows.
    #[must_use]
    pub fn served_by(&self, is_there: impl Fn(InstanceName) -> bool) -> Option<InstanceName> {
        let generations = [self.serving().instance().generation, self.served_last()];
        let instances = generations.map(|generation| InstanceName {
            id: self.id,
            generation,
        });
        instances.into_iter().find(|instance| is_there(*instance))
    }

    /// Place of what serves. `runs`: the generation that does, as far as it is known.
    #[must_use]
    pub fn served_place(&self, runs: Option<u64>) -> &Assignment {
        let update = self.update.as_ref().filter(|update| {
            let former = update.former.instance().generation;
            runs != Some(self.generation) && update.serving == Some(former)
        });
        update.map_or(&self.serving().assignment, |update| {
            &update.former.assignment
        })
    }

    /// Whether an instance may have host ports, while `serving` has those that both ask for.
    #[must_use]
    pub fn may_publish(&self, instance: InstanceName, serving: Option<InstanceName>) -> bool {
        let Some(update) = &self.update else {
            return true;
        };
        // Ports that only the generation before has stay open for as long as it is there.
        let is_relieved =
            update.stage == UpdateStage::Switched && update.former.instance() == instance;
        let stands_back = self.stands_back() && self.instance() == instance;
        !stands_back && (is_relieved || serving.is_none_or(|serving| serving == instance))
    }

    /// Whether the record's instance is not to have its host ports and names yet.
    #[must_use]
    pub fn stands_back(&self) -> bool {
        self.update.as_ref().is_some_and(Update::is_former_serving)
    }

    /// Record of this instance: this one, or that of the generation before.
    #[must_use]
    pub fn of_instance(&self, instance: InstanceName) -> Option<&Self> {
        let former = self.update.as_ref().map(|update| &*update.former);
        [Some(self), former]
            .into_iter()
            .flatten()
            .find(|record| record.instance() == instance)
    }

    /// Records whose places are taken: this one, and that of the generation before until that is gone.
    pub fn with_former(&self) -> impl Iterator<Item = &Self> + Clone {
        let former = self.update.as_ref().map(|update| &*update.former);
        [Some(self), former].into_iter().flatten()
    }

    /// The instance before, if it goes on beside the record's own.
    #[must_use]
    pub(crate) fn instance_beside(&self) -> Option<InstanceName> {
        let update = self.update.as_ref().filter(|update| update.is_beside)?;
        (update.stage != UpdateStage::Leaving).then(|| update.former.instance())
    }

    /// The record as one generation of its own.
    pub(crate) fn without_update(&self) -> Self {
        Self {
            update: None,
            ..self.clone()
        }
    }
}
