//! The way back by hand.

use super::chronicle::{back, body, request, run, with_key};
use super::*;
use crate::desired::chronicle::ChapterResult;
use crate::desired::update::UpdateStage;
use crate::ownership::answers::Keyed;
use crate::ownership::{ChasSet, Order};
use crate::time::BootTime;

#[test]
fn it_goes_back_to_the_last_good_one_which_needs_no_registry() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_key(directory.path());
    let id = run(&store, &body(1), true).id;
    let bad = run(&store, &body(2), false);
    let accepted = back(&store, id, None).unwrap();
    let record = &accepted.record;
    assert!(accepted.changed);
    assert_eq!(
        (record.generation, &record.spec.args),
        (3, &Some(vec!["1".to_owned()]))
    );
    assert_eq!(record.image_digest.as_deref(), Some("sha256:1"));
    let given_up = record.rolled_back.as_ref().unwrap();
    assert_eq!((given_up.generation, given_up.back_to), (2, Some(1)));
    assert_eq!(given_up.spec_hash, bad.spec_hash);
    let refused = deploy(&store, &body(2));
    assert!(
        matches!(refused, Err(StoreError::RolledBack(..))),
        "{refused:?}"
    );
    assert!(!deploy(&store, &body(1)).unwrap().changed, "it is there");
    let told = store.chronicle(id).unwrap();
    assert_eq!((told[0].generation, told[0].back_to), (3, Some(1)));
    assert_eq!(
        told[1].end.as_ref().unwrap().result,
        ChapterResult::RolledBack
    );
    assert!(matches!(
        back(&store, id, None),
        Err(StoreError::AlreadyBack(_, 2))
    ));
    assert!(
        !back(&store, id, Some(1)).unwrap().changed,
        "it is so already"
    );
    // What was given up can be asked for by its number.
    let again = back(&store, id, Some(2)).unwrap().record;
    assert_eq!(
        (again.generation, &again.spec.args),
        (4, &Some(vec!["2".to_owned()]))
    );
    assert!(again.rolled_back.as_ref().unwrap().earlier.is_empty());
    let newer = deploy(&store, &body(5)).unwrap().record;
    assert!(newer.rolled_back.is_none());
}

#[test]
fn on_a_way_back_by_several_steps_every_body_that_was_left_stays_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_key(directory.path());
    let id = run(&store, &body(1), true).id;
    run(&store, &body(2), true);
    run(&store, &body(3), true);
    assert_eq!(
        back(&store, id, None).unwrap().record.spec.args,
        Some(vec!["2".to_owned()])
    );
    assert_eq!(
        back(&store, id, Some(1)).unwrap().record.spec.args,
        Some(vec!["1".to_owned()])
    );
    for version in [2, 3] {
        let refused = deploy(&store, &body(version));
        assert!(
            matches!(refused, Err(StoreError::RolledBack(..))),
            "{version}"
        );
    }
}

#[test]
fn what_serves_beside_a_trial_is_gone_back_to_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_key(directory.path());
    let mut first = body(1);
    first["update"] = json!({"strategy": "start-first"});
    let one = run(&store, &first, false);
    let mut second = body(2);
    second["update"] = first["update"].clone();
    let trial = run(&store, &second, false);
    assert_eq!(trial.update.as_ref().unwrap().stage, UpdateStage::Trying);
    let request = request(one.id, None);
    let Idempotent::Now(target) = store.rollback_target(&request).unwrap() else {
        panic!("it has no key");
    };
    let accepted = store.go_back(&request, &target, true, 9).unwrap();
    let Idempotent::Now(accepted) = accepted else {
        panic!("it has no key");
    };
    assert_eq!(
        accepted.record.instance(),
        one.instance(),
        "it was never stopped"
    );
    assert_eq!(
        accepted.record.update.as_ref().unwrap().stage,
        UpdateStage::Leaving
    );
    // Another change came since it was looked for.
    let late = store.go_back(&request, &target, true, 9);
    assert!(matches!(late, Err(StoreError::Changed(_, 3))), "{late:?}");
}

#[test]
fn a_key_is_answered_once_and_what_is_stopped_stays_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_key(directory.path());
    let id = run(&store, &body(1), true).id;
    run(&store, &body(2), false);
    store.order(id, Order::Stop).unwrap();
    let mut request = request(id, None);
    request.keyed = Some(Keyed {
        key: "k".parse().unwrap(),
        request: "rollback".to_owned(),
        boot_id: "b".to_owned(),
        now: BootTime::default(),
    });
    let Ok(Idempotent::Now(target)) = store.rollback_target(&request) else {
        panic!("it is new");
    };
    let accepted = store.go_back(&request, &target, false, 9).unwrap();
    let Idempotent::Now(accepted) = accepted else {
        panic!("it is new");
    };
    assert_eq!(accepted.record.run, RunState::Stopped);
    let again = store.rollback_target(&request).unwrap();
    assert!(matches!(again, Idempotent::Before(answer) if answer.changed));
    let again = store.go_back(&request, &target, false, 9).unwrap();
    assert!(matches!(again, Idempotent::Before(_)));
}

