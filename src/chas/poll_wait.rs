//! The wait of a poll: how long CHaS is asked to keep it open while nothing is new.

use std::time::Duration;

use tokio::time::Instant;

use super::jitter;

/// Longest wait: below the minute after which proxies usually cut a silent connection.
const WAIT_MAX: Duration = Duration::from_secs(55);
/// Random share of the wait, so that polls that began together drift apart.
const SPREAD: Duration = Duration::from_secs(5);
/// Shortest wait. After a set that many nodes got at once, the first poll ends at any time from
/// this on.
const WAIT_MIN: Duration = Duration::from_secs(5);
/// Time after which the limit learned from a proxy is dropped: it may have been a server that was
/// restarted.
const LEARNED_FOR: Duration = Duration::from_secs(600);

/// The wait for polls, shortened where a proxy cuts them off.
#[derive(Debug)]
pub(super) struct PollWait {
    most: Duration,
    learned_until: Option<Instant>,
    /// Polls in a row that were cut off.
    cuts: u32,
}

impl Default for PollWait {
    fn default() -> Self {
        Self {
            most: WAIT_MAX,
            learned_until: None,
            cuts: 0,
        }
    }
}

impl PollWait {
    /// The wait of the next poll. After news that many nodes got at once, it is drawn from the
    /// whole range.
    pub(super) fn next(&mut self, is_after_news: bool) -> Duration {
        if self
            .learned_until
            .is_some_and(|until| until <= Instant::now())
        {
            *self = Self::default();
        }
        let spread = if is_after_news {
            self.most.saturating_sub(WAIT_MIN)
        } else {
            SPREAD.min(self.most / 10)
        };
        self.most - jitter(spread)
    }

    /// Records that a poll was answered.
    pub(super) const fn record_answer(&mut self) {
        self.cuts = 0;
    }

    /// Records that a poll was cut off after `waited`. Once, a server was restarted or is
    /// unreachable; twice in a row, a proxy cuts silent connections.
    pub(super) fn record_cut(&mut self, waited: Duration) {
        let is_cut = waited > WAIT_MIN && waited < self.most;
        self.cuts = if is_cut { self.cuts + 1 } else { 0 };
        if self.cuts > 1 {
            self.most = (waited * 3 / 4).max(WAIT_MIN);
            self.learned_until = Some(Instant::now() + LEARNED_FOR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_cuts_polls_off_shortens_the_wait_for_a_while() {
        let mut wait = PollWait::default();
        let full = WAIT_MAX - SPREAD..=WAIT_MAX;
        assert!(full.contains(&wait.next(false)));
        for cuts in [[30, 0], [0, 30], [30, 5], [70, 30]] {
            for waited in cuts {
                wait.record_cut(Duration::from_secs(waited));
            }
            assert!(
                full.contains(&wait.next(false)),
                "{cuts:?} is no sign of a proxy"
            );
            wait.record_answer();
        }
        wait.record_cut(Duration::from_secs(30));
        wait.record_cut(Duration::from_secs(30));
        for _ in 0..20 {
            let next = wait.next(false).as_secs_f64();
            assert!((20.0..=22.5).contains(&next), "{next}");
            assert!((WAIT_MIN..=Duration::from_secs(23)).contains(&wait.next(true)));
        }
        tokio::time::sleep(LEARNED_FOR).await;
        assert!(
            full.contains(&wait.next(false)),
            "it may be another proxy by now"
        );
    }
}
