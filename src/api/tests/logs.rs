//! A container's output, over real files.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::http::{Request, header};
use serde_json::json;
use state::desired::Finished;
use state::quantity::ByteCount;
use state::reason::Reason;
use state::spec::LogLimits;
use state::status::Status;
use tower::ServiceExt as _;

use super::{Fake, get, named, problem, send, view};
use crate::logs::line::Stream;
use crate::logs::rotate::LogWriter;

/// Lines of a container, a millisecond apart, the first a minute ago, on both streams in turn.
fn write_logs(dir: &Path, lines: usize) {
    let limits = LogLimits {
        max_size: ByteCount(1 << 20),
        max_files: 2,
    };
    let mut writer = LogWriter::open(dir.to_owned(), limits);
    let mut time = SystemTime::now() - Duration::from_mins(1);
    for number in 0..lines {
        let stream = if number % 2 == 0 {
            Stream::Stdout
        } else {
            Stream::Stderr
        };
        writer.push(time, stream, false, format!("line {number}").as_bytes());
        time += Duration::from_millis(1);
    }
    writer.flush();
}

#[tokio::test]
async fn logs_are_text_or_an_object_a_line_and_a_hundred_of_them() {
    let dir = tempfile::tempdir().unwrap();
    write_logs(dir.path(), 150);
    let views = vec![view(&named("web", 1), Status::Running)];
    let node = Arc::new(Fake {
        logs: dir.path().to_owned(),
        ..Fake::with(views)
    });
    for (query, lines, first) in [
        ("", 100, "line 50"),
        ("?tail=all", 150, "line 0"),
        ("?tail=2", 2, "line 148"),
        ("?tail=all&stream=stderr", 75, "line 1"),
        ("?since=10m&tail=1", 1, "line 149"),
        ("?since=1s", 0, ""),
        ("?until=10m", 0, ""),
    ] {
        let answer = get(&node, &format!("/containers/web/logs{query}")).await;
        assert_eq!(
            (answer.status, answer.text.lines().count()),
            (200, lines),
            "{query}"
        );
        assert_eq!(
            answer.text.lines().next().unwrap_or_default(),
            first,
            "{query}"
        );
    }
    let stamped = get(&node, "/containers/web/logs?tail=1&timestamps=true").await;
    assert!(
        humantime::parse_rfc3339(stamped.text.split(' ').next().unwrap()).is_ok(),
        "{}",
        stamped.text
    );
    let request =
        Request::get("/containers/web/logs?tail=1").header(header::ACCEPT, "application/x-ndjson");
    let answer = send(&node, None, request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/x-ndjson");
    assert_eq!(
        (&answer.json()["line"], &answer.json()["stream"]),
        (&json!("line 149"), &json!("stderr"))
    );
    problem(&get(&node, "/containers/other/logs").await, 404, "other");
}

#[tokio::test(start_paused = true)]
async fn a_follower_ends_when_the_container_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    write_logs(dir.path(), 2);
    let node = Arc::new(Fake {
        logs: dir.path().to_owned(),
        ..Fake::with(vec![view(&named("web", 1), Status::Running)])
    });
    let later = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        node.show(Vec::new());
    };
    let (answer, ()) = tokio::join!(get(&node, "/containers/web/logs?follow=true"), later);
    assert_eq!(
        (answer.status, answer.text.as_str()),
        (200, "line 0\nline 1\n")
    );
}

#[tokio::test(start_paused = true)]
async fn a_follower_ends_with_a_container_that_rests_and_waits_for_one_that_is_restarted() {
    let dir = tempfile::tempdir().unwrap();
    write_logs(dir.path(), 2);
    let running = named("job", 1);
    let mut ended = running.clone();
    ended.finished = Some(Finished {
        code: 3,
        at_ms: 0,
        reason: Reason::RetriesExhausted,
    });
    for (record, rests) in [
        (&running, Status::Stopped),
        (&ended, Status::Stopped),
        (&ended, Status::Failed),
    ] {
        let node = Arc::new(Fake {
            logs: dir.path().to_owned(),
            ..Fake::with(vec![view(&running, Status::Running)])
        });
        let began = tokio::time::Instant::now();
        let later = async {
            for passing in [Status::Restarting, Status::Failed, Status::Running] {
                tokio::time::sleep(Duration::from_secs(60)).await;
                node.show(vec![view(&running, passing)]);
            }
            // Stopped, and started again at once.
            node.show(vec![view(&running, Status::Stopped)]);
            tokio::time::sleep(Duration::from_millis(500)).await;
            node.show(vec![view(&running, Status::Creating)]);
            tokio::time::sleep(Duration::from_secs(60)).await;
            node.show(vec![view(record, rests)]);
        };
        let (answer, ()) = tokio::join!(get(&node, "/containers/job/logs?follow=true"), later);
        let took = began.elapsed().as_secs();
        assert_eq!(answer.text, "line 0\nline 1\n");
        assert!((241..250).contains(&took), "{rests:?}: {took}");
    }
}

#[tokio::test]
async fn who_follows_beyond_the_places_of_a_door_comes_later_and_one_that_leaves_makes_room() {
    let node = Fake::new(vec![view(&named("web", 1), Status::Running)]);
    let rules = super::rules(Some("the token"));
    let router = crate::api::router(Arc::clone(&node), rules, None);
    let follow = async |peer| {
        let request = Request::get("/containers/web/logs?follow=true")
            .header(header::AUTHORIZATION, "Bearer the token")
            .body(Body::empty())
            .unwrap();
        let request = super::of(peer, request);
        router.clone().oneshot(request).await.unwrap()
    };
    let mut all = Vec::new();
    // Neither door takes the places of the other.
    for (peer, places) in [(super::STRANGE, 64), (super::ROOT, 16)] {
        let mut following = Vec::new();
        for _ in 0..places {
            following.push(follow(peer).await);
        }
        assert!(following.iter().all(|response| response.status() == 200));
        all.push((peer, following));
    }
    for (peer, mut following) in all {
        let refused = follow(peer).await;
        let again = &refused.headers()[header::RETRY_AFTER];
        assert!(refused.status() == 429 && again == "5", "{peer}");
        following.pop();
        assert_eq!(follow(peer).await.status(), 200, "{peer}");
    }
}