#[test]
fn a_port_that_another_container_has_by_now_and_a_secret_that_is_gone_refuse_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_key(directory.path());
    store.put_secret(&"pw".parse().unwrap(), b"x", 1).unwrap();
    let mut first = body(1);
    first["exposed_ports"] = json!([{"container": 80, "host": 100}]);
    first["secrets"] = json!([{"name": "pw", "env": "PW"}]);
    let id = run(&store, &first, true).id;
    run(&store, &body(2), false);
    store.remove_secret(&"pw".parse().unwrap()).unwrap();
    let refused = back(&store, id, None);
    assert!(
        matches!(refused, Err(StoreError::NoSecret(..))),
        "{refused:?}"
    );
    store.put_secret(&"pw".parse().unwrap(), b"y", 1).unwrap();
    let other = json!({"name": "b", "image": "x", "exposed_ports": first["exposed_ports"]});
    let other = deploy(&store, &other).unwrap().record;
    let refused = back(&store, id, None);
    assert!(matches!(refused, Err(StoreError::Assign(_))), "{refused:?}");
    store.order(other.id, Order::Remove).unwrap();
    store.forget(other.id).unwrap();
    let record = back(&store, id, None).unwrap().record;
    let secret = store.desired().marks().secrets().values().next().cloned();
    assert_eq!(
        record.spec.secrets[0].tag,
        secret.map(|secret| secret.tag),
        "its present value"
    );
    assert_eq!(record.assignment.ports[0].host, 100);
}

#[test]
fn a_set_of_chas_does_not_bring_back_what_was_left_until_it_is_newer() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_key(directory.path());
    let set = |generation: u64, version: u64, revision: u64| {
        let mut body = body(version);
        body["revision"] = json!(revision);
        ChasSet {
            epoch: "e".to_owned(),
            generation,
            containers: vec![crate::spec::parse::deploy(&body).unwrap()],
            requested_at_seq: u64::MAX,
            ..ChasSet::default()
        }
    };
    let take = |set: &ChasSet| {
        let outcome = store.apply_set(set, 1).unwrap();
        let record = store.desired().records().next().cloned().unwrap();
        let digest = Some("sha256:1".to_owned());
        store
            .set_image_digest(record.instance(), digest.clone())
            .unwrap();
        store.note_proven(&[(record.instance(), digest)]).unwrap();
        outcome
    };
    take(&set(1, 1, 1));
    take(&set(2, 2, 2));
    let id = store.desired().records().next().unwrap().id;
    let record = back(&store, id, None).unwrap().record;
    assert_eq!((record.owner, record.revision), (Owner::Chas, Some(1)));
    for generation in [2, 3] {
        let outcome = take(&set(generation, 2, 2));
        assert_eq!(
            outcome.rejected.len(),
            usize::from(generation == 3),
            "{outcome:?}"
        );
        assert_eq!(store.desired().get(id).unwrap().generation, 3);
    }
    take(&set(4, 2, 3));
    let record = store.desired().get(id).cloned().unwrap();
    assert_eq!((record.generation, &record.rolled_back), (4, &None));
}

#[test]
fn the_image_of_the_last_good_one_is_the_one_that_stays_on_the_node() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_key(directory.path());
    let of = |image: &str, proven: bool| {
        let record = deploy(&store, &json!({"name": "a", "image": image}))
            .unwrap()
            .record;
        let digest = Some(format!("sha256:{image}"));
        store
            .set_image_digest(record.instance(), digest.clone())
            .unwrap();
        if proven {
            store.note_proven(&[(record.instance(), digest)]).unwrap();
        }
        record.id
    };
    let id = of("one", true);
    of("two", true);
    of("three", false);
    for (generation, expected) in [(None, "sha256:two"), (Some(1), "sha256:one")] {
        let present = Arc::clone(store.desired().get(id).unwrap());
        let kept = [
            present
                .former_image
                .as_ref()
                .map(|image| image.digest.clone()),
            present.image_digest.clone(),
        ];
        let record = back(&store, id, generation).unwrap().record;
        assert_eq!(record.image_digest.as_deref(), Some(expected));
        assert!(kept.contains(&record.image_digest), "{kept:?}");
    }
}

