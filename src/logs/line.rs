//! Line of a log file: `<RFC 3339 time, UTC, nanoseconds> stdout|stderr F|P <bytes>`, the format of
//! Kubernetes' CRI.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

/// Most bytes of output in one log line; a longer printed line becomes several. CRI's number, so
/// that its tools fit.
pub(crate) const LINE_BYTES_MAX: usize = 16 * 1024;

/// Bytes of time, stream and flag before the printed bytes.
pub(crate) const HEADER_BYTES: usize = STAMP_BYTES + " stdout F ".len();

/// Length of a stamp, as in `2026-11-23T15:57:00.123456789Z`.
const STAMP_BYTES: usize = 30;

/// Largest step back of the clock over which time stands still; after a larger one a new file
/// begins.
pub(crate) const STEP_BACK_MAX: Duration = Duration::from_secs(60);

/// Latest time that four digits of a year can express: 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

/// Output stream of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error; the logger's own remarks stand there too.
    Stderr,
}

/// Line of a container's output, or a part of a long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogLine {
    /// Time at which the logger read the bytes; never earlier than that of the line before in the
    /// same file.
    pub time: SystemTime,
    /// Stream the bytes were printed to.
    pub stream: Stream,
    /// Whether the printed line goes on in the stream's next log line: no newline follows these
    /// bytes.
    pub partial: bool,
    /// Printed bytes, without the newline, at most [`LINE_BYTES_MAX`]; not always UTF-8.
    pub bytes: Bytes,
}

impl LogLine {
    /// Reads a line of a file, without its newline. `None`: the line is torn or of another format.
    #[must_use]
    pub(crate) fn decode(text: &Bytes) -> Option<Self> {
        let header = LineHeader::decode(text)?;
        Some(Self {
            time: header.time,
            stream: header.stream,
            partial: header.partial,
            bytes: text.slice(HEADER_BYTES..),
        })
    }
}

/// Time, stream and flag of a log line, without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LineHeader {
    /// Same as [`LogLine::time`].
    pub time: SystemTime,
    /// Same as [`LogLine::stream`].
    pub stream: Stream,
    /// Same as [`LogLine::partial`].
    pub partial: bool,
}

impl LineHeader {
    /// Reads the beginning of a line of a file. `None`: the line is torn or of another format.
    #[must_use]
    pub(crate) fn decode(text: &[u8]) -> Option<Self> {
        let (stamp, rest) = text.split_at_checked(STAMP_BYTES)?;
        let (stream, rest) = match rest.split_at_checked(" stdout ".len())? {
            (b" stdout ", rest) => (Stream::Stdout, rest),
            (b" stderr ", rest) => (Stream::Stderr, rest),
            _ => return None,
        };
        let partial = match rest.get(..2)? {
            b"F " => false,
            b"P " => true,
            _ => return None,
        };
        let time = humantime::parse_rfc3339(std::str::from_utf8(stamp).ok()?).ok()?;
        Some(Self {
            time,
            stream,
            partial,
        })
    }
}

/// Appends a log line to `out`.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    stamp: &LineStamp,
    stream: Stream,
    partial: bool,
    bytes: &[u8],
) {
    out.extend_from_slice(&stamp.text);
    out.extend_from_slice(match (stream, partial) {
        (Stream::Stdout, false) => b" stdout F ",
        (Stream::Stdout, true) => b" stdout P ",
        (Stream::Stderr, false) => b" stderr F ",
        (Stream::Stderr, true) => b" stderr P ",
    });
    out.extend_from_slice(bytes);
    out.push(b'\n');
}

/// Time of a log line as text, always later than the one before.
#[derive(Clone, Debug)]
pub(crate) struct LineStamp {
    at: Duration,
    text: [u8; STAMP_BYTES],
}

impl LineStamp {
    /// Stamp that lies after `last`, the time of the last line that was written, if any.
    #[must_use]
    pub(crate) fn after(last: Option<SystemTime>) -> Self {
        let mut stamp = Self {
            at: Duration::MAX,
            text: *b"1970-01-01T00:00:00.000000000Z",
        };
        stamp.set(last.map_or(Duration::ZERO, since_epoch));
        stamp
    }

    /// Moves on to `now`, or by a nanosecond where the clock does not.
    pub(crate) fn advance(&mut self, now: SystemTime) {
        self.set(since_epoch(now).max(self.at + Duration::from_nanos(1)));
    }

