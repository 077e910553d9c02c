//! Every reason says when the next attempt is made, and that is when it is made.

use std::collections::BTreeSet;
use std::time::Duration;

use chas_node_agent::runtime::RuntimeError;
use serde_json::{Value, json};
use state::desired::RunState;
use state::failure::Failure;
use state::history::CRASH_LOOP_EXITS;
use state::id::ContainerId;
use state::ownership::ChasSet;
use state::reason::{Kind, Reason};
use state::status::Condition;
use state::time::BootTime;
use tokio::time::Instant;

use crate::memory_runtime::Call;
use crate::node::{Node, pass, web};

/// As often as each failure is repeated: the waits double.
const ROUNDS: usize = 3;
/// An attempt may begin this much later than announced, in parts of the wait.
const LATE_PART: u32 = 20;

/// Reasons with which no attempt is announced.
const WITHOUT_ATTEMPT: [(Reason, &str); 13] = [
    (
        Reason::Unhealthy,
        "told while it runs; of what is restarted for it: health.rs",
    ),
    (Reason::Scheduled, "next_run says when it runs"),
    (
        Reason::RuntimeUnavailable,
        "held against no container: it is asked again every second",
    ),
    (Reason::Completed, "nothing more is to be done"),
    (Reason::RetriesExhausted, "nothing more is to be done"),
    (Reason::NodeCordoned, "it starts when the cordon is lifted"),
    (
        Reason::WaitsFor,
        "it starts when the others are as it waits for",
    ),
    (Reason::NodeDrained, "it starts when the node is uncordoned"),
    (Reason::Disconnected, "it starts when CHaS answers"),
    (Reason::ChangeLost, "nobody knows whether it is to run"),
    (Reason::StateLost, "of the node, not of a container"),
    (
        Reason::RolledBack,
        "the generation before runs, and the other is not tried again",
    ),
    (Reason::StopRequested, "nothing more is to be done"),
];

async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..4000 {
        if let Some(found) = look() {
            return found;
        }
        pass(Duration::from_millis(50)).await;
    }
    panic!("{what}: not within 200 s");
}

impl Node {
    fn boot(&self, at: Instant) -> BootTime {
        let now = self.handle.board().clock.now();
        BootTime(now.0 - at.elapsed())
    }

