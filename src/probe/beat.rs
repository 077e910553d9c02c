//! Beat of the probes: those whose times lie close together are asked together, and wake the agent
//! and the caches of its processor once.

use std::time::Duration;

use tokio::time::Instant;

/// Time between two beats, a part of a second. Of a thousand containers that are asked each 10 s,
/// fifty are asked at once.
pub(super) const BEAT: Duration = Duration::from_millis(500);

/// Beat since a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beat(Instant);

impl Beat {
    /// Beat that begins now.
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    /// First beat at this time or after it.
    pub(super) fn after(self, at: Instant) -> Instant {
        let passed = at.duration_since(self.0).subsec_nanos() % BEAT.subsec_nanos();
        match passed {
            0 => at,
            _ => at + BEAT - Duration::from_nanos(passed.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_one_beat_become_one_time_and_none_is_early() {
        let beat = Beat::start();
        let after = |millis| beat.after(beat.0 + Duration::from_millis(millis)) - beat.0;
        for (at, expected) in [
            (0, 0),
            (1, 500),
            (499, 500),
            (500, 500),
            (501, 1_000),
            (10_000, 10_000),
            (86_400_499, 86_400_500),
        ] {
            assert_eq!(after(at), Duration::from_millis(expected), "{at}");
        }
        let before = beat.0.checked_sub(BEAT).unwrap();
        assert_eq!(beat.after(before), before, "no time before the first beat");
    }
}
