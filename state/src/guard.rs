//! The mass-change guard: how much of what runs one answer of CHaS may end. Pure; [`crate::store`] carries it out.
//!
//! A fault of the control plane, a half-restored database or a filter that went wrong shows as a set that leaves out what it
//! should not. So what would end more than a few containers is *held*: nothing is stopped, the node says what waits, and it is
//! done once CHaS or an operator confirms it.

use std::collections::BTreeSet;

use crate::desired::applied::{RestoredEpoch, Unconfirmed};
use crate::desired::set::Desired;
use crate::desired::{Owner, Record, RunState};
use crate::id::ContainerName;
use crate::ownership::ChasSet;

/// So many may always be left out at once.
const OMITTED_ALWAYS: usize = 2;
/// Of those that run, in percent: so many may be left out at once.
const OMITTED_PERCENT: usize = 30;

/// It runs, as far as what is desired says. Not as far as the last look does: what is being restarted counts, and so does
/// everything while containerd is away.
#[must_use]
pub fn runs(record: &Record) -> bool {
    record.run == RunState::Running
        && record.finished.is_none()
        && !record.removing
        && !record.cordoned
}

/// What the set would do to what is there.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// CHaS's, and left out.
    pub omitted: BTreeSet<ContainerName>,
    /// It runs, and is listed otherwise.
    pub changed: BTreeSet<ContainerName>,
}

/// What is in doubt about the set: it is of a database that was restored or replaced, and what it does not know may be what is
/// newer than it. `None`: nothing.
#[must_use]
pub fn doubts(desired: &Desired, set: &ChasSet) -> Option<RestoredEpoch> {
    let first = || RestoredEpoch {
        prune_confirm: set.prune_confirm,
        remove: set.remove.clone(),
    };
    match desired.marks().applied_set() {
        Some(pulled) if pulled.version.epoch == set.epoch => pulled.restored.clone(),
        Some(_) => Some(first()),
        // The agent's own memory of what it pulled is lost, and its containers are not.
        None => desired
            .records()
            .any(|record| record.owner == Owner::Chas && !record.removing)
            .then(first),
    }
}

/// The set says of this generation that what it leaves out is meant.
fn confirms(set: &ChasSet, doubts: Option<&RestoredEpoch>, generation: u64) -> bool {
    set.prune_confirm == Some(generation)
        && doubts.is_none_or(|doubts| doubts.prune_confirm != set.prune_confirm)
}

/// The set may do all that it asks for: it says so itself, or an operator did.
#[must_use]
pub fn is_confirmed(desired: &Desired, set: &ChasSet, doubts: Option<&RestoredEpoch>) -> bool {
    let before = desired
        .marks()
        .applied_set()
        .filter(|pulled| pulled.version == set.version());
    let by_operator = before
        .and_then(|pulled| pulled.unconfirmed.as_ref())
        .is_some_and(|held| held.confirmed);
    by_operator || confirms(set, doubts, set.generation)
}

/// What the set says twice, and so means: that it omits something and that it is to be removed; or that it omits it, and that
/// all which is held of an earlier one is confirmed.
fn meant(
    desired: &Desired,
    set: &ChasSet,
    doubts: Option<&RestoredEpoch>,
) -> BTreeSet<ContainerName> {
    let is_old = |name: &&ContainerName| doubts.is_some_and(|doubts| doubts.remove.contains(*name));
    let mut meant: BTreeSet<_> = set
        .remove
        .iter()
        .filter(|name| !is_old(name))
        .cloned()
        .collect();
    let earlier = desired
        .marks()
        .applied_set()
        .filter(|pulled| pulled.version.epoch == set.epoch);
    let held = earlier
        .filter(|pulled| confirms(set, doubts, pulled.version.generation))
        .and_then(|pulled| pulled.unconfirmed.as_ref());
    meant.extend(held.into_iter().flat_map(Unconfirmed::names).cloned());
    meant
}

