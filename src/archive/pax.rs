//! Records of a pax header (POSIX, pax, "Extended Header"): `LENGTH KEY=VALUE\n`.

use std::io::Write as _;

/// Bytes of all records of one entry: attributes of a file are most of them.
pub(super) const RECORDS_BYTES_MAX: usize = 2 << 20;
/// Records of one entry that are kept; the pairs of an old sparse map are some.
const RECORDS_MAX: usize = 1 << 16;

/// Adds a record.
pub(super) fn add(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + digits(rest);
    if rest + digits(length) != length {
        length = rest + digits(length);
    }
    // Memory takes everything.
    write!(records, "{length} {key}=").ok();
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

/// Records of a header, in their order. `None`: they are not well-formed.
pub(super) fn parse(mut records: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut found = Vec::new();
    // Some writers pad with NULs.
    while records.first().is_some_and(|byte| *byte != 0) {
        let space = records.iter().take(8).position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
        let record = records.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        found.push((&record[..equals], &record[equals + 1..]));
        records = &records[length..];
        if found.len() > RECORDS_MAX {
            return None;
        }
    }
    Some(found)
}

/// Time as text: seconds, which may be negative, and after a dot a part of one.
pub(super) fn time(seconds: i64, nanoseconds: u32) -> String {
    match (seconds, nanoseconds) {
        (_, 0) => seconds.to_string(),
        (0.., _) => format!("{seconds}.{nanoseconds:09}"),
        // -1.25 is a quarter of a second before -1.
        (_, _) => {
            let (whole, part) = (seconds + 1, 1_000_000_000 - nanoseconds);
            format!("-{}.{part:09}", whole.unsigned_abs())
        }
    }
}

/// Seconds and nanoseconds of such a text.
pub(super) fn parse_time(text: &str) -> Option<(i64, u32)> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_negative = whole.starts_with('-');
    let seconds: i64 = whole.parse().ok()?;
    if !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = format!("{part:0<9}");
    let nanoseconds: u32 = digits.get(..9)?.parse().ok()?;
    match (is_negative, nanoseconds) {
        (true, 1..) => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds)),
        _ => Some((seconds, nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        for length in [0, 1, 90, 91, 92, 93, 94, 990, 991, 992, 70_000] {
            let value = vec![b'\n'; length];
            let mut records = Vec::new();
            add(&mut records, "key", &value);
            add(&mut records, "other", b"a=b");
            let read = parse(&records).unwrap();
            assert_eq!(read, [(&b"key"[..], &value[..]), (b"other", b"a=b")]);
        }
        for broken in [
            "x", "5 a=", "6 ab\n\n", "99 a=b\n", "3 =\n", "-1 a=b\n", "0 a=b\n", "1 =\n",
        ] {
            assert_eq!(parse(broken.as_bytes()), None, "{broken:?}");
        }
    }

    #[test]
    fn times_before_1970_keep_their_parts() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "0"),
            (1, 5, "1.000000005"),
            (-1, 0, "-1"),
            (-1, 750_000_000, "-0.250000000"),
            (-2, 500_000_000, "-1.500000000"),
        ] {
            assert_eq!(time(seconds, nanoseconds), text);
            assert_eq!(parse_time(text), Some((seconds, nanoseconds)), "{text}");
        }
        assert_eq!(parse_time("1.5"), Some((1, 500_000_000)));
        assert_eq!(parse_time("1.1234567891"), Some((1, 123_456_789)));
        for wrong in ["", "a", "1.a", "1.-5", "9223372036854775808"] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
    }
}
