//! The brake: where most containers of a node stop working at once, the fault is hardly theirs, and
//! none is ended for its health. Pure.

use std::time::Duration;

use super::{HealthState, Verdict};
use crate::time::BootTime;

/// Fewest containers that stop working at once, so that the node may be the cause.
pub const FAILING_MIN: usize = 4;
/// Time within which they stop, if it is at once.
pub const AT_ONCE: Duration = Duration::from_mins(1);

/// Containers of a node that are asked, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Brake {
    /// Containers that have answered.
    pub asked: usize,
    /// Containers of these that fail, whether it is enough for a verdict or not.
    pub failing: usize,
    /// The most of them that stopped working within a minute.
    pub at_once: usize,
}

impl Brake {
    /// Counts the containers that run and are asked, at this time.
    #[must_use]
    pub fn of<'a>(all: impl IntoIterator<Item = &'a HealthState>, now: BootTime) -> Self {
        let (mut asked, mut since) = (0, Vec::new());
        for health in all.into_iter().filter(|health| health.last.is_some()) {
            asked += 1;
            let stopped = match health.verdict {
                Verdict::Unhealthy => Some(health.since.unwrap_or(now)),
                // One that has never worked has not stopped.
                Verdict::Ready | Verdict::Starting => {
                    (health.has_succeeded && !health.is_success).then_some(now)
                }
            };
            since.extend(stopped);
        }
        since.sort_unstable();
        let within = |(begin, first): (usize, &BootTime)| {
            let end = since.partition_point(|one| *one <= first.after(AT_ONCE));
            end - begin
        };
        let at_once = since.iter().enumerate().map(within).max();
        Self {
            asked,
            failing: since.len(),
            at_once: at_once.unwrap_or_default(),
        }
    }

    /// Whether nothing is to be ended for its health. What `is_on` stays so for as long as most fail.
    #[must_use]
    pub const fn holds(self, is_on: bool) -> bool {
        let counted = if is_on { self.failing } else { self.at_once };
        counted >= FAILING_MIN && counted * 2 > self.asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime(Duration::from_secs(seconds))
    }

    fn works() -> HealthState {
        HealthState {
            verdict: Verdict::Ready,
            last: Some(at(1)),
            is_success: true,
            has_succeeded: true,
            ..HealthState::default()
        }
    }

    fn stopped(seconds: u64) -> HealthState {
        HealthState {
            verdict: Verdict::Unhealthy,
            since: Some(at(seconds)),
            is_success: false,
            ..works()
        }
    }

    /// Fails, and not for long enough.
    fn fails() -> HealthState {
        HealthState {
            is_success: false,
            ..works()
        }
    }

    fn starts() -> HealthState {
        HealthState {
            verdict: Verdict::Starting,
            has_succeeded: false,
            ..fails()
        }
    }

    #[track_caller]
    fn check(all: &[HealthState], counted: (usize, usize, usize), holds: [bool; 2]) {
        let (asked, failing, at_once) = counted;
        let expected = Brake {
            asked,
            failing,
            at_once,
        };
        let brake = Brake::of(all, at(1000));
        assert_eq!(brake, expected);
        assert_eq!([false, true].map(|is_on| brake.holds(is_on)), holds);
    }

    #[test]
    fn most_that_stop_at_once_are_none_of_their_own_fault() {
        let unasked = HealthState::default();
        let mut all = vec![stopped(970), fails(), fails(), fails(), unasked];
        check(&all, (4, 4, 4), [true, true]);
        all.extend([works(), works(), works()]);
        check(&all, (7, 4, 4), [true, true]);
        all.push(works());
        check(&all, (8, 4, 4), [false, false]);
        // One after the other is each one's own fault; and what began as one stays one.
        let slowly: Vec<_> = (0..5).map(|n| stopped(100 * n)).collect();
        check(&slowly, (5, 5, 1), [false, true]);
        check(
            &[stopped(100), stopped(160), stopped(161)],
            (3, 3, 2),
            [false, false],
        );
        check(
            &[starts(), starts(), starts(), starts(), starts()],
            (5, 0, 0),
            [false, false],
        );
        check(&[], (0, 0, 0), [false, false]);
    }
}
