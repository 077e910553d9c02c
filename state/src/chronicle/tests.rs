use serde_json::json;

use super::*;
use crate::desired::tests::record;
use crate::failure::Failure;
use crate::reason::Reason;
use crate::seal::Sealer;

/// A generation with this body beside name and image.
fn generation(number: u64, more: &Value) -> Record {
    let mut body = json!({"name": "a", "image": "nginx"});
    let members = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(members);
    let mut deploy = crate::spec::parse::deploy(&body).unwrap();
    deploy
        .spec
        .seal_environment(&deploy.name, &Sealer::new(&[1; 32]));
    Record {
        generation: number,
        spec_hash: deploy.spec.hash(),
        spec: deploy.spec,
        revision: deploy.revision,
        priority: deploy.priority,
        ..record("a", 1)
    }
}

fn chapter(record: &Record, after: &Record) -> Chapter {
    Chapter {
        generation: record.generation,
        end: Some(Box::new(ended(record, after, None, None))),
        ..Chapter::default()
    }
}

#[test]
fn what_changed_is_told_by_its_path_and_no_value_is() {
    let one = json!({"environment": {"KEPT": "k", "GONE": "very-secret-1", "OTHER": "very-secret-2"},
        "args": ["a"], "resources": {"memory": "64m"}, "labels": {"team": "x"},
        "files": [{"path": "/etc/a", "content": "very-secret-3"}], "revision": 1});
    let two = json!({"environment": {"KEPT": "k", "NEW": "very-secret-4", "OTHER": "very-secret-5"},
        "args": ["a", "b"], "resources": {"memory": "128m"},
        "files": [{"path": "/etc/a", "content": "very-secret-6"}], "revision": 2});
    let (one, two) = (generation(1, &one), generation(2, &two));
    let begun = begun(Some(&one), &two);
    let told = serde_json::to_value(&begun.changes).unwrap();
    assert_eq!(
        told,
        json!([
            {"field": "args", "before": ["a"], "after": ["a", "b"]},
            {"field": "environment.GONE", "hidden": "removed"},
            {"field": "environment.NEW", "hidden": "added"},
            {"field": "environment.OTHER", "hidden": "changed"},
            {"field": "files./etc/a", "hidden": "changed"},
            {"field": "labels.team", "before": "x"},
            {"field": "resources.memory", "before": "64m", "after": "128m"},
            {"field": "revision", "before": 1, "after": 2},
        ])
    );
    assert!(!told.to_string().contains("very-secret"), "{told}");
    assert_eq!((begun.from, begun.changes_left_out), (Some(1), 0));
    assert!(super::begun(None, &one).changes.is_empty());
}

#[test]
fn a_chapter_is_bounded_whatever_changed() {
    let labels: BTreeMap<_, _> = (0..50)
        .map(|at| (format!("l{at}"), "x".repeat(250)))
        .collect();
    let one = generation(1, &json!({}));
    let two = generation(2, &json!({"labels": labels}));
    let begun = begun(Some(&one), &two);
    assert_eq!(
        (begun.changes.len(), begun.changes_left_out),
        (CHANGES_MAX, 10)
    );
    assert!(serde_json::to_string(&begun).unwrap().len() < 20_000);
    let large: BTreeMap<_, _> = (0..100)
        .map(|at| (format!("V{at}"), "x".repeat(1000)))
        .collect();
    let large = generation(1, &json!({"environment": large}));
    let ended = ended(&large, &two, None, None);
    assert!(ended.record.is_none(), "too large");
    assert_eq!(ended.spec_hash, large.spec_hash);
}

#[test]
fn a_record_whose_values_are_readable_is_not_kept() {
    let mut one = generation(1, &json!({}));
    let value = ("A".to_owned(), "very-secret".to_owned());
    one.spec.environment = Some(BTreeMap::from([value]));
    let two = generation(2, &json!({}));
    assert!(ended(&one, &two, None, None).record.is_none());
    let begun = serde_json::to_string(&begun(Some(&one), &two)).unwrap();
    assert!(!begun.contains("very-secret"), "{begun}");
}

#[test]
fn the_end_says_how_it_went() {
    let two = generation(2, &json!({}));
    let of = |change: &dyn Fn(&mut Record)| {
        let mut one = generation(1, &json!({}));
        change(&mut one);
        let ended = ended(&one, &two, None, None);
        (ended.result, ended.reason)
    };
    let finished = |code, reason| crate::desired::Finished {
        code,
        reason,
        at_ms: 0,
    };
    assert_eq!(of(&|_| {}), (ChapterResult::NotStarted, None));
    assert_eq!(
        of(&|one| one.is_proven = true),
        (ChapterResult::RanWell, None)
    );
    let completed = of(&|one| one.finished = Some(finished(0, Reason::Completed)));
    assert_eq!(completed, (ChapterResult::Completed, None));
    let failed = of(&|one| one.finished = Some(finished(3, Reason::RetriesExhausted)));
    assert_eq!(
        failed,
        (ChapterResult::Failed, Some(Reason::RetriesExhausted))
    );
    let one = generation(1, &json!({}));
    let mut history = History::default().of(&one);
    let now = crate::time::BootTime::default();
    history.record_start(now);
    let result = |history: &History| ended(&one, &two, Some(history), None).result;
    assert_eq!(result(&history), ChapterResult::Ran);
    let (cause, wait) = (crate::history::Cause::Start, std::time::Duration::ZERO);
    history.record_failure(cause, Reason::PortTaken, "8080".to_owned(), now, wait);
    assert_eq!(result(&history), ChapterResult::Failed);
    let of_another = History::default().of(&generation(5, &json!({})));
    assert_eq!(result(&of_another), ChapterResult::NotStarted);
    let mut back = generation(2, &json!({}));
    let why = Failure::new(Reason::Exited, "it ended");
    back.rolled_back = Some(one.given_up_for(&why, &two, 1));
    let ended = ended(&one, &back, None, None);
    assert_eq!(ended.result, ChapterResult::RolledBack);
    assert_eq!(ended.reason, Some(Reason::Exited));
}