#[test]
fn who_asks_twice_while_the_good_one_is_tried_does_not_get_the_bad_one_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_key(directory.path());
    let with = |version: u64, strategy: &str| {
        let mut body = body(version);
        body["update"] = json!({"strategy": strategy});
        body
    };
    let id = run(&store, &with(1, "start-first"), true).id;
    let bad = run(&store, &with(2, "stop-first"), false);
    assert!(
        bad.update
            .as_ref()
            .is_none_or(|of| of.stage == UpdateStage::Leaving)
    );
    let record = back(&store, id, None).unwrap().record;
    assert_eq!(record.update.as_ref().unwrap().stage, UpdateStage::Trying);
    let again = back(&store, id, None);
    assert!(
        matches!(again, Err(StoreError::AlreadyBack(_, 2))),
        "{again:?}"
    );
    // It may be meant so.
    let record = back(&store, id, Some(2)).unwrap().record;
    assert_eq!(record.spec.args, Some(vec!["2".to_owned()]));
}

#[test]
fn who_looked_at_another_generation_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_key(directory.path());
    let looked_at = run(&store, &body(1), true);
    let id = looked_at.id;
    run(&store, &body(2), true);
    let now_is = store.desired().get(id).unwrap().etag();
    let asked = |tag: String| RollbackRequest {
        if_match: Some(vec!["another".to_owned(), tag]),
        ..request(id, Some(1))
    };
    let refused = store.rollback_target(&asked(looked_at.etag()));
    assert!(
        matches!(&refused, Err(StoreError::UnmatchedContainer(_, now)) if *now == now_is),
        "{refused:?}"
    );
    assert!(store.rollback_target(&asked(now_is)).is_ok());
}

#[test]
fn nothing_is_given_up_for_values_that_cannot_be_opened() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_key(directory.path());
    let with_file = |version: u64| {
        let mut body = body(version);
        body["files"] = json!([{"path": "/a", "content": version.to_string()}]);
        body
    };
    let id = run(&store, &with_file(1), true).id;
    let before = run(&store, &with_file(2), false);
    let of_first = store.chronicle(id).unwrap();
    let record = of_first[1].end.as_ref().unwrap().record.clone().unwrap();
    let tag = record.spec.files[0].tag.clone().unwrap();
    let kept = directory.path().join("blobs").join(tag.to_string());
    let bytes = std::fs::read(&kept).unwrap();
    std::fs::remove_file(&kept).unwrap();
    let refused = back(&store, id, None);
    assert!(
        matches!(&refused, Err(StoreError::Unopenable(_, 1, _))),
        "{refused:?}"
    );
    assert_eq!(*store.desired().get(id).unwrap(), before);
    std::fs::write(&kept, bytes).unwrap();
    assert_eq!(back(&store, id, None).unwrap().record.generation, 3);
}

#[test]
fn a_good_one_that_was_not_kept_is_passed_over_by_nobody_unasked() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_key(directory.path());
    let id = run(&store, &body(1), true).id;
    let mut large = body(2);
    large["environment"] = (0..9)
        .map(|n| (format!("V{n}"), json!("x".repeat(9000))))
        .collect::<serde_json::Map<_, _>>()
        .into();
    run(&store, &large, true);
    run(&store, &body(3), false);
    let refused = back(&store, id, None);
    assert!(
        matches!(&refused, Err(StoreError::UnkeptGood(_, 2, 1))),
        "{refused:?}"
    );
    assert_eq!(back(&store, id, Some(1)).unwrap().record.generation, 4);
}

#[test]
fn past_generations_keep_no_more_of_files_than_one_body_may_have() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_key(directory.path());
    let with_file = |version: u64, kib: usize| {
        let mut body = body(version);
        let content = version.to_string().repeat(kib << 10);
        body["files"] =
            json!([{"path": "/a", "content": content}, {"path": "/b", "content": "same"}]);
        body
    };
    let id = run(&store, &with_file(1, 100), true).id;
    for version in 2..=5 {
        run(&store, &with_file(version, 400), true);
    }
    let kept = |store: &Store| -> Vec<_> {
        let chapters = store.chronicle(id).unwrap();
        let kept = chapters.iter().filter(|chapter| {
            let end = chapter.end.as_ref();
            end.is_some_and(|end| end.record.is_some())
        });
        kept.map(|chapter| chapter.generation).collect()
    };
    assert_eq!(kept(&store), [4, 3]);
    let used = store.blobs_of_chronicles().unwrap();
    assert_eq!(used.len(), 3, "of two, and what they share");
    assert!(matches!(
        back(&store, id, Some(2)),
        Err(StoreError::UnkeptGeneration(_, 2))
    ));
    assert_eq!(back(&store, id, None).unwrap().record.generation, 6);
}