    /// Waits until the container shows `reason` with the time of an attempt, then for that attempt, the first of `call`
    /// from then on. Answers the wait that was announced.
    async fn attempt_as_announced(&self, id: ContainerId, reason: Reason, call: Call) -> Duration {
        let (before, shown): (usize, Condition) = eventually(reason.as_str(), || {
            let condition = self.condition(id);
            let announced = condition.reason == Some(reason) && condition.next_attempt.is_some();
            announced.then(|| (self.runtime.began(call).len(), condition))
        })
        .await;
        let until = shown.next_attempt.unwrap();
        // From the time of the look, which is a little shorter than from the failure: the stricter measure.
        let wait = until.since(self.handle.board().clock.now());
        let began = eventually(reason.as_str(), || {
            self.runtime.began(call).get(before).copied()
        })
        .await;
        let began = self.boot(began);
        assert!(began >= until, "{reason}: {began:?} is before {until:?}");
        assert!(
            began.since(until) <= wait / LATE_PART,
            "{reason}: {:?} late after {wait:?}",
            began.since(until)
        );
        wait
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_step_is_tried_again_when_it_was_announced() {
    let of = |kind: Kind| {
        Reason::ALL
            .iter()
            .copied()
            .filter(move |reason| reason.kind() == kind)
    };
    // What is lost is fetched again at once, which has a test of its own.
    let steps = of(Kind::Image).map(|reason| (reason, Call::EnsureImage));
    let steps = steps.chain(
        of(Kind::Start)
            .filter(|reason| *reason != Reason::ImageLost)
            .map(|reason| (reason, Call::Launch)),
    );
    for (reason, call) in steps.chain(of(Kind::End).map(|reason| (reason, Call::Stop))) {
        let node = Node::start();
        node.runtime.fail_next_of(
            call,
            (0..ROUNDS).map(|_| RuntimeError::failed(reason, "no")),
        );
        let id = node.deploy(&web());
        if call == Call::Stop {
            eventually("it runs", || {
                (!node.runtime.running().is_empty()).then_some(())
            })
            .await;
            node.store
                .change(id, |record| record.run = RunState::Stopped)
                .unwrap();
            node.handle.wake(id);
        }
        let least = Duration::from_millis(if reason.kind() == Kind::Image {
            4900
        } else {
            400
        });
        for round in 0..ROUNDS {
            let wait = node.attempt_as_announced(id, reason, call).await;
            assert!(
                wait > least * 2_u32.pow(u32::try_from(round).unwrap()),
                "{reason}: {wait:?} in round {round}"
            );
        }
        eventually("it is done in the end", || {
            node.condition(id).next_attempt.is_none().then_some(())
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ended_is_started_again_when_it_was_announced() {
    for (reason, code, lives) in [
        (Reason::Exited, 1, 2),
        (Reason::ExitedCleanly, 0, 2),
        (Reason::Signaled, 139, 2),
        (Reason::OutOfMemory, 137, 2),
        (Reason::ShimLost, 137, 2),
        (Reason::CrashLoop, 1, CRASH_LOOP_EXITS),
    ] {
        let node = Node::start();
        let id = node.deploy(&web());
        for life in 1..=lives {
            eventually("it runs", || {
                (!node.runtime.running().is_empty()).then_some(())
            })
            .await;
            if reason == Reason::ShimLost {
                node.runtime.lose(id);
            } else {
                node.runtime.end_as(id, code, reason == Reason::OutOfMemory);
            }
            if life == lives {
                node.attempt_as_announced(id, reason, Call::Launch).await;
            } else {
                eventually("it is started again", || {
                    (node.runtime.launches(id) > life).then_some(())
                })
                .await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_image_is_fetched_at_once() {
    let node = Node::start();
    node.runtime
        .fail_next_of(Call::Launch, [RuntimeError::ImageLost("gone".to_owned())]);
    let id = node.deploy(&web());
    let shown = eventually("it is fetched again", || {
        (node.runtime.began(Call::EnsureImage).len() == 2).then(|| node.condition(id))
    });
    assert_eq!(shown.await.reason, Some(Reason::ImageLost));
    let launched = node.runtime.began(Call::Launch)[0];
    assert!(
        node.runtime.began(Call::EnsureImage)[1].duration_since(launched)
            < Duration::from_millis(300)
    );
}

#[tokio::test(start_paused = true)]
async fn a_registry_s_wish_to_be_left_alone_is_announced_and_kept() {
    for asked in [
        Duration::from_secs(2),
        Duration::from_secs(90),
        Duration::from_secs(700),
    ] {
        let node = Node::start();
        let limited = Failure::new(Reason::RegistryRateLimited, "later").with_retry_after(asked);
        node.runtime
            .fail_next_of(Call::EnsureImage, [limited.into()]);
        let id = node.deploy(&web());
        let shown = eventually("it fails", || {
            let known = node.condition(id);
            known.next_attempt
        })
        .await;
        let failed = node
            .boot(node.runtime.began(Call::EnsureImage)[0])
            .after(Duration::from_secs(2));
        let (wait, own_max) = (shown.since(failed), Duration::from_secs(10));
        assert!(
            wait >= asked && wait <= asked.max(own_max) + Duration::from_millis(60),
            "{wait:?} for {asked:?}"
        );
        tokio::time::sleep(wait).await;
        let began = eventually("it is tried", || {
            node.runtime.began(Call::EnsureImage).get(1).copied()
        })
        .await;
        let began = node.boot(began);
        assert!(
            began >= shown && began.since(shown) <= wait / LATE_PART,
            "{began:?} for {shown:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_tried_again_announces_nothing() {
    let restart = |policy: Value| json!({"name": "web", "image": "nginx", "restart": policy});
    for (body, codes, reason) in [
        (
            restart(json!({"policy": "on-failure"})),
            &[0][..],
            Reason::Completed,
        ),
        (restart(json!({"policy": "never"})), &[0], Reason::Completed),
        (restart(json!({"policy": "never"})), &[1], Reason::Exited),
        (
            restart(json!({"policy": "never"})),
            &[139],
            Reason::Signaled,
        ),
        (
            restart(json!({"policy": "always", "max_retries": 1})),
            &[1, 1],
            Reason::RetriesExhausted,
        ),
        (web(), &[], Reason::StopRequested),
    ] {
        let node = Node::start();
        let id = node.deploy(&body);
        for code in codes {
            eventually("it runs", || {
                (!node.runtime.running().is_empty()).then_some(())
            })
            .await;
            node.runtime.end(id, *code);
        }
        if codes.is_empty() {
            node.store
                .change(id, |record| record.run = RunState::Stopped)
                .unwrap();
            node.handle.wake(id);
        }
        let shown = eventually(reason.as_str(), || {
            let condition = node.condition(id);
            (condition.reason == Some(reason) && condition.next_attempt.is_none()).then_some(())
        });
        shown.await;
        let launches = node.runtime.launches(id);
        pass(Duration::from_secs(30)).await;
        assert_eq!(node.runtime.launches(id), launches, "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_came_to_a_cordoned_node_starts_when_the_cordon_is_lifted() {
    let node = Node::start();
    let set = |generation, cordon| {
        let containers = vec![state::spec::parse::deploy(&web()).unwrap()];
        ChasSet {
            epoch: "e".to_owned(),
            generation,
            containers,
            cordon,
            requested_at_seq: u64::MAX,
            ..ChasSet::default()
        }
    };
    let pull = |set| {
        let changed = node.store.apply_set(&set, 0).unwrap().changed;
        changed.iter().for_each(|&id| node.handle.wake(id));
        changed
    };
    let id = pull(set(1, true))[0];
    pass(Duration::from_secs(40)).await;
    let condition = node.condition(id);
    assert_eq!(
        (
            condition.reason,
            condition.next_attempt,
            node.runtime.launches(id)
        ),
        (Some(Reason::NodeCordoned), None, 0)
    );
    assert_eq!(pull(set(1, false)), [id]);
    eventually("it runs", || {
        (!node.runtime.running().is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_away_is_held_against_no_container_and_asked_every_second() {
    let node = Node::start();
    node.runtime.fail_next_of(
        Call::Launch,
        (0..3).map(|_| RuntimeError::Unavailable("away".to_owned())),
    );
    let id = node.deploy(&web());
    eventually("it runs", || {
        (!node.runtime.running().is_empty()).then_some(())
    })
    .await;
    let began = node.runtime.began(Call::Launch);
    // The first look at everything may have asked for one more turn while the first was under way.
    for pair in began.windows(2).skip(1) {
        let wait = pair[1].duration_since(pair[0]);
        assert!(
            wait >= Duration::from_secs(1) && wait <= Duration::from_millis(1150),
            "{wait:?}"
        );
    }
    assert_eq!((began.len(), node.condition(id).reason), (4, None));
    assert!(
        node.metrics
            .text()
            .contains("step=\"launch\",reason=\"RuntimeUnavailable\"} 3")
    );
}

/// No reason is without a test above.
#[test]
fn every_reason_either_announces_an_attempt_or_is_listed_as_one_that_does_not() {
    let exits = [
        Reason::Exited,
        Reason::ExitedCleanly,
        Reason::Signaled,
        Reason::OutOfMemory,
        Reason::ShimLost,
        Reason::CrashLoop,
    ];
    let steps = Reason::ALL
        .iter()
        .copied()
        .filter(|reason| matches!(reason.kind(), Kind::Image | Kind::Start | Kind::End));
    let tested: BTreeSet<Reason> = steps
        .chain(exits)
        .chain(WITHOUT_ATTEMPT.map(|(reason, _)| reason))
        .collect();
    assert_eq!(tested, Reason::ALL.iter().copied().collect());
}
