//! Tests of the link's calls and their timing while CHaS answers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fake::{Server, pass, start};
use crate::chas::LinkNode as _;
use crate::chas::client::ChasErrorKind;

#[tokio::test(start_paused = true)]
async fn it_registers_reports_and_then_asks_and_an_idle_minute_is_three_calls() {
    let running = start(Server {
        holds: true,
        ..Server::default()
    });
    pass(5).await;
    // The set that it got is a change, and reported.
    assert_eq!(
        running.server.heard(),
        ["register", "report", "poll", "poll", "report"]
    );
    assert_eq!(running.node.last_applied().generation, Some(1));
    pass(600).await;
    let calls = running.server.heard();
    let of = |call: &str| calls.iter().filter(|called| **called == call).count();
    assert!(
        (19..=21).contains(&of("report")) && (10..=13).contains(&of("poll")) && of("register") == 0,
        "{calls:?}"
    );
    let status = running.state.status();
    assert!(status.reachable && status.registered && !status.freshness.stale);
    running.stop.cancel();
    running.tracker.close();
    running.tracker.wait().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_from_before_is_known_to_be_fresh_at_once() {
    for holds in [true, false] {
        let running = start(Server {
            holds,
            ..Server::default()
        });
        let tag = Some("1".to_owned());
        (
            running.node.last_applied.lock().unwrap().generation,
            running.node.last_applied.lock().unwrap().etag,
        ) = (Some(1), tag);
        pass(2).await;
        assert!(!running.state.status().freshness.stale);
        running.server.heard();
        pass(600).await;
        let polls = running.server.count("poll");
        assert!(
            if holds {
                (10..=13).contains(&polls)
            } else {
                (27..=81).contains(&polls)
            },
            "{holds} {polls}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_is_there_at_once_by_a_held_poll_and_by_a_report_where_polls_are_not_held() {
    for holds in [true, false] {
        let running = start(Server {
            holds,
            ..Server::default()
        });
        pass(100).await;
        running.server.list(2);
        pass(if holds { 1 } else { 32 }).await;
        assert_eq!(running.node.last_applied().generation, Some(2), "{holds}");
        // Without a hold, it is asked every 7.5 to 22.5 s.
        running.server.heard();
        pass(600).await;
        let polls = running.server.count("poll");
        assert!(
            if holds {
                (10..=13).contains(&polls)
            } else {
                (27..=81).contains(&polls)
            },
            "{holds} {polls}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn changes_are_reported_within_a_second_joined_and_two_seconds_apart() {
    let running = start(Server {
        holds: true,
        ..Server::default()
    });
    pass(45).await;
    running.server.heard();
    for (status, changes) in [("degraded", 20), ("healthy", 20)] {
        *running.node.status.lock().unwrap() = status;
        for _ in 0..changes {
            running.node.changes.send_modify(|count| *count += 1);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    let reports = || {
        running
            .server
            .heard()
            .into_iter()
            .filter(|call| *call == "report")
            .count()
    };
    assert_eq!(reports(), 1);
    pass(2).await;
    assert_eq!(reports(), 1);
    // What is no change is none.
    running.node.changes.send_modify(|count| *count += 1);
    pass(5).await;
    assert_eq!(reports(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_keeps_what_it_was_told_hears_only_what_changes() {
    let running = start(Server {
        holds: true,
        keeps: true,
        ..Server::default()
    });
    pass(5).await;
    running.server.heard();
    pass(100).await;
    assert_eq!(
        (
            running.server.count("report"),
            running.server.count("heartbeat")
        ),
        (0, 3)
    );
    // It forgot, or is another one: all of it, soon.
    running.server.forgets.store(true, Ordering::Relaxed);
    pass(30).await;
    running.server.heard();
    pass(3).await;
    assert_eq!(
        (
            running.server.count("report"),
            running.server.count("heartbeat")
        ),
        (0, 0)
    );
    *running.node.status.lock().unwrap() = "degraded";
    running.node.changes.send_modify(|count| *count += 1);
    pass(2).await;
    assert_eq!(
        (
            running.server.count("report"),
            running.server.count("heartbeat")
        ),
        (1, 0)
    );
    running.server.fail("all", ChasErrorKind::Unreachable);
    running.server.changed.notify_waiters();
    pass(40).await;
    running.server.heard();
    running.server.recover();
    pass(60).await;
    assert_eq!(
        running.server.heard()[0],
        "report",
        "what it knows is not known"
    );
}

#[tokio::test(start_paused = true)]
async fn what_no_key_signed_that_counts_is_asked_for_again_once_one_is_needed() {
    for signs in [true, false] {
        let running = start(Server {
            signs,
            ..Server::default()
        });
        {
            let mut applied = running.node.last_applied.lock().unwrap();
            // With its tag, the server would answer that nothing changed.
            (applied.generation, applied.epoch) = (Some(1), Some("e".to_owned()));
            (applied.etag, applied.fully_applied) = (Some("1".to_owned()), true);
            applied.signed_by = ["gone".to_owned()].into();
        }
        pass(60).await;
        assert_eq!(running.node.last_applied().signed_by.contains("k"), signs);
        running.server.heard();
        // From then on nothing more is asked for than before.
        pass(600).await;
        let polls = running.server.count("poll");
        assert!((27..=81).contains(&polls), "{signs} {polls}");
    }
}
