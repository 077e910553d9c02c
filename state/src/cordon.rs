//! Cordon of the node, who holds it, and its drain: whose turn it is to be stopped. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{ContainerId, ContainerName};

/// Cordon by an operator, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorCordon {
    /// Caller who gave the order.
    pub by: String,
    /// Time of the order, milliseconds since 1970. For showing.
    pub at_ms: u64,
    /// Time of the order to drain the node, likewise. `None`: what runs, runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_ms: Option<u64>,
}

/// Order of an operator about the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeOrder {
    /// To start nothing new.
    Cordon,
    /// To start nothing at all, and to stop what runs.
    Drain,
    /// To end both.
    Uncordon,
}

impl NodeOrder {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cordon => "cordon",
            Self::Drain => "drain",
            Self::Uncordon => "uncordon",
        }
    }
}

/// Holders of the node's cordon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CordonedBy {
    /// CHaS, by its last set.
    pub chas: bool,
    /// An operator, by an order to this node.
    pub operator: bool,
}

impl CordonedBy {
    /// Whether the node is cordoned.
    #[must_use]
    pub const fn any(self) -> bool {
        self.chas || self.operator
    }
}

impl fmt::Display for CordonedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.chas, self.operator) {
            (true, true) => {
                "the node is cordoned by CHaS and by an operator, and takes nothing new"
            }
            (true, false) => "the node is cordoned by CHaS, and takes nothing new",
            (false, true) => "the node is cordoned by an operator, and takes nothing new",
            (false, false) => "the node is cordoned, and takes nothing new",
        })
    }
}

/// Container of a node that is drained, of which something runs.
#[derive(Clone, Debug)]
pub struct DrainedContainer<'a> {
    /// Id.
    pub id: ContainerId,
    /// Name.
    pub name: &'a ContainerName,
    /// Names of those that it was started after.
    pub after: Vec<&'a ContainerName>,
    /// Priority: what was started first is stopped last.
    pub priority: u8,
    /// Whether it could not be stopped so far, which is tried again; nobody waits for it.
    pub is_stuck: bool,
}

/// Containers whose turn it is to be stopped. First come those that no other one was started after; of these,
/// the ones of the lowest priority. Where they were started after each other in a circle, all at once.
#[must_use]
pub fn due(running: &[DrainedContainer<'_>]) -> BTreeSet<ContainerId> {
    let moving = || running.iter().filter(|one| !one.is_stuck);
    let mut followers: BTreeMap<&ContainerName, Vec<ContainerId>> = BTreeMap::new();
    for one in moving() {
        for name in &one.after {
            followers.entry(*name).or_default().push(one.id);
        }
    }
    let is_needed = |one: &&DrainedContainer<'_>| {
        let mut others = followers.get(one.name).into_iter().flatten();
        others.any(|id| *id != one.id)
    };
    let needed: BTreeSet<_> = moving().filter(is_needed).map(|one| one.id).collect();
    let is_circle = needed.len() == moving().count();
    let free = || moving().filter(|one| is_circle || !needed.contains(&one.id));
    let lowest = free().map(|one| one.priority).min();
    let first = free().filter(|one| Some(one.priority) == lowest);
    let stuck = running.iter().filter(|one| one.is_stuck);
    first.chain(stuck).map(|one| one.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The waves in which such a node is stopped.
    fn waves(all: &[(&str, &[&str], u8)], stuck: &[&str]) -> Vec<String> {
        let names: Vec<ContainerName> =
            all.iter().map(|(name, ..)| name.parse().unwrap()).collect();
        let afters: Vec<Vec<ContainerName>> = all
            .iter()
            .map(|(_, after, _)| after.iter().map(|name| name.parse().unwrap()).collect())
            .collect();
        let one = |index: usize| DrainedContainer {
            id: ContainerId::from_bits(index as u64 + 1),
            name: &names[index],
            after: afters[index].iter().collect(),
            priority: all[index].2,
            is_stuck: stuck.contains(&all[index].0),
        };
        let mut running: Vec<_> = (0..all.len()).map(one).collect();
        let mut waves = Vec::new();
        while running.iter().any(|one| !one.is_stuck) {
            let due = due(&running);
            let wave = running.iter().filter(|one| due.contains(&one.id));
            let wave: Vec<_> = wave.map(|one| one.name.as_str()).collect();
            waves.push(wave.join(" "));
            running.retain(|one| one.is_stuck || !due.contains(&one.id));
        }
        waves
    }

    #[test]
    fn what_was_started_first_is_stopped_last() {
        let chain: &[(&str, &[&str], u8)] =
            &[("db", &[], 50), ("api", &["db"], 50), ("web", &["api"], 50)];
        assert_eq!(waves(chain, &[]), ["web", "api", "db"]);
        // The order of starts weighs more than a priority.
        let both: &[(&str, &[&str], u8)] = &[
            ("db", &[], 0),
            ("web", &["db"], 100),
            ("log", &[], 90),
            ("job", &[], 10),
        ];
        assert_eq!(waves(both, &[]), ["job", "log", "web", "db"]);
        let alike: &[(&str, &[&str], u8)] = &[("a", &["gone"], 50), ("b", &[], 50)];
        assert_eq!(waves(alike, &[]), ["a b"]);
    }

    #[test]
    fn a_circle_and_one_that_cannot_be_stopped_keep_nobody() {
        let circle: &[(&str, &[&str], u8)] =
            &[("a", &["b"], 50), ("b", &["a"], 50), ("c", &["c"], 50)];
        assert_eq!(waves(circle, &[]), ["c", "a b"]);
        let chain: &[(&str, &[&str], u8)] = &[("db", &[], 50), ("web", &["db"], 50)];
        assert_eq!(waves(chain, &["web"]), ["db web"]);
    }
}
