//! Last generations of a container, and the way back to one, as they are answered.

use serde_json::{Value, json};
use state::desired::chronicle::{Chapter, ChapterEnd, ChapterResult, MemberChange};
use state::desired::{Owner, Record};
use state::reason::Reason;
use state::status::Status;
use state::store::RollbackTarget;

use super::push_set::with;
use super::{Fake, Refusal, ask, get, named, problem, view};
use crate::view::{ChronicleView, ManagedView};

/// Two generations, of which the first failed.
pub(super) fn told(container: ManagedView) -> ChronicleView {
    let record = &container.record;
    let end = ChapterEnd {
        result: ChapterResult::Failed,
        reason: Some(Reason::PortTaken),
        message: Some("8080".to_owned()),
        at_ms: Some(2000),
        owner: Owner::Push,
        image: record.spec.image.clone(),
        image_digest: None,
        revision: Some(1),
        spec_hash: "sha256:1".to_owned(),
        record: None,
    };
    let change = MemberChange {
        field: "args".to_owned(),
        before: Value::Null,
        after: json!(["a"]),
        hidden: None,
    };
    let present = Chapter {
        generation: record.generation,
        by: Some("root".to_owned()),
        at_ms: Some(2000),
        from: Some(0),
        changes: vec![change],
        ..Chapter::default()
    };
    let past = Chapter {
        generation: 0,
        end: Some(Box::new(end)),
        ..Chapter::default()
    };
    ChronicleView {
        chapters: vec![present, past],
        container,
    }
}

/// A generation that is another one.
pub(super) fn target(view: &ManagedView) -> RollbackTarget {
    RollbackTarget {
        present: view.record.generation,
        record: Box::new(Record::clone(&view.record)),
        is_there: false,
    }
}

#[tokio::test]
async fn the_generations_are_told_with_who_what_and_how_it_went() {
    let node = Fake::new(vec![view(&named("web", 0xabc), Status::Running)]);
    let shown = get(&node, "/v1/containers/web/history").await.json();
    let generations = &shown["generations"];
    assert_eq!(shown["kept_max"], 10);
    assert_eq!(generations[0]["by"], "root");
    assert_eq!(generations[0]["at"], "1970-01-01T00:00:02.000Z");
    let change = json!([{"field": "args", "before": null, "after": ["a"]}]);
    assert_eq!(generations[0]["changes"], change);
    assert_eq!(generations[0]["outcome"]["result"], "running");
    assert_eq!(generations[1]["outcome"]["result"], "failed");
    assert_eq!(generations[1]["outcome"]["reason"], "PortTaken");
    let (kept, by) = (&generations[1]["kept"], &generations[1]["by"]);
    assert_eq!((kept, by), (&json!(false), &Value::Null));
    let missing = get(&node, "/containers/none/history").await;
    problem(&missing, 404, "none");
    let wrong = get(&node, "/containers/web/history?limit=1").await;
    problem(&wrong, 400, "limit");
}

#[tokio::test]
async fn a_way_back_may_be_bound_to_the_generation_that_was_looked_at() {
    let node = Fake::new(vec![view(&named("web", 0xabc), Status::Running)]);
    let shown = get(&node, "/containers/web").await;
    let tag = shown.headers["etag"].to_str().unwrap().to_owned();
    let path = "/containers/web/rollback";
    let back =
        async |tag: &str| with(&node, "POST", path, &[("if-match", tag)], String::new()).await;
    assert_eq!(back(&tag).await.status, 202);
    problem(&back("\"000000000abc-9\"").await, 412, "web has changed");
    problem(&back("3").await, 400, "if-match");
}

#[tokio::test]
async fn a_way_back_is_answered_as_a_deploy_is() {
    let node = Fake::new(vec![view(&named("web", 0xabc), Status::Running)]);
    let path = "/containers/web/rollback";
    let answer = ask(&node, "POST", path, "").await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    assert_eq!(answer.json()["name"], "web");
    assert_eq!(node.asked.lock().unwrap().len(), 1);
    for (query, says) in [
        ("generation=x", "generation"),
        ("wait=stopped", "wait="),
        ("to=1", "to"),
    ] {
        let answer = ask(&node, "POST", &format!("{path}?{query}"), "").await;
        problem(&answer, 400, says);
    }
    let refused = Refusal::NotFound("no generation 9".to_owned());
    *node.refusal.lock().unwrap() = Some(refused);
    let answer = ask(&node, "POST", &format!("{path}?generation=9"), "").await;
    problem(&answer, 404, "no generation 9");
    assert_eq!(node.asked.lock().unwrap().len(), 1);
}
