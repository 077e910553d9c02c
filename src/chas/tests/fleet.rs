//! Tests of many nodes with one server: their calls must not come at one moment.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use state::desired::marks;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fake::{Bare, Server, join, pass};
use crate::chas::client::ChasErrorKind;

/// ChasCalls by second, from a moment on.
fn by_second(server: &Server, from: Instant, seconds: usize) -> Vec<usize> {
    let mut counts = vec![0; seconds];
    for (at, _) in server.calls.lock().unwrap().iter() {
        let second = at.checked_duration_since(from).map(|since| since.as_secs());
        if let Some(count) =
            second.and_then(|second| counts.get_mut(usize::try_from(second).unwrap()))
        {
            *count += 1;
        }
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn a_fleet_does_not_boot_come_back_or_go_on_after_a_change_all_at_once() {
    const NODES: usize = 3000;
    let server = Arc::new(Server {
        holds: true,
        cluster_size: Some(NODES as u64),
        ..Server::default()
    });
    server.generation.store(1, Ordering::Relaxed);
    let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
    let nodes: Vec<Arc<Bare>> = (0..NODES).map(|_| Arc::default()).collect();
    for node in &nodes {
        // They met CHaS in another boot.
        *node.link.lock().unwrap() = marks::NodeIdentity {
            cluster_size: NODES as u64,
            ..marks::NodeIdentity::default()
        };
        join(&server, node, &stop, &tracker);
    }
    let begun = Instant::now();
    pass(30).await;
    // Over 30 s, each with its registration, two reports and two polls.
    let peak = *by_second(&server, begun, 30).iter().max().unwrap();
    assert!(
        peak <= 5 * NODES / 30 * 13 / 10,
        "{peak} calls in one second while they boot"
    );
    pass(570).await;
    let steady = by_second(&server, begun + Duration::from_secs(300), 300);
    let mean = steady.iter().sum::<usize>() / steady.len();
    assert!((NODES / 22..=NODES / 17).contains(&mean), "{mean}");

    // What all of them are told at once does not make them one.
    server.list(2);
    pass(10).await;
    let told = Instant::now();
    pass(300).await;
    let peak = *by_second(&server, told, 300).iter().max().unwrap();
    assert!(
        peak < 2 * mean,
        "{peak} calls in one second after a change, and {mean} usually"
    );

    server.fail("all", ChasErrorKind::Unreachable);
    server.changed.notify_waiters();
    pass(300).await;
    server.recover();
    let back = Instant::now();
    pass(180).await;
    let calls = by_second(&server, back, 180);
    let peak = *calls.iter().max().unwrap();
    assert!(
        peak < 2 * mean,
        "{peak} calls in one second, and {mean} usually: {calls:?}"
    );
    let reached = server
        .calls
        .lock()
        .unwrap()
        .iter()
        .filter(|(at, call)| *at >= back && *call == "poll")
        .count();
    assert!(reached >= NODES, "{reached}");
    stop.cancel();
}