#[test]
fn the_last_good_one_ran_for_a_minute_is_another_and_was_not_given_up() {
    let of = |number: u64, is_proven: bool| {
        let mut record = generation(number, &json!({"args": [number.to_string()]}));
        record.is_proven = is_proven;
        record
    };
    let present = of(5, true);
    let (one, two, three, four) = (of(1, true), of(2, true), of(3, false), of(4, false));
    let mut same = present.clone();
    same.generation = 4;
    let good = |chapters: &[Chapter], present: &Record| {
        last_good(chapters, present).map(|chapter| chapter.generation)
    };
    let all = [
        chapter(&one, &two),
        chapter(&two, &three),
        chapter(&three, &four),
    ];
    assert_eq!(good(&all, &present), Some(2), "the third was not proven");
    let with_same = [&all[..], &[chapter(&same, &present)]].concat();
    assert_eq!(good(&with_same, &present), Some(2), "it is what is there");
    let why = Failure::new(Reason::RolledBack, "by hand");
    let mut back = present.clone();
    back.rolled_back = Some(two.given_up_for(&why, &one, 1));
    assert_eq!(good(&all, &back), Some(1), "the second was given up");
    assert_eq!(
        good(&[chapter(&three, &four)], &present),
        None,
        "it never started"
    );
    let mut ran = chapter(&three, &four);
    ran.end.as_mut().unwrap().result = ChapterResult::Ran;
    assert_eq!(good(&[ran], &present), Some(3), "there is no better one");
    let mut unresolved = one.clone();
    unresolved.image_digest = None;
    assert_eq!(good(&[chapter(&unresolved, &two)], &present), None);
    let mut failed = chapter(&two, &three);
    failed.end.as_mut().unwrap().result = ChapterResult::Failed;
    let before = chapter(&one, &two);
    assert_eq!(good(&[before, failed.clone()], &present), Some(1));
    assert_eq!(good(&[failed], &present), Some(2), "there is no better one");
}

#[test]
fn another_value_of_a_secret_is_no_other_body() {
    let with_value = |tag: &str| {
        let secrets = json!({"secrets": [{"name": "db", "env": "DB"}]});
        let mut record = generation(2, &secrets);
        record.spec.secrets[0].tag = Some(tag.repeat(crate::blobs::TAG_DIGITS).parse().unwrap());
        record.spec_hash = record.spec.hash();
        record
    };
    let (bad, rotated) = (with_value("1"), with_value("2"));
    let good = generation(1, &json!({}));
    let given_up = bad.given_up_for(&Failure::new(Reason::Exited, "it ended"), &good, 1);
    assert!(given_up.is_of(&rotated.spec, None));
    assert!(!given_up.is_of(&generation(3, &json!({})).spec, None));
    let mut back = good.clone();
    back.rolled_back = Some(given_up);
    let again = generation(4, &json!({"args": ["4"]}));
    let further = again.given_up_for(&Failure::new(Reason::Exited, "it ended"), &back, 2);
    assert!(!further.is_of(&rotated.spec, None), "another container");
    let mut again = again;
    again.rolled_back = back.rolled_back;
    let further = again.given_up_for(&Failure::new(Reason::Exited, "it ended"), &good, 2);
    assert!(
        further.is_of(&rotated.spec, None),
        "it is among the earlier ones"
    );
}

#[test]
fn an_image_that_was_gone_back_to_follows_no_tag_and_a_tag_asked_anew_keeps_the_one_before() {
    let always = json!({"image_pull": "always"});
    let mut record = generation(1, &always);
    record.is_proven = true;
    let next = generation(2, &json!({"image_pull": "always", "args": ["2"]}));
    let kept = record.former_image_for(&next.spec).unwrap();
    assert_eq!(Some(kept.digest), record.image_digest);
    assert!(
        record
            .former_image_for(&generation(2, &json!({})).spec)
            .is_none()
    );
    assert!(record.follows_tag());
    let why = Failure::new(Reason::Exited, "it ended");
    record.rolled_back = Some(next.given_up_for(&why, &record, 1));
    assert!(!record.follows_tag());
}
