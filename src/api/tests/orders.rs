//! Orders for one container, and waiting for what comes of them.

use std::time::Duration;

use serde_json::json;
use state::desired::{Finished, Record, RunState};
use state::reason::Reason;
use state::status::Status;
use tokio::time::Instant;

use super::changes::waiting_out;
use super::looks::failed;
use super::{Fake, ask, get, named, nginx, problem, view};
use crate::view::ManagedView;

/// Gives an order, and shows `then` after two seconds.
async fn ordered(call: &str, now: ManagedView, then: Vec<ManagedView>) -> super::Answer {
    let node = Fake::new(vec![now]);
    let later = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        node.show(then);
    };
    let path = format!("/containers/web/{call}&timeout=10s");
    let (answer, ()) = tokio::join!(ask(&node, "POST", &path, ""), later);
    answer
}

#[tokio::test(start_paused = true)]
async fn an_order_that_is_waited_for_tells_how_it_ended() {
    let running = named("web", 0xabc);
    let stopped = Record {
        run: RunState::Stopped,
        ..running.clone()
    };
    let to_restart = Record {
        restart_pending: true,
        restarts_asked: 1,
        ..running.clone()
    };
    let ends = Record {
        finished: Some(Finished {
            code: 1,
            reason: Reason::Exited,
            at_ms: 0,
        }),
        ..stopped.clone()
    };
    let (stop, start, restart) = (
        "stop?wait=stopped",
        "start?wait=running",
        "restart?wait=running",
    );
    let runs = || vec![view(&running, Status::Running)];
    let rests = || vec![view(&stopped, Status::Stopped)];
    for (call, now, then, status, says) in [
        (stop, view(&stopped, Status::Running), rests(), 200, ""),
        (
            stop,
            view(&stopped, Status::Stopping),
            vec![failed(&ends, Status::Failed)],
            200,
            "",
        ),
        (
            stop,
            view(&stopped, Status::Stopping),
            vec![failed(&stopped, Status::Failed)],
            422,
            "no such tag",
        ),
        (
            stop,
            view(&stopped, Status::Stopping),
            runs(),
            409,
            "asked to run",
        ),
        (
            stop,
            view(&stopped, Status::Stopping),
            Vec::new(),
            404,
            "removed",
        ),
        (
            stop,
            view(&stopped, Status::Stopping),
            vec![view(&stopped, Status::Stopping)],
            504,
            "status stopped",
        ),
        (start, view(&running, Status::Creating), runs(), 200, ""),
        (
            start,
            view(&running, Status::Creating),
            rests(),
            409,
            "asked to stop",
        ),
        (
            start,
            view(&running, Status::Creating),
            vec![failed(&running, Status::Failed)],
            422,
            "no such tag",
        ),
        (restart, view(&to_restart, Status::Running), runs(), 200, ""),
        (
            restart,
            view(&to_restart, Status::Running),
            vec![view(&to_restart, Status::Stopping)],
            504,
            "status running",
        ),
        (
            restart,
            waiting_out(&to_restart, 1, Duration::from_secs(1)),
            runs(),
            200,
            "",
        ),
    ] {
        let began = Instant::now();
        let answer = ordered(call, now, then).await;
        assert_eq!(answer.status, status, "{call}: {}", answer.text);
        assert!(began.elapsed() >= Duration::from_secs(2), "{call}");
        if status != 200 {
            problem(&answer, status, says);
        }
    }
    let node = Fake::new(runs());
    let answer = ask(&node, "POST", "/containers/web/stop?wait=running", "").await;
    problem(&answer, 400, "wait=stopped is");
    assert!(node.ordered.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_container_may_bear_the_name_of_the_deploy_call() {
    let node = Fake::new(vec![view(&named("deploy", 0xabc), Status::Running)]);
    let shown = get(&node, "/containers/deploy").await;
    assert_eq!(
        (shown.status, &shown.json()["name"]),
        (200, &json!("deploy"))
    );
    let removed = ask(&node, "DELETE", "/containers/deploy", "").await;
    assert_eq!(removed.status, 202);
}

#[tokio::test]
async fn each_answer_that_shows_a_container_bears_the_tag_that_its_next_change_may_name() {
    let node = Fake::new(vec![view(&named("web", 0xabc), Status::Running)]);
    let shown = get(&node, "/containers/web").await;
    let tag = &shown.headers["etag"];
    assert!(tag.to_str().unwrap().starts_with("\"000000000abc-"));
    for order in [
        "stop",
        "start",
        "restart",
        "restart?wait=running",
        "kill",
        "rollback",
        "rollback?wait=running",
    ] {
        let path = format!("/containers/web/{order}");
        let answer = ask(&node, "POST", &path, "").await;
        assert_eq!(
            answer.headers.get("etag"),
            Some(tag),
            "{order}: {}",
            answer.text
        );
    }
    for (query, has_one) in [
        ("", true),
        ("?wait=running", true),
        ("?dry_run=true", false),
    ] {
        let path = format!("/containers/deploy{query}");
        let answer = ask(&node, "POST", &path, nginx()).await;
        let found = answer.headers.get("etag");
        assert_eq!(found, has_one.then_some(tag), "{query}: {}", answer.text);
    }
    // There is none of what has gone.
    let removed = ask(&node, "DELETE", "/containers/web", "").await;
    assert_eq!((removed.status, removed.headers.get("etag")), (202, None));
}
