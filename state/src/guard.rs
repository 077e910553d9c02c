//! The mass-change guard: how much of what runs one answer of CHaS may end. Pure; [`crate::store`] carries it out.
//!
//! A fault of the control plane, a half-restored database or a filter that went wrong shows as a set that leaves out what it
//! should not. So what would end more than a few containers is *held*: nothing is stopped, the node says what waits, and it is
//! done once CHaS or an operator confirms it.

use std::collections::BTreeSet;

use crate::desired::pulled::{Held, Pulled};
use crate::desired::set::Desired;
use crate::desired::{Owner, Record, RunState};
use crate::id::ContainerName;
use crate::ownership::PulledSet;

/// So many may always be left out at once.
const OMITTED_ALWAYS: usize = 2;
/// Of those that run, in percent: so many may be left out at once.
const OMITTED_PERCENT: usize = 30;

/// It runs, as far as what is desired says. Not as far as the last look does: what is being restarted counts, and so does
/// everything while containerd is away.
#[must_use]
pub fn runs(record: &Record) -> bool {
    record.run == RunState::Running && record.finished.is_none() && !record.removing && !record.cordoned
}

/// What the set would do to what is there.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// CHaS's, and left out.
    pub omitted: BTreeSet<ContainerName>,
    /// It runs, and is listed otherwise.
    pub changed: BTreeSet<ContainerName>,
}

/// The set is of a database that was restored or replaced: what it does not know may be what is newer than it.
#[must_use]
pub fn is_restored(desired: &Desired, set: &PulledSet) -> bool {
    match desired.marks().pulled() {
        Some(pulled) if pulled.version.epoch == set.epoch => pulled.restored,
        Some(_) => true,
        // The agent's own memory of what it pulled is lost, and its containers are not.
        None => desired.records().any(|record| record.owner == Owner::Chas && !record.removing),
    }
}

/// The set of the same epoch that was pulled before.
fn earlier<'a>(desired: &'a Desired, set: &PulledSet) -> Option<&'a Pulled> {
    desired.marks().pulled().filter(|pulled| pulled.version.epoch == set.epoch)
}

/// What the set says twice, and so means: that it omits something and that it is to be removed; or that it omits it, and that
/// all which is held of it, or was of an earlier one, is confirmed. What a restored database says from the beginning was said
/// before it was restored, and counts for nothing.
fn meant(desired: &Desired, set: &PulledSet, ends: &Ends) -> BTreeSet<ContainerName> {
    let earlier = earlier(desired, set);
    if earlier.is_none() && is_restored(desired, set) {
        return BTreeSet::new();
    }
    let nothing = Held::default();
    let held = earlier.and_then(|pulled| pulled.held.as_ref()).unwrap_or(&nothing);
    let mut meant: BTreeSet<_> = set.remove.difference(&held.named).cloned().collect();
    let version = earlier.map(|pulled| &pulled.version);
    let is_confirmed = |generation| set.prune_confirm == Some(generation) && held.said != set.prune_confirm;
    if is_confirmed(set.generation) || held.confirmed && version == Some(&set.version()) {
        meant.extend(ends.omitted.union(&ends.changed).cloned());
    } else if version.is_some_and(|version| is_confirmed(version.generation)) {
        meant.extend(held.names().cloned());
    }
    meant
}

/// What of the set is held. `desired` is as it is before the set.
#[must_use]
pub fn held(desired: &Desired, set: &PulledSet, ends: &Ends) -> Option<Held> {
    let meant = meant(desired, set, ends);
    let omitted: BTreeSet<_> = ends.omitted.difference(&meant).cloned().collect();
    if !is_restored(desired, set) {
        let running = || desired.records().filter(|record| record.owner == Owner::Chas && runs(record));
        let (all, ended) = (running().count(), running().filter(|record| omitted.contains(&record.name)).count());
        let is_many = ended > OMITTED_ALWAYS && ended * 100 > all * OMITTED_PERCENT;
        return is_many.then(|| Held { omitted, ..Held::default() });
    }
    let changed: BTreeSet<_> = ends.changed.difference(&meant).cloned().collect();
    let said = earlier(desired, set).and_then(|pulled| pulled.held.as_ref()).map_or(set.prune_confirm, |held| held.said);
    let named = omitted.intersection(&set.remove).cloned().collect();
    let is_any = !omitted.is_empty() || !changed.is_empty();
    is_any.then_some(Held { omitted, changed, named, said, confirmed: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::marks::Mark;
    use crate::desired::pulled::Version;
    use crate::desired::set::Change;
    use crate::desired::tests::record;

    fn name(number: u64) -> ContainerName {
        format!("c{number}").parse().unwrap()
    }

    fn node(running: u64, change: impl Fn(u64, &mut Record)) -> Desired {
        let records = (0..running).map(|number| {
            let mut record = Record { owner: Owner::Chas, ..record(name(number).as_str(), number) };
            change(number, &mut record);
            Change::Put(Box::new(record))
        });
        let pulled = Pulled { version: Version { epoch: "e".to_owned(), generation: 1 }, whole: true, ..Pulled::default() };
        Desired::default().with(&records.chain([Change::Mark(Mark::Pulled(pulled))]).collect::<Vec<_>>())
    }

    fn set(epoch: &str) -> PulledSet {
        PulledSet { epoch: epoch.to_owned(), generation: 2, ..PulledSet::default() }
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
            let ends = Ends { omitted: (0..omitted).map(name).collect(), ..Ends::default() };
            let held = held(&node(running, |_, _| ()), &set("e"), &ends);
            assert_eq!(held.as_ref().map(|held| held.names().count() as u64), expected.then_some(omitted), "{omitted}/{running}");
        }
    }

    #[test]
    fn what_does_not_run_or_is_not_theirs_does_not_count() {
        let ends = || Ends { omitted: (0..4).map(name).collect(), ..Ends::default() };
        assert!(held(&node(4, |_, _| ()), &set("e"), &ends()).is_some());
        for change in [|r: &mut Record| r.run = RunState::Stopped, |r: &mut Record| r.owner = Owner::Push] {
            let node = node(4, |number, record| {
                if number < 2 {
                    change(record);
                }
            });
            assert_eq!(held(&node, &set("e"), &ends()), None);
        }
    }

    #[test]
    fn a_restored_database_ends_nothing_at_all() {
        let one = || [name(0)].into();
        assert_eq!(held(&node(9, |_, _| ()), &set("f"), &Ends::default()), None);
        for ends in [Ends { omitted: one(), ..Ends::default() }, Ends { changed: one(), ..Ends::default() }] {
            assert!(held(&node(9, |_, _| ()), &set("f"), &ends).unwrap().names().eq([&name(0)]));
        }
    }
}