/// What of the set is held. `desired` is as it is before the set.
#[must_use]
pub fn held(
    desired: &Desired,
    set: &ChasSet,
    doubts: Option<&RestoredEpoch>,
    ends: &Ends,
) -> Option<Unconfirmed> {
    if is_confirmed(desired, set, doubts) {
        return None;
    }
    let meant = meant(desired, set, doubts);
    let omitted: BTreeSet<_> = ends.omitted.difference(&meant).cloned().collect();
    if doubts.is_none() {
        let running = || {
            desired
                .records()
                .filter(|record| record.owner == Owner::Chas && runs(record))
        };
        let (all, ended) = (
            running().count(),
            running()
                .filter(|record| omitted.contains(&record.name))
                .count(),
        );
        let is_many = ended > OMITTED_ALWAYS && ended * 100 > all * OMITTED_PERCENT;
        return is_many.then(|| Unconfirmed {
            omitted,
            ..Unconfirmed::default()
        });
    }
    let changed: BTreeSet<_> = ends.changed.difference(&meant).cloned().collect();
    let is_any = !omitted.is_empty() || !changed.is_empty();
    is_any.then_some(Unconfirmed {
        omitted,
        changed,
        confirmed: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::applied::{AppliedSet, SetVersion};
    use crate::desired::marks::Mark;
    use crate::desired::set::DesiredChange;
    use crate::desired::tests::record;

    fn name(number: u64) -> ContainerName {
        format!("c{number}").parse().unwrap()
    }

    fn node(running: u64, change: impl Fn(u64, &mut Record)) -> Desired {
        let records = (0..running).map(|number| {
            let mut record = Record {
                owner: Owner::Chas,
                ..record(name(number).as_str(), number)
            };
            change(number, &mut record);
            DesiredChange::Put(Box::new(record))
        });
        let pulled = AppliedSet {
            version: SetVersion {
                epoch: "e".to_owned(),
                generation: 1,
            },
            fully_applied: true,
            ..AppliedSet::default()
        };
        Desired::default().with(
            &records
                .chain([DesiredChange::Mark(Mark::AppliedSet(pulled))])
                .collect::<Vec<_>>(),
        )
    }

    /// What is held of a set of this epoch.
    fn of(node: &Desired, epoch: &str, ends: &Ends) -> Option<Unconfirmed> {
        let set = ChasSet {
            epoch: epoch.to_owned(),
            generation: 2,
            ..ChasSet::default()
        };
        held(node, &set, doubts(node, &set).as_ref(), ends)
    }

    #[test]
    fn more_than_two_and_more_than_thirty_percent_are_held() {
        for (running, omitted, expected) in [
            (1, 1, false),
            (2, 2, false),
            (3, 2, false),
            (3, 3, true),
            (4, 2, false),
            (4, 3, true),
            (10, 3, false),
            (10, 4, true),
            (100, 30, false),
            (100, 31, true),
            (100, 100, true),
        ] {
            let ends = Ends {
                omitted: (0..omitted).map(name).collect(),
                ..Ends::default()
            };
            let held = of(&node(running, |_, _| ()), "e", &ends);
            assert_eq!(
                held.as_ref().map(|held| held.names().count() as u64),
                expected.then_some(omitted),
                "{omitted}/{running}"
            );
        }
    }

    #[test]
    fn what_does_not_run_or_is_not_theirs_does_not_count() {
        let ends = || Ends {
            omitted: (0..4).map(name).collect(),
            ..Ends::default()
        };
        assert!(of(&node(4, |_, _| ()), "e", &ends()).is_some());
        for change in [
            |r: &mut Record| r.run = RunState::Stopped,
            |r: &mut Record| r.owner = Owner::Push,
        ] {
            let node = node(4, |number, record| {
                if number < 2 {
                    change(record);
                }
            });
            assert_eq!(of(&node, "e", &ends()), None);
        }
    }

    #[test]
    fn a_restored_database_ends_nothing_at_all() {
        let one = || [name(0)].into();
        assert_eq!(of(&node(9, |_, _| ()), "f", &Ends::default()), None);
        for ends in [
            Ends {
                omitted: one(),
                ..Ends::default()
            },
            Ends {
                changed: one(),
                ..Ends::default()
            },
        ] {
            assert!(
                of(&node(9, |_, _| ()), "f", &ends)
                    .unwrap()
                    .names()
                    .eq([&name(0)])
            );
        }
    }
}
