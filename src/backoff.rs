//! Waits before the next attempt: exponential backoff with full jitter, or the wait that a server
//! asks for. Only this file uses the crate `backoff`.

use std::time::{Duration, SystemTime};

use backoff::ExponentialBackoffBuilder;
use backoff::backoff::Backoff;

/// A wait chosen at random between nothing and `initial` doubled `attempt` times, at most `max`.
///
/// The whole range is used ("full jitter"), so that a thousand nodes that failed together do not
/// come back together. `attempt` counts from 0.
#[must_use]
pub(crate) fn delay(initial: Duration, max: Duration, attempt: u32) -> Duration {
    let ceiling = initial
        .saturating_mul(2_u32.saturating_pow(attempt))
        .min(max);
    // The crate draws from an interval around its initial one: half the ceiling, plus or minus all
    // of it.
    let mut draw = ExponentialBackoffBuilder::new()
        .with_initial_interval(ceiling / 2)
        .with_randomization_factor(1.0)
        .with_max_elapsed_time(None)
        .build();
    draw.next_backoff().unwrap_or(ceiling).min(ceiling)
}

/// The wait that a `Retry-After` header asks for, in seconds or as a date (RFC 9110, 10.2.3).
/// `None`: it is neither.
#[must_use]
pub(crate) fn retry_after(header: &str, now: SystemTime) -> Option<Duration> {
    match header.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(
            httpdate::parse_http_date(header.trim())
                .ok()?
                .duration_since(now)
                .unwrap_or_default(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_may_ask_for_seconds_or_until_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (header, expected) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(
                retry_after(header, now),
                expected.map(Duration::from_secs),
                "{header}"
            );
        }
    }

    #[test]
    fn a_delay_doubles_up_to_its_maximum_and_uses_the_whole_range() {
        let (initial, max) = (Duration::from_millis(100), Duration::from_secs(2));
        for (attempt, ceiling_ms) in [
            (0, 100),
            (1, 200),
            (4, 1600),
            (5, 2000),
            (31, 2000),
            (u32::MAX, 2000),
        ] {
            let draws: Vec<_> = (0..500).map(|_| delay(initial, max, attempt)).collect();
            let ceiling = Duration::from_millis(ceiling_ms);
            assert!(draws.iter().all(|&d| d <= ceiling), "attempt {attempt}");
            assert!(draws.iter().any(|&d| d < ceiling / 4), "attempt {attempt}");
            assert!(
                draws.iter().any(|&d| d > ceiling / 4 * 3),
                "attempt {attempt}"
            );
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        assert_eq!(delay(Duration::ZERO, Duration::MAX, 9), Duration::ZERO);
        assert!(
            delay(Duration::from_secs(u64::MAX), Duration::from_secs(300), 9)
                <= Duration::from_secs(300)
        );
    }
}
