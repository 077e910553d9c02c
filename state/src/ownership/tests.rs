use serde_json::{Value, json};

use super::*;
use crate::desired::applied::{AppliedSet, Rejected, SetVersion};
use crate::desired::marks::NodeIdentity;
use crate::desired::tests::record;
use crate::id::ContainerId;

fn deploy(more: &Value) -> Deploy {
    let mut body = json!({"name": "a", "image": "nginx"});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    crate::spec::parse::deploy(&body).unwrap()
}

fn version(epoch: &str, generation: u64) -> SetVersion {
    SetVersion {
        epoch: epoch.to_owned(),
        generation,
    }
}

fn pulled(fully_applied: bool) -> AppliedSet {
    AppliedSet {
        version: version("e", 5),
        etag: Some("t".to_owned()),
        fully_applied,
        ..AppliedSet::default()
    }
}

/// A record named `a`, changed at 10.
fn existing(change: impl FnOnce(&mut Record)) -> Record {
    let mut record = record("a", 1);
    record.seq = 10;
    change(&mut record);
    record
}

fn desired(record: &Record, pulled: Option<AppliedSet>) -> Desired {
    let changes = std::iter::once(DesiredChange::Put(Box::new(record.clone())));
    Desired::default().with(
        &changes
            .chain(pulled.map(|pulled| DesiredChange::Mark(Mark::AppliedSet(Box::new(pulled)))))
            .collect::<Vec<_>>(),
    )
}

#[test]
fn newer_is_another_epoch_or_a_higher_generation() {
    for (before, listed, expected) in [
        (None, version("e", 0), Age::Newer),
        (Some(pulled(true)), version("e", 6), Age::Newer),
        (Some(pulled(true)), version("e", 5), Age::Old),
        (Some(pulled(true)), version("e", 4), Age::Old),
        (Some(pulled(true)), version("f", 1), Age::Newer),
        // What could not be taken of it may be taken now.
        (Some(pulled(false)), version("e", 5), Age::Again),
        (Some(pulled(false)), version("e", 4), Age::Old),
        (Some(pulled(true)), version("e", u64::MAX), Age::Newer),
    ] {
        let mut set = ChasSet {
            epoch: listed.epoch,
            generation: listed.generation,
            ..ChasSet::default()
        };
        assert_eq!(age(before.as_ref(), &set), expected, "{before:?} {set:?}");
        // A lower generation that CHaS has settled on is another epoch's.
        set.is_settled = true;
        let is_lower = set.epoch == "e" && set.generation < 5 && before.is_some();
        let expected = if is_lower { Age::Newer } else { expected };
        assert_eq!(age(before.as_ref(), &set), expected, "{before:?} {set:?}");
    }
}

#[test]
fn rules_2_and_3_what_is_listed_against_what_is_there() {
    use Listed::{Overrule, Stand, Take};
    const ASKED_LATER: Listed = Overrule("CHaS was asked after it was pushed");
    const PUSHED_LATER: Listed = Stand("it was pushed after CHaS was asked");
    let (same, other) = (json!({}), json!({"image": "caddy"}));
    let revised = |revision: u64| json!({"image": "caddy", "revision": revision});
    let push = || existing(|_| ());
    let push_at = |revision| existing(|r| r.revision = Some(revision));
    for (before, listing, requested_at_seq, expected) in [
        // The same in all that is asked: it only changes hands, however late it was pushed.
        (Some(push()), same.clone(), 0, Take),
        (Some(push_at(9)), same.clone(), 0, Take),
        // Asked after the push: the pull; before it: the push.
        (Some(push()), other.clone(), 10, ASKED_LATER),
        (Some(push()), other.clone(), 9, PUSHED_LATER),
        // The revision decides only where both have one, and one is higher.
        (
            Some(push_at(3)),
            revised(4),
            0,
            Overrule("its revision is higher"),
        ),
        (
            Some(push_at(3)),
            revised(2),
            99,
            Stand("its revision is higher"),
        ),
        (Some(push_at(3)), revised(3), 10, ASKED_LATER),
        (Some(push_at(3)), revised(3), 9, PUSHED_LATER),
        (Some(push_at(3)), other.clone(), 10, ASKED_LATER),
        (Some(push()), revised(4), 9, PUSHED_LATER),
        // An operator's stop is a word too.
        (
            Some(existing(|r| r.run = RunState::Stopped)),
            same.clone(),
            9,
            PUSHED_LATER,
        ),
        (
            Some(existing(|r| r.run = RunState::Stopped)),
            same.clone(),
            10,
            ASKED_LATER,
        ),
        (
            Some(existing(|r| r.priority = 51)),
            same.clone(),
            9,
            PUSHED_LATER,
        ),
        // What is CHaS's, is on its way out, or is not there, is taken.
        (
            Some(existing(|r| r.owner = Owner::Chas)),
            other.clone(),
            0,
            Take,
        ),
        (
            Some(existing(|r| r.removing = true)),
            other.clone(),
            0,
            Take,
        ),
        (None, other, 0, Take),
    ] {
        assert_eq!(
            listed(before.as_ref(), None, &deploy(&listing), requested_at_seq),
            expected,
            "{listing} {requested_at_seq} {before:?}"
        );
    }
}

