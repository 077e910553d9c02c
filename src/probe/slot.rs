//! Container that is probed, with the probe of it that is under way, which ends with it.

use std::time::Duration;

use futures_util::future::AbortHandle;
use tokio::time::Instant;

use super::ProbeOrder;

/// Verdicts of one container that are told within a minute: one whose answers alternate pushes those of
/// others out of no log.
const TOLD_MAX: u32 = 4;
const TOLD_WITHIN: Duration = Duration::from_mins(1);

/// Verdicts that were told lately, and those that were not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ToldVerdicts {
    since: Option<Instant>,
    told: u32,
    untold: u32,
}

impl ToldVerdicts {
    /// Counts a verdict: how many before it were not told, if this one is to be.
    pub(super) fn next(&mut self, now: Instant) -> Option<u32> {
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) >= TOLD_WITHIN {
            (self.since, self.told) = (Some(now), 0);
        }
        if self.told >= TOLD_MAX {
            self.untold += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

/// Container that is probed.
#[derive(Debug)]
pub(super) struct ProbedContainer {
    pub(super) wanted: ProbeOrder,
    /// Number of its next probe; an answer to an earlier one is of another run.
    pub(super) number: u64,
    /// Time of that by its interval.
    pub(super) planned: Instant,
    /// Start of the probe under way, and its end.
    pub(super) asking: Option<(Instant, AbortHandle)>,
    /// Whether it has answered well in this run.
    pub(super) has_succeeded: bool,
    pub(super) told: ToldVerdicts,
}

impl Drop for ProbedContainer {
    fn drop(&mut self) {
        if let Some((_, under_way)) = &self.asking {
            under_way.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_verdicts_in_a_minute_some_are_told_and_the_others_counted() {
        let (mut told, begin) = (ToldVerdicts::default(), Instant::now());
        let next =
            |told: &mut ToldVerdicts, seconds| told.next(begin + Duration::from_secs(seconds));
        for second in 0..4 {
            assert_eq!(next(&mut told, second), Some(0));
        }
        for second in 4..60 {
            assert_eq!(next(&mut told, second), None);
        }
        assert_eq!(next(&mut told, 60), Some(56));
        assert_eq!(next(&mut told, 61), Some(0));
    }
}
