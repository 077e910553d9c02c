//! Tests of the link where CHaS is unreachable, refuses calls, or sends invalid answers.

use std::time::Duration;

use super::fake::{Server, pass, start};
use crate::chas::LinkNode as _;
use crate::chas::client::ChasErrorKind;

#[tokio::test(start_paused = true)]
async fn what_is_away_is_tried_a_few_times_a_minute_and_first_of_all_reported_to() {
    let running = start(Server {
        holds: true,
        ..Server::default()
    });
    pass(45).await;
    running.server.fail("all", ChasErrorKind::Unreachable);
    running.server.changed.notify_waiters();
    pass(600).await;
    assert!(!running.state.status().reachable && running.state.status().freshness.stale);
    running.server.heard();
    pass(600).await;
    let calls = running.server.heard();
    let polls: Vec<_> = (0..calls.len()).filter(|at| calls[*at] == "poll").collect();
    assert!(
        (10..=40).contains(&calls.len()) && polls.len() <= 3,
        "{calls:?}"
    );
    assert!(
        polls.iter().all(|at| calls[at - 1] == "report"),
        "{calls:?}"
    );
    running.server.recover();
    pass(60).await;
    let calls = running.server.heard();
    assert_eq!(calls[..2], ["report", "poll"], "{calls:?}");
    assert!(running.state.status().reachable && !running.state.status().freshness.stale);
}