    /// Whether the clock was set back so far that time must not stand still until it has caught up.
    #[must_use]
    pub(crate) fn is_stepped_back(&self, now: SystemTime) -> bool {
        since_epoch(now) + STEP_BACK_MAX < self.at
    }

    /// Time of the stamp.
    #[must_use]
    pub(crate) fn time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.at
    }

    fn set(&mut self, at: Duration) {
        let at = at.min(Duration::new(LAST_SECOND, 999_999_999));
        if at.as_secs() != self.at.as_secs() {
            let second = SystemTime::UNIX_EPOCH + Duration::from_secs(at.as_secs());
            let text = humantime::format_rfc3339_seconds(second).to_string();
            self.text[..19].copy_from_slice(&text.as_bytes()[..19]);
        }
        let mut nanos = at.subsec_nanos();
        for digit in self.text[20..29].iter_mut().rev() {
            *digit = b"0123456789"[(nanos % 10) as usize];
            nanos /= 10;
        }
        self.at = at;
    }
}

/// Time since 1970; a clock that stands before has never been set, and counts as 1970.
fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamp_at(now: SystemTime) -> LineStamp {
        let mut stamp = LineStamp::after(None);
        stamp.advance(now);
        stamp
    }

    #[test]
    fn a_line_is_as_cri_writes_it() {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_764_000_000, 5);
        let mut out = Vec::new();
        encode(&mut out, &stamp_at(time), Stream::Stdout, false, b"hello");
        encode(&mut out, &stamp_at(time), Stream::Stderr, true, b"");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "2025-11-24T16:00:00.000000005Z stdout F hello\n2025-11-24T16:00:00.000000005Z stderr P \n"
        );
    }

    #[test]
    fn a_torn_line_or_one_of_another_format_is_not_decoded() {
        let whole = b"2025-11-24T16:00:00.000000005Z stdout F ";
        assert!(LineHeader::decode(whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(LineHeader::decode(&whole[..length]), None, "{length}");
        }
        for foreign in [
            &b"2025-13-24T16:00:00.000000005Z stdout F x"[..],
            b"2025-11-24T16:00:00.000000005Z stdin  F x",
            b"2025-11-24T16:00:00.000000005Z stdout X x",
            &[0; 64],
        ] {
            assert_eq!(LineHeader::decode(foreign), None);
        }
    }

    #[test]
    fn time_goes_on_when_the_clock_does_not_and_a_far_step_is_told() {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_764_000_000, 999_999_999);
        let mut stamp = stamp_at(time);
        for before in [0, 1, 59] {
            let now = time - Duration::from_secs(before);
            let last = stamp.time();
            assert!(!stamp.is_stepped_back(now));
            stamp.advance(now);
            assert_eq!(stamp.time(), last + Duration::from_nanos(1));
        }
        assert!(stamp.is_stepped_back(time - Duration::from_secs(61)));
        assert_eq!(&stamp.text, b"2025-11-24T16:00:01.000000002Z");
    }

    #[test]
    fn a_clock_out_of_range_is_written_as_far_as_it_goes() {
        let stamp = stamp_at(SystemTime::UNIX_EPOCH - Duration::from_secs(9));
        assert_eq!(&stamp.text, b"1970-01-01T00:00:00.000000001Z");
        let mut stamp =
            stamp_at(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 1000));
        stamp.advance(SystemTime::UNIX_EPOCH);
        assert_eq!(&stamp.text, b"9999-12-31T23:59:59.999999999Z");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            second in 1..LAST_SECOND, nanos in 0..1_000_000_000u32, stderr: bool, partial: bool,
            line in proptest::collection::vec(any::<u8>().prop_filter("a line", |b| *b != b'\n'), 0..200)
        ) {
            let time = SystemTime::UNIX_EPOCH + Duration::new(second, nanos);
            let stream = if stderr { Stream::Stderr } else { Stream::Stdout };
            let mut out = Vec::new();
            encode(&mut out, &stamp_at(time), stream, partial, &line);
            prop_assert_eq!(out.pop(), Some(b'\n'));
            let read = LogLine::decode(&Bytes::from(out));
            prop_assert_eq!(read, Some(LogLine { time, stream, partial, bytes: Bytes::from(line) }));
        }
    }
}
