//! How long CHaS is asked to hold a poll.

use std::time::Duration;

use tokio::time::Instant;

use super::jitter;

/// Less than the minute after which proxies give up on what is silent, and a little more or less, so that polls that met once
/// part again.
const HOLD: Duration = Duration::from_secs(55);
const SPREAD: Duration = Duration::from_secs(5);
/// After a set that many nodes got at once, the first poll ends at any time from this on. No poll is asked to be held shorter.
const LEAST: Duration = Duration::from_secs(5);
/// What is learned of a proxy is tried anew after this: it may have been a server that was restarted.
const LEARNED_FOR: Duration = Duration::from_secs(600);

/// What polls are asked to be held for, as far as it was learned.
#[derive(Debug)]
pub(super) struct Hold {
    most: Duration,
    until: Option<Instant>,
    /// Polls in a row that were cut off.
    cuts: u32,
}

impl Default for Hold {
    fn default() -> Self {
        Self {
            most: HOLD,
            until: None,
            cuts: 0,
        }
    }
}

impl Hold {
    /// How long the next poll is to be held; after `news` that many nodes had at once, at random.
    pub(super) fn next(&mut self, news: bool) -> Duration {
        if self.until.is_some_and(|until| until <= Instant::now()) {
            *self = Self::default();
        }
        let spread = if news {
            self.most.saturating_sub(LEAST)
        } else {
            SPREAD.min(self.most / 10)
        };
        self.most - jitter(spread)
    }

    /// A poll was answered.
    pub(super) const fn answered(&mut self) {
        self.cuts = 0;
    }

    /// A poll was not answered after so long. Once, that is a server that was restarted or is away; again, with nothing wrong
    /// in between, it is a proxy that gives up on what is silent.
    pub(super) fn cut(&mut self, held: Duration) {
        let is_cut = held > LEAST && held < self.most;
        self.cuts = if is_cut { self.cuts + 1 } else { 0 };
        if self.cuts > 1 {
            self.most = (held * 3 / 4).max(LEAST);
            self.until = Some(Instant::now() + LEARNED_FOR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_a_proxy_cuts_off_is_asked_for_shorter_for_a_while() {
        let mut hold = Hold::default();
        let whole = HOLD - SPREAD..=HOLD;
        assert!(whole.contains(&hold.next(false)));
        for cuts in [[30, 0], [0, 30], [30, 5], [70, 30]] {
            cuts.iter()
                .for_each(|held| hold.cut(Duration::from_secs(*held)));
            assert!(
                whole.contains(&hold.next(false)),
                "{cuts:?} is no sign of a proxy"
            );
            hold.answered();
        }
        hold.cut(Duration::from_secs(30));
        hold.cut(Duration::from_secs(30));
        for _ in 0..20 {
            let next = hold.next(false).as_secs_f64();
            assert!((20.0..=22.5).contains(&next), "{next}");
            assert!((LEAST..=Duration::from_secs(23)).contains(&hold.next(true)));
        }
        tokio::time::sleep(LEARNED_FOR).await;
        assert!(
            whole.contains(&hold.next(false)),
            "it may be another proxy by now"
        );
    }
}
