//! Questions what a tag stands for, and what their answers make of the record.

use super::*;
use crate::desired::tag_check::{TagAnswer, TagOutcome};
use crate::ownership::Order;

const AT_MS: u64 = 9;

fn digest(name: &str) -> TagOutcome {
    TagOutcome::Digest(format!("sha256:{name}"))
}

fn failed() -> TagOutcome {
    TagOutcome::Failed {
        reason: Reason::RegistryUnreachable,
        message: "x".repeat(5000),
    }
}

/// A store with one container, `a`, of `body`'s image, which is resolved to `one`.
fn resolved(store: &Store, more: &Value) -> Arc<Record> {
    let mut body = json!({"name": "a", "image": "x"});
    let more = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    let record = deploy(store, &body).unwrap().record;
    let one = Some("sha256:one".to_owned());
    store.set_image_digest(record.instance(), one).unwrap();
    now(store, record.id)
}

fn now(store: &Store, id: ContainerId) -> Arc<Record> {
    Arc::clone(store.desired().get(id).unwrap())
}

fn answer(store: &Store, record: &Record, outcome: TagOutcome) -> Option<TagAnswer> {
    answer_while(true, store, record, outcome)
}

fn answer_while(
    is_running: bool,
    store: &Store,
    record: &Record,
    outcome: TagOutcome,
) -> Option<TagAnswer> {
    let asked = record.tag_check.as_ref().unwrap().asked;
    let answered = store.answer_tag(record.instance(), asked, outcome, AT_MS, is_running);
    answered.unwrap()
}

#[test]
fn what_has_ended_meanwhile_is_not_restarted_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let record = resolved(&store, &json!({}));
    let asked = store.ask_tag(record.id).unwrap();
    answer_while(false, &store, &asked, digest("two")).unwrap();
    let after = now(&store, record.id);
    assert_eq!(after.image_digest.as_deref(), Some("sha256:two"));
    assert!(!after.restart_pending);
}

#[test]
fn a_tag_that_moved_is_followed_by_a_restart_and_the_image_before_stays_to_go_back_to() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let record = resolved(&store, &json!({}));
    let proven = [(record.instance(), record.image_digest.clone())];
    store.note_proven(&proven).unwrap();
    let asked = store.ask_tag(record.id).unwrap();
    assert!(asked.is_tag_unchecked());
    assert_eq!((asked.seq, asked.generation), (record.seq, 1));
    let told = answer(&store, &asked, digest("two")).unwrap();
    assert_eq!(
        (told.as_str(), told.before.as_deref()),
        ("moved", Some("sha256:one"))
    );
    // It survives the end of the agent, as everything that is decided does.
    drop(store);
    let store = open(directory.path());
    let moved = now(&store, record.id);
    assert_eq!(moved.image_digest.as_deref(), Some("sha256:two"));
    assert!(moved.restart_pending && !moved.is_proven && !moved.is_tag_unchecked());
    store.note_proven(&proven).unwrap();
    assert!(
        !now(&store, record.id).is_proven,
        "another image ran so long"
    );
    assert_eq!((moved.seq, moved.generation), (record.seq, 1));
    let former = moved.former_image.clone().unwrap();
    assert_eq!(
        (former.reference, former.digest.as_str()),
        (record.spec.image.clone(), "sha256:one")
    );
    // And back: what has proven nothing is not worth going back to.
    let asked = store.ask_tag(record.id).unwrap();
    answer(&store, &asked, digest("three")).unwrap();
    let former = now(&store, record.id).former_image.clone().unwrap();
    assert_eq!(former.digest, "sha256:one");
}

#[test]
fn a_tag_that_did_not_move_or_cannot_be_had_changes_nothing_but_the_answer() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let record = resolved(&store, &json!({}));
    for (outcome, word) in [(digest("one"), "unchanged"), (failed(), "failed")] {
        let asked = store.ask_tag(record.id).unwrap();
        let told = answer(&store, &asked, outcome).unwrap();
        assert_eq!(told.as_str(), word);
        if let TagOutcome::Failed { message, .. } = &told.outcome {
            assert_eq!(message.len(), 1000, "what is stored has a bound");
        }
        let after = now(&store, record.id);
        assert!(!after.is_tag_unchecked());
        let tag_check = after.tag_check.clone();
        assert_eq!(
            *after,
            Record {
                tag_check,
                ..Record::clone(&record)
            }
        );
    }
}