#[test]
fn rule_6_what_was_deleted_after_the_question_is_not_brought_back_by_the_answer() {
    let tombstone = Some(Tombstone {
        id: ContainerId::from_bits(1),
        seq: 20,
    });
    let going = existing(|r| r.removing = true);
    for before in [None, Some(&going)] {
        assert!(matches!(
            listed(before, tombstone, &deploy(&json!({})), 19),
            Listed::Stand(_)
        ));
        assert_eq!(
            listed(before, tombstone, &deploy(&json!({})), 20),
            Listed::Take
        );
    }
}

#[test]
fn rule_4_a_push_onto_what_chas_owns() {
    use Pushed::{Refuse, Same, Take, TakeOver};
    let chas =
        |revision: Option<u64>| existing(|r| (r.owner, r.revision) = (Owner::Chas, revision));
    for (before, push, expected) in [
        (None, json!({}), Take),
        (Some(existing(|_| ())), json!({"image": "caddy"}), Take),
        (Some(chas(None)), json!({}), Same),
        (Some(chas(None)), json!({"image": "caddy"}), Refuse),
        (Some(chas(None)), json!({"state": "stopped"}), Refuse),
        (
            Some(chas(None)),
            json!({"image": "caddy", "revision": 9}),
            Refuse,
        ),
        (Some(chas(Some(7))), json!({"image": "caddy"}), Refuse),
        (
            Some(chas(Some(7))),
            json!({"image": "caddy", "revision": 7}),
            Refuse,
        ),
        (
            Some(chas(Some(7))),
            json!({"image": "caddy", "revision": 8}),
            TakeOver,
        ),
        (Some(chas(Some(7))), json!({"revision": 6}), Same),
        (
            Some(existing(|r| (r.owner, r.removing) = (Owner::Chas, true))),
            json!({"image": "caddy"}),
            Take,
        ),
    ] {
        assert_eq!(
            pushed(before.as_ref(), &deploy(&push)),
            expected,
            "{push} {before:?}"
        );
    }
}

#[test]
fn rule_1_only_what_chas_owns_and_does_not_list_is_pruned() {
    for (change, listed, expected) in [
        ((Owner::Chas, false), false, 1),
        ((Owner::Chas, false), true, 0),
        ((Owner::Push, false), false, 0),
        ((Owner::Chas, true), false, 0),
    ] {
        let desired = desired(&existing(|r| (r.owner, r.removing) = change), None);
        let containers = if listed {
            vec![deploy(&json!({}))]
        } else {
            Vec::new()
        };
        let set = ChasSet {
            containers,
            ..ChasSet::default()
        };
        assert_eq!(
            pruned(&desired, &set).len(),
            expected,
            "{change:?} {listed}"
        );
        // What is not understood is not left out; and who knows whose name is not to be read.
        for name in [Some("a".to_owned()), None] {
            let rejected = vec![Rejected {
                name,
                index: Some(0),
                errors: Vec::new(),
            }];
            assert!(
                pruned(
                    &desired,
                    &ChasSet {
                        rejected,
                        ..set.clone()
                    }
                )
                .is_empty()
            );
        }
    }
}

#[test]
fn rule_5_an_order_about_what_chas_owns_is_noted_until_it_is_as_listed_again() {
    let chas = existing(|r| r.owner = Owner::Chas);
    let desired = desired(&chas, Some(pulled(true)));
    let name = &chas.name;
    let mark = Some(Suppressed {
        at: Some(version("e", 5)),
        listed: RunState::Running,
    });
    for order in [Order::Stop, Order::Remove] {
        let after = desired.with(&ordered(&desired, &chas, order).1);
        assert_eq!(
            after.marks().suppressed().get(name),
            mark.as_ref(),
            "{order:?}"
        );
        assert!(after.marks().tombstones().is_empty());
    }
    let restarted = desired.with(&ordered(&desired, &chas, Order::Restart).1);
    assert_eq!(restarted.marks().suppressed().len(), 0);
    let (stopped, changes) = ordered(&desired, &chas, Order::Stop);
    let after = desired.with(&changes);
    assert_eq!(
        ordered(&after, &stopped, Order::Stop).1,
        [],
        "it is so already"
    );
    let again = after.with(&ordered(&after, &stopped, Order::Start).1);
    assert_eq!(again.marks().suppressed().len(), 0);
    // A newer set ends it; the same one does not, and nor does the first one of another epoch,
    // which may be older.
    for (next, restored, left) in [
        (version("e", 6), false, 0),
        (version("f", 1), true, 1),
        (version("e", 5), false, 1),
    ] {
        let then = after.with(&lifted(&after, &next, restored));
        assert_eq!(then.marks().suppressed().len(), left, "{next:?}");
        assert_eq!(lifted(&then, &next, restored), []);
        let newer = SetVersion {
            generation: 99,
            ..next
        };
        assert_eq!(
            then.with(&lifted(&then, &newer, restored))
                .marks()
                .suppressed()
                .len(),
            0
        );
    }
}

