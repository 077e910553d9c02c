use super::*;
use crate::desired::marks::Tombstone;
use crate::id::ContainerId;

fn keyed(key: &str, request: &str, boot_id: &str, hours: u64) -> Keyed {
    let now = BootTime(Duration::from_hours(hours));
    Keyed {
        key: key.parse().unwrap(),
        request: request.to_owned(),
        boot_id: boot_id.to_owned(),
        now,
    }
}

fn outcome(bits: u64) -> Outcome {
    Outcome::Container {
        id: ContainerId::from_bits(bits),
        name: "a".parse().unwrap(),
        generation: 1,
    }
}

#[test]
fn a_key_is_visible_ascii() {
    for good in ["a", "\"8e03978e-40d5\"", "~!", &"k".repeat(255)] {
        assert!(good.parse::<Key>().is_ok(), "{good}");
    }
    for bad in ["", "a b", "ä", "\t", &"k".repeat(256)] {
        assert!(bad.parse::<Key>().is_err(), "{bad}");
    }
}

#[test]
fn an_answer_holds_for_a_day_of_the_boot_that_it_is_asked_in() {
    let desired = Desired::default();
    let desired = desired.with(&kept(
        &desired,
        &keyed("k", "r", "one", 5),
        true,
        outcome(1),
    ));
    for (asked, expected) in [
        (keyed("k", "r", "one", 28), Ok(true)),
        (keyed("k", "r", "one", 29), Ok(false)),
        // Its boot may have ended at any time: it counts from the beginning of this one.
        (keyed("k", "r", "two", 23), Ok(true)),
        (keyed("k", "r", "two", 24), Ok(false)),
        (keyed("other", "r", "one", 6), Ok(false)),
        (keyed("k", "other", "one", 6), Err(Reused)),
        (keyed("k", "other", "one", 29), Ok(false)),
    ] {
        assert_eq!(
            before(desired.marks(), &asked).map(|answer| answer.is_some()),
            expected,
            "{asked:?}"
        );
    }
}

#[test]
fn what_is_deleted_keeps_its_answers_until_it_is_known() {
    let desired = Desired::default();
    let desired = desired.with(&kept(
        &desired,
        &keyed("k", "r", "one", 5),
        true,
        outcome(1),
    ));
    let tombstone = Tombstone {
        id: ContainerId::from_bits(1),
        seq: 2,
    };
    let buried = desired.with(&[DesiredChange::Mark(Mark::Tombstone(
        "a".parse().unwrap(),
        Some(tombstone),
    ))]);
    assert!(
        before(buried.marks(), &keyed("k", "r", "one", 500))
            .unwrap()
            .is_some()
    );
    let other = buried.with(&kept(
        &buried,
        &keyed("l", "r", "one", 500),
        true,
        outcome(2),
    ));
    assert_eq!(other.marks().answers().len(), 2);
    let known = other.with(&super::super::acknowledged(&other, 2));
    assert!(
        before(known.marks(), &keyed("k", "r", "one", 500))
            .unwrap()
            .is_none()
    );
    let other = known.with(&kept(
        &known,
        &keyed("m", "r", "one", 500),
        true,
        outcome(3),
    ));
    assert_eq!(
        other.marks().answers().keys().collect::<Vec<_>>(),
        ["l", "m"]
    );
}

#[test]
fn beyond_the_bound_the_oldest_goes() {
    let mut desired = Desired::default();
    let answer = |seq| Answer {
        seq,
        boot_id: "one".to_owned(),
        at: BootTime::default(),
        request: "r".to_owned(),
        changed: true,
        outcome: outcome(seq),
    };
    let full: Vec<_> = (1..=4096)
        .map(|seq| {
            DesiredChange::Mark(Mark::Answer(
                format!("k{:04}", 9999 - seq),
                Some(answer(seq).into()),
            ))
        })
        .collect();
    desired = desired.with(&full);
    let tombstone = Tombstone {
        id: ContainerId::from_bits(1),
        seq: 2,
    };
    desired = desired.with(&[DesiredChange::Mark(Mark::Tombstone(
        "a".parse().unwrap(),
        Some(tombstone),
    ))]);
    let changes = kept(&desired, &keyed("new", "r", "one", 1), true, outcome(1));
    let after = desired.with(&changes);
    let dropped: Vec<_> = desired
        .marks()
        .answers()
        .keys()
        .filter(|key| !after.marks().answers().contains_key(*key))
        .collect();
    assert_eq!(
        dropped,
        ["k9997"],
        "the oldest but for the one that is buried"
    );
    assert_eq!(after.marks().answers().len(), ANSWERS_MAX);
}