#[test]
fn only_the_question_that_was_asked_last_is_answered_and_only_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let record = resolved(&store, &json!({}));
    let first = store.ask_tag(record.id).unwrap();
    let second = store.ask_tag(record.id).unwrap();
    assert!(answer(&store, &first, digest("two")).is_none());
    assert!(now(&store, record.id).is_tag_unchecked());
    assert!(answer(&store, &second, digest("three")).is_some());
    assert!(answer(&store, &second, digest("four")).is_none());
    // The same body again is no change, with an answer as with an open question.
    let again = deploy(&store, &json!({"name": "a", "image": "x"})).unwrap();
    assert!(!again.changed && again.record.image_digest.as_deref() == Some("sha256:three"));
    // Another generation has its image resolved; a question that is open is about the same tag.
    let asked = store.ask_tag(record.id).unwrap();
    let other = json!({"name": "a", "image": "x", "args": ["y"]});
    let next = deploy(&store, &other).unwrap().record;
    assert!(next.generation == 2 && next.is_tag_unchecked());
    assert!(answer(&store, &asked, digest("five")).is_none());
    assert!(answer(&store, &next, digest("five")).is_some());
    let resolved = now(&store, record.id);
    assert_eq!(resolved.image_digest.as_deref(), Some("sha256:five"));
    assert!(!resolved.restart_pending, "nothing of it runs yet");
    store.ask_tag(record.id).unwrap();
    let moved_on = deploy(&store, &json!({"name": "a", "image": "z"})).unwrap();
    assert_eq!(moved_on.record.tag_check, None);
}

#[test]
fn what_rests_gets_the_new_image_with_its_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let record = resolved(&store, &json!({}));
    let finished = Finished {
        code: 0,
        reason: Reason::Completed,
        at_ms: 1,
    };
    let rests: [&dyn Fn(); 2] = [
        &|| drop(store.order(record.id, Order::Stop).unwrap()),
        &|| {
            store.order(record.id, Order::Start).unwrap();
            store.finish(record.id, 1, finished.clone()).unwrap();
        },
    ];
    for (rest, name) in rests.into_iter().zip(["two", "three"]) {
        rest();
        let asked = store.ask_tag(record.id).unwrap();
        answer(&store, &asked, digest(name)).unwrap();
        let after = now(&store, record.id);
        assert_eq!(after.image_digest, Some(format!("sha256:{name}")));
        assert!(!after.restart_pending, "{name}");
    }
}

#[test]
fn a_restart_asks_the_registry_only_with_the_policy_always_and_for_a_tag_that_is_resolved() {
    let pinned = format!("x@sha256:{}", "0".repeat(64));
    for (more, asks) in [
        (json!({}), false),
        (json!({"image_pull": "never"}), false),
        (json!({"image_pull": "always"}), true),
        (json!({"image_pull": "always", "image": pinned}), false),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let record = resolved(&store, &more);
        store.set_image_digest(record.instance(), None).unwrap();
        let unresolved = store.order(record.id, Order::Restart).unwrap();
        assert_eq!(unresolved.tag_check, None, "{more}: it is pulled anyway");
        let one = Some("sha256:one".to_owned());
        store.set_image_digest(record.instance(), one).unwrap();
        let restarted = store.order(record.id, Order::Restart).unwrap();
        assert_eq!(restarted.is_tag_unchecked(), asks, "{more}");
        assert!(restarted.restart_pending);
    }
}

#[test]
fn a_tag_is_not_asked_about_that_is_none_or_of_a_container_that_goes() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let nobody = store.ask_tag(ContainerId::from_bits(7));
    assert!(matches!(nobody, Err(StoreError::NotFound(_))));
    let pinned = json!({"name": "p", "image": format!("x:1@sha256:{}", "0".repeat(64))});
    let pinned = deploy(&store, &pinned).unwrap().record;
    let refused = store.ask_tag(pinned.id).unwrap_err();
    assert!(matches!(refused, StoreError::PinnedImage(..)), "{refused}");
    let record = resolved(&store, &json!({}));
    store.order(record.id, Order::Remove).unwrap();
    let refused = store.ask_tag(record.id).unwrap_err();
    assert!(matches!(refused, StoreError::Removing(_)), "{refused}");
}
