//! The journal: the one place that takes events. A call of [`Journal::record`] writes the log line,
//! counts, and keeps the event in a bounded ring, in this order.
//!
//! Nothing else in the agent logs or counts a fact that is an [`Event`]. Routine events (a store
//! write, a poll, a report) are only counted: a node makes thousands of them a day, and they would
//! push the rest out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use state::event::Event;

use crate::lock::lock;
use crate::metrics::Metrics;

mod count;
mod line;

/// Events kept: those of a day on a quiet node, at a few hundred bytes each.
const ENTRIES_MAX: usize = 1024;
/// Errors kept for `/health`.
const ERRORS_MAX: usize = 20;

/// An event, as the journal keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalEntry {
    /// The number: 1 for the first since the agent started, then one more each.
    pub seq: u64,
    /// The wall time.
    pub at: SystemTime,
    /// The event.
    pub event: Event,
}

#[derive(Debug, Default)]
struct EventRing {
    seq: u64,
    entries: VecDeque<JournalEntry>,
    /// Errors, kept apart, since a burst of other events is not to hide them.
    errors: VecDeque<JournalEntry>,
}

/// The journal. Clones write into the same.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    metrics: Metrics,
    ring: Arc<Mutex<EventRing>>,
}

impl Journal {
    /// An empty journal that counts in `metrics`.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            ring: Arc::default(),
        }
    }

    /// Takes in an event.
    pub fn record(&self, event: impl Into<Event>) {
        let event = event.into();
        line::write(&event);
        count::count(&self.metrics, &event);
        if !event.kind.is_routine() {
            lock(&self.ring).push(event);
        }
    }

    /// The last errors, oldest first.
    #[must_use]
    pub fn errors(&self) -> Vec<JournalEntry> {
        lock(&self.ring).errors.iter().cloned().collect()
    }

    /// The events after number `seq` that are still kept, oldest first. Where the first one has
    /// another number than `seq + 1`, those between are lost.
    #[must_use]
    pub fn after(&self, seq: u64) -> Vec<JournalEntry> {
        let ring = lock(&self.ring);
        let entries = ring.entries.iter().filter(|entry| entry.seq > seq);
        entries.cloned().collect()
    }
}

impl EventRing {
    fn push(&mut self, event: Event) {
        self.seq += 1;
        let entry = JournalEntry {
            seq: self.seq,
            at: SystemTime::now(),
            event,
        };
        if entry.event.is_error() {
            push_bounded(&mut self.errors, entry.clone(), ERRORS_MAX);
        }
        push_bounded(&mut self.entries, entry, ENTRIES_MAX);
    }
}

/// Appends an entry, in the place of the oldest if there are `max` already.
fn push_bounded(entries: &mut VecDeque<JournalEntry>, entry: JournalEntry, max: usize) {
    if entries.len() == max {
        entries.pop_front();
    }
    entries.push_back(entry);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use state::event::{EventKind, EventSubject};
    use state::id::ContainerId;
    use state::plan::Step;
    use state::reason::Reason;

    use super::*;

    fn failed(number: usize) -> Event {
        let kind = EventKind::StepFailed {
            step: Step::Pull,
            retry_in: Duration::from_secs(1),
        };
        Event::from(kind)
            .about(EventSubject::new(ContainerId::from_bits(1), None))
            .because(Reason::ImageNotFound)
            .saying(format!("failure {number}"))
    }

    #[test]
    fn an_event_is_counted_and_kept_and_a_routine_one_only_counted() {
        let metrics = Metrics::new();
        let journal = Journal::new(metrics.clone());
        journal.record(failed(0));
        journal.record(EventKind::PollEnded { result: "taken" });
        journal.record(EventKind::ContainerRestarted);
        let text = metrics.text();
        for line in [
            "chas_step_failures_total{step=\"pull\",reason=\"ImageNotFound\"} 1",
            "chas_link_polls_total{result=\"taken\"} 1",
            "chas_container_restarts_total 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}");
        }
        let kept = journal.after(0);
        let kinds: Vec<_> = kept
            .iter()
            .map(|entry| (entry.seq, entry.event.kind.as_str()))
            .collect();
        assert_eq!(kinds, [(1, "step_failed"), (2, "container_restarted")]);
        assert_eq!(journal.after(1).len(), 1);
    }

    #[test]
    fn the_ring_is_bounded_and_the_last_errors_outlive_a_burst_of_other_events() {
        let journal = Journal::new(Metrics::new());
        for number in 0..=ERRORS_MAX {
            journal.record(failed(number));
        }
        for _ in 0..ENTRIES_MAX {
            journal.record(EventKind::ContainerRestarted);
        }
        let (kept, errors) = (journal.after(0), journal.errors());
        assert_eq!((kept.len(), errors.len()), (ENTRIES_MAX, ERRORS_MAX));
        assert_eq!(errors[0].event.text(), "000000000001: failure 1");
        assert!(kept.iter().all(|entry| !entry.event.is_error()));
    }
}
