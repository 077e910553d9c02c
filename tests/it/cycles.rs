//! Containers that come and go for days leave nothing: no entry of any table, no byte of the state.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use crate::node::{Node, pass};

/// Containers that come and go at once.
const AT_ONCE: u64 = 40;

/// Bytes of all files below a directory.
fn bytes_in(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    let sizes = entries.map(|entry| {
        let found = entry.metadata().unwrap();
        if found.is_dir() {
            bytes_in(&entry.path())
        } else {
            found.len()
        }
    });
    sizes.sum()
}

/// So many containers come, run and go, each with a name that none had before.
async fn cycles(node: &Node, rounds: std::ops::Range<u64>) {
    for round in rounds {
        let names = (0..AT_ONCE).map(|n| format!("c{round}-{n}"));
        let ids: Vec<_> = names
            .map(|name| node.deploy(&json!({"name": name, "image": "nginx"})))
            .collect();
        for _ in 0..200 {
            pass(Duration::from_millis(500)).await;
            if node.settled() {
                break;
            }
        }
        assert!(node.settled(), "round {round} runs");
        ids.iter().for_each(|id| node.remove(*id));
        for _ in 0..200 {
            pass(Duration::from_millis(500)).await;
            if node.store.desired().records().next().is_none() {
                break;
            }
        }
        assert_eq!(node.store.desired().records().count(), 0, "round {round}");
    }
}

#[tokio::test(start_paused = true)]
async fn containers_that_came_and_went_leave_no_entry_in_any_table() {
    let node = Node::start();
    cycles(&node, 0..20).await;
    let half = bytes_in(node.state_dir());
    cycles(&node, 20..40).await;
    // Late hints and the look at everything have come by then.
    pass(Duration::from_secs(31)).await;
    assert_eq!(node.runtime.instances(), BTreeSet::new());
    assert_eq!(node.handle.board().known_ids(), []);
    assert_eq!(node.handle.waiting(), 0);
    let marks = node.store.desired().marks().tombstones().len();
    assert!(
        marks <= state::ownership::TOMBSTONES_MAX,
        "{marks} tombstones"
    );
    let end = bytes_in(node.state_dir());
    // sled's files grow by pieces of half a megabyte, and are used again.
    assert!(end <= half + (2 << 20), "{half} bytes, then {end}");
    let restarted = node.restart().await;
    assert_eq!(restarted.store.desired().records().count(), 0);
}
