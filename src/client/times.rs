//! Times as people say them.

use std::time::{Duration, SystemTime};

use serde_json::Value;

/// Time of an answer.
pub(super) fn time(value: &Value) -> Option<SystemTime> {
    humantime::parse_rfc3339(value.as_str()?).ok()
}

/// Length of a time, by its largest unit: `3 hours`.
pub(super) fn about(length: Duration) -> String {
    let seconds = length.as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        172_800..1_209_600 => (seconds / 86_400, "day"),
        1_209_600..5_184_000 => (seconds / 604_800, "week"),
        5_184_000..63_072_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

/// Length of the time since then; nothing where it is unknown.
pub(super) fn since(value: &Value, now: SystemTime) -> Option<String> {
    let passed = now.duration_since(time(value)?).unwrap_or_default();
    Some(about(passed))
}

/// Length of the time until then.
pub(super) fn until(value: &Value, now: SystemTime) -> Option<String> {
    let left = time(value)?.duration_since(now).unwrap_or_default();
    Some(about(left))
}

/// Bytes by their unit, as docker writes them: `1.5GiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count}B");
    }
    let mut unit = UNITS[0];
    let (mut whole, mut tenths) = (count / 1024, count % 1024 * 10 / 1024);
    for next in &UNITS[1..] {
        if whole < 1024 {
            break;
        }
        (whole, tenths, unit) = (whole / 1024, whole % 1024 * 10 / 1024, next);
    }
    format!("{whole}.{tenths}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_said_by_its_largest_unit() {
        for (seconds, expected) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (119, "1 minute"),
            (7200, "2 hours"),
            (172_800, "2 days"),
            (1_209_600, "2 weeks"),
            (70_000_000, "2 years"),
        ] {
            assert_eq!(about(Duration::from_secs(seconds)), expected);
        }
        for (count, expected) in [
            (1023, "1023B"),
            (1536, "1.5KiB"),
            (512 << 20, "512.0MiB"),
            (u64::MAX, "16383.9PiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
    }
}
