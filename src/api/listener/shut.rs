//! Callers that are sent away, most before a byte of theirs is read: the log says so, but not once
//! for each.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::api::caller::CallerPeer;
use crate::lock::lock;

/// Time between two lines of the log: whoever is sent away may come back at once, and for ever.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// Callers that one door has sent away.
#[derive(Debug, Default)]
pub(in crate::api) struct SentAway {
    /// The last line, and those that came since.
    last: Mutex<Option<(Instant, u64)>>,
}

impl SentAway {
    /// Notes one, and logs it unless that was done lately.
    pub(super) fn note(&self, peer: CallerPeer, cause: &'static str) {
        if let Some(others) = self.is_due() {
            tracing::warn!(%peer, cause, others, "connection refused");
        }
    }

    /// The callers that no line told of. `None`: it is not time for one yet.
    pub(in crate::api) fn is_due(&self) -> Option<u64> {
        let mut last = lock(&self.last);
        match &mut *last {
            Some((at, others)) if at.elapsed() < LINE_EVERY => {
                *others += 1;
                None
            }
            _ => Some(
                last.replace((Instant::now(), 0))
                    .map_or(0, |(_, others)| others),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_callers_is_a_line_a_minute() {
        let sent = SentAway::default();
        assert_eq!(sent.is_due(), Some(0));
        for _ in 0..59 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(sent.is_due(), None);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(sent.is_due(), Some(59));
    }
}
