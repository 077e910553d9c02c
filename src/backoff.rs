//! How long to wait before another try: doubling, with full jitter. The only place that knows the crate `backoff`.

use std::time::Duration;

use backoff::ExponentialBackoffBuilder;
use backoff::backoff::Backoff;

/// A wait chosen at random between nothing and `initial` doubled `attempt` times, at most `max`.
///
/// The whole range is used ("full jitter"), so that a thousand nodes that failed together do not come back together.
/// `attempt` counts from 0.
#[must_use]
pub fn delay(initial: Duration, max: Duration, attempt: u32) -> Duration {
    let ceiling = initial.saturating_mul(2_u32.saturating_pow(attempt)).min(max);
    // The crate draws from its interval, give or take a factor of it: half the ceiling ± all of that.
    let mut draw = ExponentialBackoffBuilder::new()
        .with_initial_interval(ceiling / 2)
        .with_randomization_factor(1.0)
        .with_max_elapsed_time(None)
        .build();
    draw.next_backoff().unwrap_or(ceiling).min(ceiling)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_doubles_up_to_its_maximum_and_uses_the_whole_range() {
        let (initial, max) = (Duration::from_millis(100), Duration::from_secs(2));
        for (attempt, ceiling_ms) in [(0, 100), (1, 200), (4, 1600), (5, 2000), (31, 2000), (u32::MAX, 2000)] {
            let draws: Vec<_> = (0..500).map(|_| delay(initial, max, attempt)).collect();
            let ceiling = Duration::from_millis(ceiling_ms);
            assert!(draws.iter().all(|&d| d <= ceiling), "attempt {attempt}");
            assert!(draws.iter().any(|&d| d < ceiling / 4), "attempt {attempt}");
            assert!(draws.iter().any(|&d| d > ceiling / 4 * 3), "attempt {attempt}");
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        assert_eq!(delay(Duration::ZERO, Duration::MAX, 9), Duration::ZERO);
        assert!(delay(Duration::from_secs(u64::MAX), Duration::from_secs(300), 9) <= Duration::from_secs(300));
    }
}
