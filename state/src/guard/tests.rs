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
            .chain([DesiredChange::Mark(Mark::AppliedSet(Box::new(pulled)))])
            .collect::<Vec<_>>(),
    )
}

/// What is held of a set of this epoch.
fn of(node: &Desired, epoch: &str, ends: &SetEffects) -> Option<Unconfirmed> {
    let set = ChasSet {
        epoch: epoch.to_owned(),
        generation: 2,
        ..ChasSet::default()
    };
    unconfirmed(node, &set, doubts(node, &set).as_ref(), ends)
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
        let ends = SetEffects {
            omitted: (0..omitted).map(name).collect(),
            ..SetEffects::default()
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
    let ends = || SetEffects {
        omitted: (0..4).map(name).collect(),
        ..SetEffects::default()
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
    assert_eq!(of(&node(9, |_, _| ()), "f", &SetEffects::default()), None);
    for ends in [
        SetEffects {
            omitted: one(),
            ..SetEffects::default()
        },
        SetEffects {
            changed: one(),
            ..SetEffects::default()
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

#[test]
fn changes_that_only_the_agent_makes_are_counted_with_what_is_left_out() {
    let names = |numbers: std::ops::Range<u64>| numbers.map(name).collect::<BTreeSet<_>>();
    for (omitted, unexplained, changed, waits) in [
        (0..0, 0..0, 0..10, false),
        (0..0, 0..3, 0..10, false),
        (0..0, 0..4, 0..4, true),
        (0..2, 2..3, 2..9, false),
        (0..2, 2..4, 2..9, true),
    ] {
        let effects = SetEffects {
            omitted: names(omitted.clone()),
            changed: names(changed),
            unexplained: names(unexplained.clone()),
        };
        let found = of(&node(10, |_, _| ()), "e", &effects);
        let expected = waits.then(|| Unconfirmed {
            omitted: names(omitted.clone()),
            changed: names(unexplained.clone()),
            confirmed: false,
        });
        assert_eq!(found, expected, "{omitted:?} {unexplained:?}");
    }
}

#[test]
fn a_change_is_explained_by_another_body_and_by_nothing_else() {
    let listed = |image: &str, state: &str| {
        let body = serde_json::json!({"name": "c0", "image": image, "state": state});
        crate::spec::parse::deploy(&body).unwrap()
    };
    let of_body = |deploy: &Deploy, pids: u32| {
        node(1, |_, record| {
            record.spec.resources.pids = pids;
            record.listed_hash = Some(deploy.body_hash.clone());
        })
    };
    let same = listed("nginx", "running");
    for (pids, deploy, changed, unexplained) in [
        (4096, listed("nginx", "running"), 0, 0),
        (4096, listed("nginx:2", "running"), 1, 0),
        (4096, listed("nginx", "stopped"), 1, 0),
        (7, listed("nginx", "running"), 1, 1),
        (7, listed("nginx:2", "running"), 1, 0),
    ] {
        let effects = SetEffects::of(&of_body(&same, pids), &[], &[deploy]);
        let counts = (effects.changed.len(), effects.unexplained.len());
        assert_eq!(counts, (changed, unexplained), "{pids}");
    }
}
