//! Alarms about the disk of the stored state, as the node's facts show it: also while nothing is
//! written there.

use state::alarm::Alarm;
use tokio::sync::watch;

use crate::journal::Journal;
use crate::monitor::NodeFacts;

/// Raises and clears the alarms about the disk with every sample, as long as there are any.
pub(crate) async fn follow(mut facts: watch::Receiver<NodeFacts>, journal: Journal) {
    loop {
        let sample = facts.borrow_and_update().clone();
        journal.set_alarm(Alarm::DiskFull, "", no_space(&sample));
        journal.set_alarm(Alarm::NoInodes, "", no_inodes(&sample));
        if facts.changed().await.is_err() {
            return;
        }
    }
}

fn no_space(facts: &NodeFacts) -> Option<String> {
    let total = facts.disk_total_bytes;
    (total > 0 && facts.disk_available_bytes == 0)
        .then(|| format!("none of the {total} bytes of state.dir's file system is free"))
}

fn no_inodes(facts: &NodeFacts) -> Option<String> {
    let total = facts.disk_inodes_total;
    (total > 0 && facts.disk_inodes_available == 0)
        .then(|| format!("none of the {total} inodes of state.dir's file system is free"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test(start_paused = true)]
    async fn a_disk_without_space_or_inodes_raises_an_alarm_and_one_with_room_clears_it() {
        let journal = Journal::new(Metrics::new());
        let facts = |bytes, inodes| NodeFacts {
            disk_total_bytes: 100,
            disk_available_bytes: bytes,
            disk_inodes_total: 10,
            disk_inodes_available: inodes,
            ..NodeFacts::default()
        };
        let sampled = watch::Sender::new(facts(1, 1));
        let tracker = tokio_util::task::TaskTracker::new();
        tracker.spawn(follow(sampled.subscribe(), journal.clone()));
        // btrfs counts no inodes: it has none in all, and room for more.
        let uncounted = NodeFacts {
            disk_inodes_total: 0,
            ..facts(1, 0)
        };
        for (facts, expected) in [
            (facts(1, 0), vec![Alarm::NoInodes]),
            (facts(0, 1), vec![Alarm::DiskFull]),
            (uncounted, vec![]),
            (facts(0, 0), vec![Alarm::DiskFull, Alarm::NoInodes]),
            (facts(1, 1), vec![]),
            (NodeFacts::default(), vec![]),
        ] {
            sampled.send_replace(facts);
            tokio::task::yield_now().await;
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            let standing: Vec<_> = journal.alarms().iter().map(|kept| kept.alarm).collect();
            assert_eq!(standing, expected);
        }
    }
}
