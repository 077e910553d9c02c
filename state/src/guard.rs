//! The mass-change guard: how much of what runs one answer of CHaS may end. Pure; [`crate::store`] carries it out.
//!
//! A fault of the control plane, a half-restored database or a filter that went wrong shows as a set that leaves out what it
//! should not. So what would end more than a few containers is *held*: nothing is stopped, the node says what waits, and it is
//! done once CHaS or an operator confirms it.

use std::collections::BTreeSet;

use crate::desired::marks::Marks;
use crate::desired::pulled::Held;
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
    /// CHaS's, and left out without being named under `remove`.
    pub omitted: BTreeSet<ContainerName>,
    /// It runs, and is listed otherwise.
    pub changed: BTreeSet<ContainerName>,
}

/// The set is of a database that was restored or replaced: what it does not know may be what is newer than it.
#[must_use]
pub fn is_restored(desired: &Desired, set: &PulledSet) -> bool {
    match desired.marks().pulled() {
        Some(pulled) if pulled.version.epoch == set.epoch => pulled.held.as_ref().is_some_and(|held| held.restored),
        Some(_) => true,
        // The agent's own memory of what it pulled is lost, and its containers are not.
        None => desired.records().any(|record| record.owner == Owner::Chas && !record.removing),
    }
}

/// The set may do all that it asks for: it says so itself, or an operator did.
#[must_use]
pub fn is_confirmed(marks: &Marks, set: &PulledSet) -> bool {
    let by_operator = marks.pulled().filter(|pulled| pulled.version == set.version()).and_then(|pulled| pulled.held.as_ref());
    set.prune_confirm == Some(set.generation) || by_operator.is_some_and(|held| held.confirmed)
}

/// What of it is held. `desired` is as it is before the set.
#[must_use]
pub fn held(desired: &Desired, ends: Ends, restored: bool) -> Option<Held> {
    if restored {
        let Ends { omitted, changed } = ends;
        let is_any = !omitted.is_empty() || !changed.is_empty();
        return is_any.then_some(Held { omitted, changed, restored, confirmed: false });
    }
    let running = || desired.records().filter(|record| record.owner == Owner::Chas && runs(record));
    let (all, ended) = (running().count(), running().filter(|record| ends.omitted.contains(&record.name)).count());
    let is_many = ended > OMITTED_ALWAYS && ended * 100 > all * OMITTED_PERCENT;
    is_many.then(|| Held { omitted: ends.omitted, ..Held::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
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
        Desired::default().with(&records.collect::<Vec<_>>())
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
            let held = held(&node(running, |_, _| ()), ends, false);
            assert_eq!(held.as_ref().map(|held| held.names().count() as u64), expected.then_some(omitted), "{omitted}/{running}");
        }
    }

    #[test]
    fn what_does_not_run_or_is_not_theirs_does_not_count() {
        let ends = || Ends { omitted: (0..4).map(name).collect(), ..Ends::default() };
        assert!(held(&node(4, |_, _| ()), ends(), false).is_some());
        for change in [|r: &mut Record| r.run = RunState::Stopped, |r: &mut Record| r.owner = Owner::Push] {
            let node = node(4, |number, record| {
                if number < 2 {
                    change(record);
                }
            });
            assert_eq!(held(&node, ends(), false), None);
        }
    }

    #[test]
    fn a_restored_database_ends_nothing_at_all() {
        let one = || [name(0)].into();
        assert_eq!(held(&node(9, |_, _| ()), Ends::default(), true), None);
        for ends in [Ends { omitted: one(), ..Ends::default() }, Ends { changed: one(), ..Ends::default() }] {
            let held = held(&node(9, |_, _| ()), ends, true).unwrap();
            assert!(held.restored && held.names().eq([&name(0)]));
        }
    }
}
