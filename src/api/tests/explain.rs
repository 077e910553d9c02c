//! Plans and explanations.

use std::time::{Duration, SystemTime};

use serde_json::json;
use state::desired::Finished;
use state::history::{Cause, History};
use state::observed::{Instance, Seen, Task};
use state::reason::Reason;
use state::status::Status;
use state::time::BootTime;

use super::looks::failed;
use super::{Fake, Record, ask, get, named, nginx, problem, view};
use crate::view::{AcquaintancesView, ExplanationView, ManagedView, Moment, StepView};

/// Of one that fails to start, a second after the boot began; its image is tried again ten seconds
/// later.
pub(super) fn explanation(view: ManagedView) -> ExplanationView {
    let mut history = History::default();
    let at = BootTime(Duration::from_secs(1));
    history.record_failure(
        Cause::Start,
        Reason::ImageNotFound,
        "no such tag".to_owned(),
        at,
        Duration::from_secs(10),
    );
    let running = Instance::from(Task::Running {
        pid: 7,
        since: Some(BootTime::default()),
    });
    let taken = Moment {
        boot: at,
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
    };
    ExplanationView {
        container: ManagedView { taken, ..view },
        seen: Seen {
            instances: [(1, running)].into(),
        },
        history,
        activity: None,
        next: Some(pulls()),
        blocked: None,
        unblock: None,
        acquaintances: AcquaintancesView {
            reaches: ["db", "other"].map(|name| name.parse().unwrap()).into(),
            reached_by: ["other"].map(|name| name.parse().unwrap()).into(),
        },
        suppressed: None,
        disconnect: None,
    }
}

#[tokio::test]
async fn a_plan_is_empty_when_all_is_settled() {
    let node = Fake::new(vec![view(&named("web", 1), Status::Running)]);
    let settled = json!({"id": "000000000001", "name": "web", "steps": []});
    let expected =
        json!({"settled": true, "blocked": null, "containers": [settled], "leftovers": []});
    assert_eq!(get(&node, "/plan").await.json(), expected);
    node.show(vec![view(&named("web", 1), Status::Pending)]);
    let plan = get(&node, "/plan").await.json();
    assert_eq!(
        (
            &plan["settled"],
            &plan["containers"][0]["steps"][0]["action"]
        ),
        (&json!(false), &json!("pull"))
    );
    problem(&get(&node, "/plan?dry_run=true").await, 400, "dry_run");
    let away = std::sync::Arc::new(Fake {
        containerd: false,
        ..Fake::with(Vec::new())
    });
    assert_eq!(
        get(&away, "/plan").await.json()["blocked"],
        "containerd is unreachable"
    );
    let dry = ask(
        &node,
        "POST",
        "/containers/deploy?dry_run=true",
        nginx().replace("web", "db"),
    )
    .await
    .json();
    assert_eq!(dry["plan"][0]["why"], "it is not resolved");
}

#[tokio::test]
async fn an_explanation_has_what_is_wanted_what_is_seen_what_is_decided_and_what_would_help() {
    let node = Fake::new(vec![failed(&named("web", 0xabc), Status::Failed)]);
    let shown = get(&node, "/containers/web/explain").await.json();
    assert_eq!(
        (&shown["status"], &shown["reason"], &shown["attempts"]),
        (&json!("failed"), &json!("ImageNotFound"), &json!(1))
    );
    assert!(
        shown["unblock"].as_str().unwrap().contains("push it"),
        "{shown}"
    );
    assert_eq!(
        (&shown["desired"]["generation"], &shown["desired"]["owner"]),
        (&json!(1), &json!("push"))
    );
    let seen = json!({"generation": 1, "carries": 1, "container": true, "task": "running", "pid": 7, "since": "1970-01-01T00:00:00.000Z", "ended": null});
    assert_eq!(
        shown["observed"],
        json!({"instances": [seen], "activity": null, "health": null})
    );
    assert_eq!(
        (
            &shown["decision"]["step"]["action"],
            &shown["decision"]["step"]["instance"]
        ),
        (&json!("pull"), &json!("000000000abc-1"))
    );
    assert_eq!(
        shown["network"],
        json!({"groups": [], "reaches": ["db", "other"], "reached_by": ["other"]})
    );
    let inputs = &shown["decision"]["inputs"];
    assert_eq!(inputs["setback"]["until"], "1970-01-01T00:00:11.000Z");
    assert_eq!(
        (&inputs["start_waits_until"], &inputs["end_waits_until"]),
        (&inputs["setback"]["until"], &json!(null))
    );
    problem(&get(&node, "/containers/db/explain").await, 404, "db");
    let node = Fake::with(Vec::new()).beside("k8s-1", "pause");
    problem(
        &get(&node, "/containers/k8s-1/explain").await,
        409,
        "not managed by this agent",
    );
}

#[tokio::test(start_paused = true)]
async fn a_generation_that_ended_and_stays_so_was_applied() {
    let finished = Some(Finished {
        code: 1,
        reason: Reason::Exited,
        at_ms: 0,
    });
    let record = Record {
        finished,
        generation: 2,
        ..named("web", 1)
    };
    let node = Fake::new(vec![failed(&record, Status::Failed)]);
    assert_eq!(
        get(
            &node,
            "/containers/web?wait=applied&generation=2&timeout=1s"
        )
        .await
        .status,
        200
    );
    problem(
        &get(
            &node,
            "/containers/web?wait=applied&generation=3&timeout=1s",
        )
        .await,
        504,
        "1s",
    );
}

/// The step that everything begins with.
pub(super) fn pulls() -> StepView {
    StepView {
        word: "pull",
        instance: Some("000000000abc-1".parse().unwrap()),
        why: "it is not resolved".to_owned(),
        until: None,
    }
}
