//! Deploying, changing, removing, and waiting for what comes of it.

use std::time::{Duration, SystemTime};

use axum::body::Body;
use serde_json::json;
use state::desired::tag_check::{TagAnswer, TagCheck, TagOutcome};
use state::desired::{Record, RunState};
use state::reason::Reason;
use state::status::Status;
use state::time::BootTime;
use tokio::time::Instant;

use super::looks::failed;
use super::{Fake, ask, get, named, nginx, problem, view};
use crate::api::{NodeApi as _, Order, Refusal};
use crate::view::{ManagedView, Moment};

#[tokio::test]
async fn a_deploy_is_202_when_it_changes_something_and_200_when_not() {
    let node = Fake::new(Vec::new());
    let dry = ask(&node, "POST", "/containers/deploy?dry_run=true", nginx()).await;
    assert_eq!((dry.status, &dry.json()["changed"]), (200, &json!(true)));
    assert!(node.containers().is_empty());
    let first = ask(&node, "POST", "/containers/deploy", nginx()).await;
    assert_eq!(
        (first.status, &first.json()["id"]),
        (202, &json!("000000000abc"))
    );
    assert_eq!(
        ask(&node, "POST", "/containers/deploy", nginx())
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_bad_body_is_400_413_or_422_with_every_fault() {
    let node = Fake::new(Vec::new());
    problem(
        &ask(&node, "POST", "/containers/deploy", "{").await,
        400,
        "not JSON",
    );
    problem(
        &ask(
            &node,
            "POST",
            "/containers/deploy",
            " ".repeat((1 << 20) + 1),
        )
        .await,
        413,
        "1 MiB",
    );
    let body = json!({"name": "A b", "image": "nginx", "imagee": 1, "resources": {"memory": "x"}})
        .to_string();
    let answer = ask(&node, "POST", "/containers/deploy", body).await;
    problem(&answer, 422, "resources.memory");
    let fields: Vec<_> = answer.json()["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["field"].clone())
        .collect();
    for field in ["name", "imagee", "resources.memory"] {
        assert!(fields.contains(&json!(field)), "{fields:?}");
    }
}

#[tokio::test]
async fn each_refusal_has_its_status() {
    let node = Fake::new(Vec::new());
    for (refusal, status) in [
        (Refusal::Conflict("taken".to_owned()), 409),
        (Refusal::Denied(vec![super::denied::denial()]), 403),
        (Refusal::NotFound("taken".to_owned()), 404),
        (Refusal::Full("taken".to_owned()), 507),
        (Refusal::Unavailable("taken".to_owned()), 503),
    ] {
        *node.refusal.lock().unwrap() = Some(refusal);
        problem(
            &ask(&node, "POST", "/containers/deploy", nginx()).await,
            status,
            "taken",
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_deploy_that_is_waited_for_tells_how_it_ended() {
    let record = named("web", 0xabc);
    let second = Record {
        generation: 2,
        ..record.clone()
    };
    for (shown, status, says) in [
        (vec![view(&record, Status::Running)], 200, ""),
        (vec![failed(&record, Status::Failed)], 422, "no such tag"),
        (
            vec![failed(&record, Status::Restarting)],
            422,
            "no such tag",
        ),
        (vec![view(&record, Status::Removing)], 409, "being removed"),
        (vec![view(&second, Status::Running)], 409, "generation 2"),
        (Vec::new(), 404, "removed"),
        (vec![view(&record, Status::Pulling)], 504, "5s"),
    ] {
        let node = Fake::new(Vec::new());
        let request = ask(
            &node,
            "POST",
            "/containers/deploy?wait=running&timeout=5",
            nginx(),
        );
        let later = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            node.show(shown);
        };
        let (answer, ()) = tokio::join!(request, later);
        if status == 200 {
            assert_eq!(
                (answer.status, &answer.json()["status"]),
                (200, &json!("running"))
            );
        } else {
            problem(&answer, status, says);
            assert_eq!(
                answer.json().get("reason"),
                (status == 422).then_some(&json!("ImageNotFound"))
            );
        }
    }
}

/// Redeploys what is there and does not run, and shows `then` after two seconds.
async fn redeploy(now: ManagedView, then: ManagedView) -> super::Answer {
    let node = Fake::new(vec![now]);
    let later = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        node.show(vec![then]);
    };
    let deploy = ask(
        &node,
        "POST",
        "/containers/deploy?wait=running&timeout=10s",
        nginx(),
    );
    tokio::join!(deploy, later).0
}

pub(super) fn waiting_out(record: &Record, attempt: u64, wait: Duration) -> ManagedView {
    let mut view = failed(record, Status::Failed);
    let next = BootTime(Duration::from_secs(attempt));
    view.condition.next_attempt = Some(next);
    view.taken = Moment {
        boot: next,
        wall: SystemTime::now() + wait,
    };
    view
}

#[tokio::test(start_paused = true)]
async fn a_failure_from_before_an_identical_deploy_is_not_held_against_it_unless_nothing_is_tried_in_time()
 {
    let record = named("web", 0xabc);
    let began = Instant::now();
    let (soon, late) = (Duration::from_secs(1), Duration::from_mins(5));
    let answer = redeploy(
        waiting_out(&record, 1, soon),
        view(&record, Status::Running),
    )
    .await;
    assert_eq!(
        (answer.status, answer.json()["status"].clone()),
        (200, json!("running"))
    );
    problem(
        &redeploy(waiting_out(&record, 1, soon), waiting_out(&record, 2, soon)).await,
        422,
        "no such tag",
    );
    assert_eq!(began.elapsed().as_secs(), 4);
    let node = Fake::new(vec![waiting_out(&record, 1, late)]);
    problem(
        &ask(
            &node,
            "POST",
            "/containers/deploy?wait=running&timeout=10s",
            nginx(),
        )
        .await,
        422,
        "no such tag",
    );
    // One whose restart policy has given it up is never tried again.
    let node = Fake::new(vec![failed(&record, Status::Failed)]);
    problem(
        &ask(
            &node,
            "POST",
            "/containers/deploy?wait=running&timeout=10s",
            nginx(),
        )
        .await,
        422,
        "no such tag",
    );
    assert_eq!(began.elapsed().as_secs(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_deploy_that_somebody_else_stops_does_not_count_as_running() {
    let record = named("web", 0xabc);
    let stopped = Record {
        run: RunState::Stopped,
        ..record.clone()
    };
    let answer = redeploy(
        view(&record, Status::Pulling),
        view(&stopped, Status::Stopped),
    )
    .await;
    problem(&answer, 409, "asked to stop");
    // Asked for stopped, it is as it should be; and what ran to its end has run.
    assert_eq!(
        redeploy(
            view(&stopped, Status::Stopping),
            view(&stopped, Status::Stopped)
        )
        .await
        .status,
        200
    );
    assert_eq!(
        redeploy(
            view(&record, Status::Pulling),
            view(&record, Status::Stopped)
        )
        .await
        .status,
        200
    );
}

#[tokio::test]
async fn what_is_not_ours_is_shown_and_never_touched() {
    let views = vec![view(&named("web", 0xabc), Status::Running)];
    let node = Fake::with(views).beside("k8s-1", "pause");
    for path in [
        "/containers/k8s-1",
        "/containers/k8s-",
        "/containers/k8s-1?wait=applied",
    ] {
        let answer = get(&node, path).await;
        assert_eq!(
            (answer.status, &answer.json()["owner"]),
            (200, &json!("unmanaged")),
            "{path}"
        );
    }
    for (method, path) in [
        ("DELETE", "/containers/k8s-1"),
        ("POST", "/containers/k8s-1/stop"),
        ("POST", "/containers/k8s-1/start"),
        ("POST", "/containers/k8s-1/restart"),
        ("GET", "/containers/k8s-1/logs"),
    ] {
        problem(
            &ask(&node, method, path, "").await,
            409,
            "k8s-1 is not managed by this agent",
        );
    }
    assert!(node.ordered.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_body_that_does_not_say_how_long_it_is_is_bounded_too() {
    let node = Fake::new(Vec::new());
    let endless = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1000]));
    problem(
        &ask(
            &node,
            "POST",
            "/containers/deploy",
            Body::from_stream(endless),
        )
        .await,
        413,
        "1 MiB",
    );
    let torn = futures_util::stream::iter([Ok(vec![b'{']), Err(std::io::Error::other("torn"))]);
    problem(
        &ask(&node, "POST", "/containers/deploy", Body::from_stream(torn)).await,
        400,
        "",
    );
}

#[tokio::test(start_paused = true)]
async fn a_generation_that_is_waited_for_is_applied_or_time_is_up() {
    let record = named("web", 0xabc);
    let node = Fake::new(vec![view(&record, Status::Running)]);
    assert_eq!(
        get(&node, "/containers/web?wait=applied&generation=1")
            .await
            .status,
        200
    );
    problem(
        &get(
            &node,
            "/containers/web?wait=applied&generation=2&timeout=1s",
        )
        .await,
        504,
        "1s",
    );
    // What is to be stopped never runs, and is as it should be.
    node.show(vec![view(
        &Record {
            run: RunState::Stopped,
            generation: 2,
            ..record
        },
        Status::Stopped,
    )]);
    assert_eq!(
        get(
            &node,
            "/containers/web?wait=applied&generation=2&timeout=1s"
        )
        .await
        .status,
        200
    );
}

#[tokio::test(start_paused = true)]
async fn a_removal_is_202_or_200_once_it_is_gone() {
    let node = Fake::new(vec![view(&named("web", 0xabc), Status::Running)]);
    assert_eq!(
        ask(&node, "DELETE", "/containers/web", "").await.status,
        202
    );
    problem(
        &ask(
            &node,
            "DELETE",
            "/containers/web?wait=removed&timeout=1s",
            "",
        )
        .await,
        504,
        "1s",
    );
    let later = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        node.show(Vec::new());
    };
    let (answer, ()) = tokio::join!(
        ask(&node, "DELETE", "/containers/web?wait=removed", ""),
        later
    );
    assert_eq!(answer.status, 200);
    problem(
        &ask(&node, "DELETE", "/containers/web", "").await,
        404,
        "web",
    );
}

#[tokio::test]
async fn stop_start_and_restart_ask_for_just_that() {
    let node = Fake::new(vec![view(&named("web", 0xabc), Status::Running)]);
    for call in ["stop", "start", "restart"] {
        assert_eq!(
            ask(&node, "POST", &format!("/containers/web/{call}"), "")
                .await
                .status,
            202
        );
    }
    let orders: Vec<_> = node
        .ordered
        .lock()
        .unwrap()
        .iter()
        .map(|(_, order)| *order)
        .collect();
    assert_eq!(orders, [Order::Stop, Order::Start, Order::Restart]);
}

#[tokio::test(start_paused = true)]
async fn a_pull_asks_about_the_tag_of_the_container_that_is_named_exactly() {
    let mut record = named("web", 0xabc);
    record.image_digest = Some("sha256:1".to_owned());
    record.tag_check = Some(TagCheck::by_change(7));
    let node = Fake::new(vec![view(&record, Status::Running)]);
    let answer = ask(&node, "POST", "/containers/web/pull", "").await;
    let pending = json!({"state": "pending", "at": null, "before": "sha256:1", "after": null, "reason": null, "message": null});
    assert_eq!(
        (answer.status, &answer.json()["tag_check"]),
        (202, &pending)
    );
    assert_eq!(*node.asked.lock().unwrap(), [record.id]);
    for (path, status, says) in [
        ("/containers/0000/pull", 404, "only begins"),
        ("/containers/nobody/pull", 404, "nobody"),
        ("/containers/web/pull?wait=1", 400, "wait"),
    ] {
        problem(&ask(&node, "POST", path, "").await, status, says);
    }
    *node.refusal.lock().unwrap() = Some(Refusal::Conflict("named by its digest".to_owned()));
    let refused = ask(&node, "POST", "/containers/web/pull", "").await;
    problem(&refused, 409, "digest");
    assert_eq!(node.asked.lock().unwrap().len(), 1);
    *node.refusal.lock().unwrap() = None;
    let waiting = ask(
        &node,
        "POST",
        "/containers/web/pull?wait=checked&timeout=5",
        "",
    );
    let later = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        (record.tag_check, record.restart_pending) = (None, true);
        node.show(vec![view(&record, Status::Running)]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        record.restart_pending = false;
        node.show(vec![view(&record, Status::Running)]);
    };
    let began = Instant::now();
    let (answer, ()) = tokio::join!(waiting, later);
    assert_eq!(answer.status, 200);
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    assert_eq!(
        ask(&node, "GET", "/containers/web/pull", "").await.status,
        405
    );
}

#[tokio::test]
async fn the_answer_to_a_question_about_a_tag_is_shown_with_the_container() {
    let (before, after) = (Some("sha256:1".to_owned()), "sha256:2".to_owned());
    let failed = TagOutcome::Failed {
        reason: Reason::RegistryTimeout,
        message: "no answer".to_owned(),
    };
    for (outcome, shown) in [
        (
            TagOutcome::Digest(after),
            json!({"state": "moved", "after": "sha256:2", "reason": null, "message": null}),
        ),
        (
            failed,
            json!({"state": "failed", "after": null, "reason": "RegistryTimeout", "message": "no answer"}),
        ),
    ] {
        let mut record = named("web", 0xabc);
        let (at_ms, before) = (1000, before.clone());
        record.tag_check = Some(TagCheck {
            asked: 1,
            answer: Some(TagAnswer {
                at_ms,
                before,
                outcome,
            }),
        });
        let node = Fake::new(vec![view(&record, Status::Running)]);
        let mut expected = shown;
        expected["before"] = json!("sha256:1");
        expected["at"] = json!("1970-01-01T00:00:01.000Z");
        let container = get(&node, "/containers/web").await.json();
        assert_eq!(container["tag_check"], expected);
        let explained = get(&node, "/containers/web/explain").await.json();
        assert_eq!(explained["desired"]["tag_check"], expected);
    }
    let node = Fake::new(vec![view(&named("web", 0xabc), Status::Running)]);
    let container = get(&node, "/containers/web").await.json();
    assert_eq!(container["tag_check"], json!(null));
}
