//! Rate of a log: what a container prints beyond it is left out, and counted.

use std::time::Duration;

use state::quantity::ByteCount;
use tokio::time::Instant;

use super::line::Stream;

/// Seconds over which the rate counts: a burst, such as that of a start, passes as long as it is no
/// more than these hold.
const SECONDS: u64 = 10;

/// Limit on the bytes of a log in a second.
#[derive(Debug)]
pub(super) struct RateLimit {
    per_second: u64,
    /// Bytes that may come now.
    room: u64,
    /// Time up to which room was made.
    made: Instant,
    /// Whether lines are left out. They are until there is room for a second, so that a log has no
    /// remark between every two lines.
    is_over: bool,
    /// Streams of which a line has begun and not ended: a part more than 16 KiB into it.
    begun: [bool; 2],
    left_out: LeftOut,
}

/// Output that was left out since it was last told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub(super) lines: u64,
    pub(super) bytes: u64,
}

/// Decision on one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RateVerdict {
    /// The line is written.
    Passes,
    /// The line is left out.
    IsLeftOut,
    /// The part of a line is left out, and the one before it is to be its end.
    EndsBegun,
}

impl RateLimit {
    pub(super) fn new(rate: ByteCount, now: Instant) -> Self {
        let per_second = rate.0.max(1);
        Self {
            per_second,
            room: per_second.saturating_mul(SECONDS),
            made: now,
            is_over: false,
            begun: [false; 2],
            left_out: LeftOut::default(),
        }
    }

    /// Decides on a line, or a part of one, of so many bytes.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        stream: Stream,
        partial: bool,
        bytes: usize,
    ) -> RateVerdict {
        // An empty line is a line in the file too.
        let bytes = bytes as u64 + 1;
        self.make_room(now);
        let begun = &mut self.begun[usize::from(stream == Stream::Stderr)];
        if !self.is_over && bytes <= self.room {
            self.room -= bytes;
            *begun = partial;
            return RateVerdict::Passes;
        }
        self.is_over = true;
        self.left_out.lines += u64::from(!partial);
        self.left_out.bytes += bytes - 1;
        if std::mem::take(begun) {
            RateVerdict::EndsBegun
        } else {
            RateVerdict::IsLeftOut
        }
    }

    fn make_room(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.made);
        let made = u128::from(self.per_second) * passed.as_micros() / 1_000_000;
        let made = u64::try_from(made).unwrap_or(u64::MAX);
        let most = self.per_second.saturating_mul(SECONDS);
        self.room = self.room.saturating_add(made).min(most);
        // What is left of a byte counts the next time.
        let micros = u128::from(made) * 1_000_000 / u128::from(self.per_second);
        self.made += u64::try_from(micros).map_or(passed, Duration::from_micros);
        self.is_over &= self.room < self.per_second;
    }

    /// Bytes in a second.
    pub(super) const fn per_second(&self) -> u64 {
        self.per_second
    }

    /// Whether output is left out that was not told of.
    pub(super) fn is_leaving_out(&self) -> bool {
        self.left_out != LeftOut::default()
    }

    /// Output to tell of: what was left out, once lines pass again, or at the `end` of all.
    pub(super) fn tell(&mut self, now: Instant, end: bool) -> Option<LeftOut> {
        if !self.is_leaving_out() {
            return None;
        }
        self.make_room(now);
        (end || !self.is_over).then(|| std::mem::take(&mut self.left_out))
    }
}

/// Pause of a logger after each read while it leaves out, so that a container that prints without
/// end costs the node little more than itself: 64 MiB in a second are read at most.
pub(super) const PAUSE: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::RateVerdict::*;
    use super::*;

    const OUT: Stream = Stream::Stdout;

    #[test]
    fn a_burst_passes_and_what_is_beyond_is_counted_until_there_is_room_for_a_second() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut limit = RateLimit::new(ByteCount(100), start);
        for _ in 0..10 {
            assert_eq!(limit.judge(start, OUT, false, 99), Passes);
        }
        assert_eq!(limit.tell(start, true), None);
        assert_eq!(limit.judge(start, OUT, false, 9), IsLeftOut);
        assert_eq!(
            limit.judge(after(900), OUT, false, 9),
            IsLeftOut,
            "room for 90"
        );
        assert_eq!(limit.tell(after(900), false), None);
        let left_out = LeftOut {
            lines: 2,
            bytes: 18,
        };
        assert_eq!(limit.tell(after(1000), false), Some(left_out));
        assert_eq!(limit.tell(after(1000), false), None);
        assert_eq!(limit.judge(after(1000), OUT, false, 99), Passes);
        assert_eq!(limit.judge(after(1000), OUT, false, 0), IsLeftOut);
        let left_out = LeftOut { lines: 1, bytes: 0 };
        assert_eq!(limit.tell(after(1000), true), Some(left_out));
    }

    #[test]
    fn a_line_whose_middle_is_left_out_ends_where_it_was_cut() {
        let start = Instant::now();
        let mut limit = RateLimit::new(ByteCount(10), start);
        assert_eq!(limit.judge(start, OUT, true, 99), Passes);
        assert_eq!(limit.judge(start, OUT, true, 99), EndsBegun);
        assert_eq!(limit.judge(start, OUT, true, 99), IsLeftOut);
        assert_eq!(limit.judge(start, OUT, false, 99), IsLeftOut);
        assert_eq!(limit.judge(start, Stream::Stderr, false, 9), IsLeftOut);
    }

    proptest! {
        #[test]
        fn no_more_passes_than_the_rate_and_every_byte_is_written_or_counted(
            rate in 1_u64..5000,
            lines in prop::collection::vec((0_u64..500, 0_usize..2000), 1..200),
        ) {
            let start = Instant::now();
            let mut limit = RateLimit::new(ByteCount(rate), start);
            let (mut now, mut passed, mut left_out, mut all) = (start, 0, 0, 0);
            for (millis, bytes) in lines {
                now += Duration::from_millis(millis);
                all += bytes as u64;
                if limit.judge(now, OUT, false, bytes) == Passes {
                    passed += bytes as u64;
                }
                left_out += limit.tell(now, false).map_or(0, |told| told.bytes);
            }
            left_out += limit.tell(now, true).map_or(0, |told| told.bytes);
            prop_assert_eq!(passed + left_out, all);
            let seconds = (now - start).as_secs() + 1 + SECONDS;
            prop_assert!(passed <= rate * seconds, "{} in {} s", passed, seconds);
        }
    }
}