#[test]
fn rule_5_where_the_set_is_not_known_any_more_the_next_one_is_taken_for_it() {
    let chas = existing(|r| r.owner = Owner::Chas);
    let desired = desired(&chas, None);
    let after = desired.with(&ordered(&desired, &chas, Order::Stop).1);
    let first = after.with(&lifted(&after, &version("e", 5), false));
    assert_eq!(
        first.marks().suppressed()[&chas.name].at,
        Some(version("e", 5))
    );
    assert_eq!(
        first
            .with(&lifted(&first, &version("e", 6), false))
            .marks()
            .suppressed()
            .len(),
        0
    );
}

#[test]
fn rule_6_a_deleted_push_leaves_a_bounded_tombstone_until_it_is_known() {
    let push = existing(|_| ());
    let before = desired(&push, Some(pulled(true)));
    let (removed, changes) = ordered(&before, &push, Order::Remove);
    let after = before.with(&changes);
    assert_eq!(
        after.marks().tombstones()[&push.name],
        Tombstone {
            id: push.id,
            seq: after.seq()
        }
    );
    assert_eq!(ordered(&after, &removed, Order::Remove).1, []);
    assert_eq!(acknowledged(&after, after.seq() - 1), []);
    assert!(
        after
            .with(&acknowledged(&after, after.seq()))
            .marks()
            .tombstones()
            .is_empty()
    );
    for order in [Order::Stop, Order::Start, Order::Restart] {
        assert!(
            before
                .with(&ordered(&before, &push, order).1)
                .marks()
                .tombstones()
                .is_empty()
        );
    }
    let many: Vec<_> = (0..1024)
        .map(|n| {
            (
                format!("n{n}").parse().unwrap(),
                Tombstone {
                    id: ContainerId::from_bits(n),
                    seq: 2000 - n,
                },
            )
        })
        .map(|(name, tombstone)| DesiredChange::Mark(Mark::Tombstone(name, Some(tombstone))))
        .collect();
    let full = before.with(&many);
    let after = full.with(&ordered(&full, &push, Order::Remove).1);
    assert_eq!(after.marks().tombstones().len(), TOMBSTONES_MAX);
    assert!(
        !after
            .marks()
            .tombstones()
            .contains_key(&"n1023".parse().unwrap()),
        "the oldest"
    );
}

#[test]
fn what_is_noted_is_written_and_read_again() {
    let chas = existing(|r| r.owner = Owner::Chas);
    let desired = desired(&chas, Some(pulled(true)));
    let desired = desired.with(&ordered(&desired, &chas, Order::Stop).1);
    let desired = desired.with(&buried(
        &desired,
        &existing(|r| r.name = "b".parse().unwrap()),
    ));
    let keyed = answers::Keyed {
        key: "k/1".parse().unwrap(),
        request: "r".to_owned(),
        boot_id: "b".to_owned(),
        now: crate::time::BootTime::default(),
    };
    let desired = desired.with(&answers::kept(
        &desired,
        &keyed,
        true,
        crate::desired::answer::Outcome::Set {
            etag: "e".to_owned(),
        },
    ));
    let desired = desired.with(&[
        DesiredChange::Mark(Mark::Cordoned(true)),
        DesiredChange::Mark(Mark::Identity(NodeIdentity {
            cluster_size: 3,
            ..NodeIdentity::default()
        })),
    ]);
    let entries = desired.entries();
    for key in [
        "pulled",
        "cordoned",
        "link",
        "suppressed/a",
        "tombstone/b",
        "answered/k/1",
    ] {
        assert!(entries.contains_key(key), "{key}");
    }
    assert_eq!(
        entries["pulled"],
        json!({"epoch": "e", "generation": 5, "etag": "t", "whole": true, "restored": null, "held": null, "conflicts": [],
            "rejected": []})
    );
    assert_eq!(Desired::from_entries(entries.clone()), desired);
    // What a newer version wrote in its place is kept as it is.
    let mut newer = entries;
    newer.insert("pulled".to_owned(), json!("another shape"));
    assert_eq!(Desired::from_entries(newer.clone()).entries(), newer);
}

#[test]
fn the_fingerprint_of_the_push_set_changes_with_all_that_is_asked_and_nothing_else() {
    let of = |change: fn(&mut Record)| etag(&desired(&existing(change), None));
    let before = of(|_| ());
    assert_eq!(before.len(), 32);
    let others = [
        of(|r| r.run = RunState::Stopped),
        of(|r| r.priority = 51),
        of(|r| r.revision = Some(0)),
        of(|r| r.name = "b".parse().unwrap()),
        of(|r| r.spec_hash = "sha256:1".to_owned()),
        of(|r| r.removing = true),
        of(|r| r.owner = Owner::Chas),
    ];
    assert!(others.iter().all(|other| *other != before));
    assert_eq!(others[5], etag(&Desired::default()));
    assert_eq!(
        of(|r| (r.seq, r.image_digest, r.restart_pending, r.created_ms) = (99, None, true, 9)),
        before
    );
}