#[tokio::test(start_paused = true)]
async fn a_loss_is_told_once_also_at_the_very_start_and_so_is_the_return() {
    let running = start(Server {
        holds: true,
        ..Server::default()
    });
    running.server.fail("all", ChasErrorKind::Unreachable);
    pass(300).await;
    assert_eq!(running.told(), ["link_lost"]);
    let lost = &running.journal.after(0)[0].event;
    assert_eq!(lost.message.as_deref(), Some("register: as told"));
    running.server.recover();
    pass(120).await;
    running.server.fail("all", ChasErrorKind::IdentityConflict);
    running.server.changed.notify_waiters();
    pass(300).await;
    assert_eq!(
        running.told()[1..],
        [
            "node_registered",
            "link_reached",
            "set_applied",
            "identity_conflict",
            "link_lost"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn each_fault_has_its_own_pace_and_consequence() {
    for (kind, polls, registers) in [
        (ChasErrorKind::Unauthorized, 4..=40, 0),
        (ChasErrorKind::Refused, 4..=40, 0),
        (ChasErrorKind::InvalidResponse, 20..=90, 0),
        (ChasErrorKind::Unreachable, 20..=90, 0),
        (ChasErrorKind::NotOffered, 1..=7, 0),
    ] {
        let running = start(Server {
            holds: true,
            ..Server::default()
        });
        pass(10).await;
        running.server.fail("poll", kind);
        running.server.changed.notify_waiters();
        running.server.heard();
        // ReportCounts go on, which is what says that something is wrong.
        pass(1800).await;
        let calls = running.server.heard();
        let of = |call: &str| calls.iter().filter(|called| **called == call).count();
        assert!(
            polls.contains(&of("poll")) && of("register") == registers && of("report") >= 59,
            "{kind:?} {calls:?}"
        );
        running.server.recover();
        running.server.list(2);
        pass(700).await;
        assert_eq!(running.node.last_applied().generation, Some(2), "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_known_registers_again() {
    for call in ["poll", "report"] {
        let running = start(Server {
            holds: true,
            ..Server::default()
        });
        pass(10).await;
        running.server.heard();
        running.server.fail(call, ChasErrorKind::NodeUnknown);
        running.server.list(2);
        pass(31).await;
        running.server.recover();
        assert!(
            (1..10).contains(&running.server.count("register")),
            "{call}"
        );
        pass(301).await;
        assert_eq!(running.node.last_applied().generation, Some(2), "{call}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_set_that_cannot_be_stored_is_said_and_asked_for_again() {
    let running = start(Server {
        holds: true,
        ..Server::default()
    });
    pass(10).await;
    *running.node.stores.lock().unwrap() = false;
    running.server.list(2);
    pass(60).await;
    let error = running.state.status().freshness.fault.unwrap();
    assert_eq!(
        (error.code, error.message.as_str()),
        ("not_stored", "the disk is full")
    );
    let told = running.told();
    let rejected = told.iter().filter(|kind| **kind == "set_rejected");
    assert_eq!(rejected.count(), 1, "{told:?}");
    *running.node.stores.lock().unwrap() = true;
    pass(60).await;
    assert_eq!(
        (
            running.node.last_applied().generation,
            running.state.status().freshness.fault
        ),
        (Some(2), None)
    );
}

#[tokio::test(start_paused = true)]
async fn an_older_generation_changes_nothing() {
    let running = start(Server {
        holds: true,
        ..Server::default()
    });
    running.server.list(9);
    pass(10).await;
    running.server.list(3);
    pass(300).await;
    assert_eq!(running.node.last_applied().generation, Some(9));
    // And is not asked for without a pause.
    assert!(
        running.server.count("poll") < 45,
        "{}",
        running.server.count("poll")
    );
}

#[tokio::test(start_paused = true)]
async fn where_only_reports_do_not_work_what_is_listed_is_there_all_the_same() {
    for (kind, soon) in [
        (ChasErrorKind::Unreachable, 800),
        (ChasErrorKind::InvalidResponse, 90),
        (ChasErrorKind::NotOffered, 90),
        (ChasErrorKind::Refused, 90),
    ] {
        let running = start(Server {
            holds: true,
            ..Server::default()
        });
        running.server.fail("report", kind);
        pass(soon).await;
        assert_eq!(running.node.last_applied().generation, Some(1), "{kind:?}");
        running.server.fail("poll", ChasErrorKind::Unreachable);
        running.server.changed.notify_waiters();
        pass(20).await;
        running.server.recover();
        running.server.fail("report", kind);
        running.server.list(2);
        pass(soon).await;
        assert_eq!(running.node.last_applied().generation, Some(2), "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_door_that_leads_nowhere_for_a_moment_silences_nobody() {
    let running = start(Server {
        holds: true,
        ..Server::default()
    });
    running.server.fail("register", ChasErrorKind::NotOffered);
    pass(10).await;
    running.server.fail("report", ChasErrorKind::NotOffered);
    pass(60).await;
    running.server.recover();
    running.server.heard();
    pass(90).await;
    assert!(running.server.count("report") >= 2 && !running.state.status().registered);
    pass(900).await;
    assert!(running.server.heard().contains(&"register") && running.state.status().registered);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_another_one_passes_for_or_whose_token_is_worthless_registers_again() {
    for (call, kind, polls) in [
        ("report", ChasErrorKind::IdentityConflict, 0),
        ("poll", ChasErrorKind::IdentityConflict, 1),
        ("report", ChasErrorKind::Unauthorized, 3),
    ] {
        let running = start(Server {
            holds: true,
            ..Server::default()
        });
        pass(10).await;
        running.server.fail(call, kind);
        running.server.list(2);
        pass(40).await;
        running.server.heard();
        pass(1800).await;
        let calls = running.server.heard();
        let of = |call: &str| calls.iter().filter(|called| **called == call).count();
        assert!(
            (3..=40).contains(&of("register")) && of("report") < 160,
            "{kind:?} {calls:?}"
        );
        assert!(of("poll") <= polls * of("register"), "{kind:?} {calls:?}");
        assert!(
            running.state.status().identity_conflict || kind != ChasErrorKind::IdentityConflict
        );
        running.server.recover();
        pass(310).await;
        assert!(
            !running.state.status().identity_conflict
                && running.node.last_applied().generation == Some(2),
            "{kind:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_generation_that_nobody_counts_to_makes_a_node_deaf_for_ten_minutes_and_not_for_good() {
    for holds in [true, false] {
        let running = start(Server {
            holds,
            ..Server::default()
        });
        running.server.list(u64::MAX);
        pass(60).await;
        let applied = || running.node.last_applied().generation;
        assert_eq!(applied(), Some(u64::MAX));
        running.server.list(7);
        pass(500).await;
        assert_eq!(applied(), Some(u64::MAX));
        assert!(running.state.status().freshness.stale);
        // An answer that is not lower begins the time anew.
        running.server.list(u64::MAX);
        pass(120).await;
        running.server.list(7);
        pass(500).await;
        assert_eq!(applied(), Some(u64::MAX));
        pass(200).await;
        assert_eq!(applied(), Some(7));
        assert!(!running.state.status().freshness.stale);
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_signed_set_is_never_believed_again() {
    let running = start(Server {
        signs: true,
        ..Server::default()
    });
    running.server.list(9);
    pass(60).await;
    running.server.list(7);
    pass(3600).await;
    assert_eq!(running.node.last_applied().generation, Some(9));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_its_time_is_not_cut_off_again_and_again() {
    let running = start(Server {
        holds: true,
        poll_takes: Duration::from_secs(9),
        ..Server::default()
    });
    for second in 0..12 {
        *running.node.status.lock().unwrap() = if second % 2 == 0 {
            "degraded"
        } else {
            "healthy"
        };
        running.node.changes.send_modify(|count| *count += 1);
        pass(2).await;
    }
    assert_eq!(
        running.node.last_applied().generation,
        Some(1),
        "{:?}",
        running.server.heard()
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_without_tags_or_with_another_each_time_is_not_asked_for_ever_without_a_pause() {
    for server in [
        Server {
            tagless: true,
            ..Server::default()
        },
        Server {
            fickle: true,
            holds: true,
            ..Server::default()
        },
    ] {
        let running = start(server);
        for is_applied in [true, false] {
            running.node.last_applied.lock().unwrap().fully_applied = is_applied;
            running.server.heard();
            pass(600).await;
            let polls = running.server.count("poll");
            assert!((20..=110).contains(&polls), "{is_applied} {polls}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_server_asks_for_with_reports_does_not_keep_it_from_being_polled() {
    let running = start(Server {
        holds: true,
        ..Server::default()
    });
    pass(10).await;
    let retry_after = Some(Duration::from_secs(3600));
    running
        .server
        .faults
        .lock()
        .unwrap()
        .insert("report", (ChasErrorKind::Unreachable, retry_after));
    pass(60).await;
    running.server.fail("poll", ChasErrorKind::Unreachable);
    running.server.changed.notify_waiters();
    pass(5).await;
    running.server.faults.lock().unwrap().remove("poll");
    running.server.list(2);
    pass(700).await;
    assert_eq!(running.node.last_applied().generation, Some(2));
}
