//! Spans that ended and wait to be sent: bounded, and nobody waits for a place.

use std::collections::VecDeque;
use std::mem;
use std::sync::Mutex;

use tokio::sync::Notify;

use super::wire::{OtlpSpan, SERVER};
use crate::lock::lock;

/// Most spans that wait: some two megabytes.
pub(super) const SPANS_MAX: usize = 2048;

/// Spans up to which one of the API's requests finds a place: whoever calls the port may make these, and
/// takes none of the others' places.
const REQUESTS_MAX: usize = SPANS_MAX / 2;

/// Spans of one request.
pub(super) const BATCH_MAX: usize = 512;

#[derive(Debug, Default)]
struct WaitingSpans {
    spans: VecDeque<OtlpSpan>,
    lost: u64,
}

/// Spans that wait to be sent.
#[derive(Debug, Default)]
pub(super) struct SpanQueue {
    waiting: Mutex<WaitingSpans>,
    batch: Notify,
}

impl SpanQueue {
    /// Adds a span, or counts it as lost where there is no place.
    pub(super) fn push(&self, span: OtlpSpan) {
        let mut waiting = lock(&self.waiting);
        let most = match span.kind == SERVER {
            true => REQUESTS_MAX,
            false => SPANS_MAX,
        };
        if waiting.spans.len() >= most {
            waiting.lost += 1;
            return;
        }
        waiting.spans.push_back(span);
        if waiting.spans.len() == BATCH_MAX {
            self.batch.notify_one();
        }
    }

    /// The oldest spans, as many as fit into a request.
    pub(super) fn take(&self) -> Vec<OtlpSpan> {
        let mut waiting = lock(&self.waiting);
        let count = waiting.spans.len().min(BATCH_MAX);
        waiting.spans.drain(..count).collect()
    }

    /// Spans that were lost since this was asked last.
    pub(super) fn take_lost(&self) -> u64 {
        mem::take(&mut lock(&self.waiting).lost)
    }

    /// Waits until there are enough for a request.
    pub(super) async fn has_batch(&self) {
        self.batch.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn span(name: usize) -> OtlpSpan {
        OtlpSpan {
            name: name.to_string(),
            ..OtlpSpan::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_no_place_is_counted_and_the_oldest_go_first() {
        let queue = SpanQueue::default();
        let soon = || tokio::time::timeout(Duration::from_secs(1), queue.has_batch());
        (1..BATCH_MAX).for_each(|n| queue.push(span(n)));
        assert!(soon().await.is_err());
        (BATCH_MAX..=SPANS_MAX + 3).for_each(|n| queue.push(span(n)));
        assert!(soon().await.is_ok());
        assert_eq!((queue.take_lost(), queue.take_lost()), (3, 0));
        for first in (1..=SPANS_MAX).step_by(BATCH_MAX) {
            let batch = queue.take();
            assert_eq!(batch.len(), BATCH_MAX);
            assert_eq!(batch[0].name, first.to_string());
        }
        assert!(queue.take().is_empty());
    }

    #[test]
    fn requests_leave_places_for_the_agents_own_work() {
        let queue = SpanQueue::default();
        let request = |n| OtlpSpan {
            kind: SERVER,
            ..span(n)
        };
        (0..SPANS_MAX).for_each(|n| queue.push(request(n)));
        assert_eq!(queue.take_lost(), (SPANS_MAX - REQUESTS_MAX) as u64);
        (REQUESTS_MAX..SPANS_MAX).for_each(|n| queue.push(span(n)));
        assert_eq!(queue.take_lost(), 0);
    }
}
