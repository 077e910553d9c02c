//! Timetables: the instants that a cron line in a time zone stands for. The only file that knows cron
//! and time zones.
//!
//! The zones are the host's (`/usr/share/zoneinfo`), or those that the agent brings along. A fixed
//! time that a change to summer time leaves out comes at the end of the gap; one that comes twice,
//! comes at the first. An interval (`*`, `*/5`) is left out in the gap, and comes in both hours.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// Longest cron line and time zone, in bytes.
const TEXT_BYTES_MAX: usize = 100;
/// Time from which on every line is to have an instant, milliseconds since 1970: the year 2026.
const BEGIN_MS: u64 = 1_767_225_600_000;

/// Instants of a cron line.
#[derive(Clone, Debug)]
pub struct Timetable {
    cron: Cron,
    zone: TimeZone,
}

impl Timetable {
    /// Reads a line of five fields, or a nickname such as `@daily`.
    ///
    /// # Errors
    /// The fault of the line, also that it stands for no instant at all.
    pub fn parse(line: &str, zone: TimeZone) -> Result<Self, String> {
        if line.len() > TEXT_BYTES_MAX {
            return Err(format!("must not be longer than {TEXT_BYTES_MAX} bytes"));
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let cron = parser.parse(line).map_err(|error| {
            format!("must be a cron line (minute, hour, day, month, weekday): {error}")
        })?;
        let table = Self { cron, zone };
        match table.next_after(BEGIN_MS) {
            Some(_) => Ok(table),
            None => Err("stands for no time: there is no such day".to_owned()),
        }
    }

    /// Reads the name of a time zone, as in `Europe/Berlin`.
    ///
    /// # Errors
    /// No such zone is known.
    pub fn zone(name: &str) -> Result<TimeZone, String> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || "/_+-".contains(c);
        let fits = name.len() <= TEXT_BYTES_MAX && name.chars().all(is_name);
        let zone = fits.then(|| TimeZone::get(name).ok()).flatten();
        zone.ok_or_else(|| {
            "must be a time zone of the IANA database, such as \"Europe/Berlin\"".to_owned()
        })
    }

    /// The first instant after this one, both in milliseconds since 1970. `None`: there is none.
    #[must_use]
    pub fn next_after(&self, at_ms: u64) -> Option<u64> {
        let next = self.cron.find_next_occurrence(&self.zoned(at_ms)?, false);
        instant(&next.ok()?)
    }

    /// The last instant until this one, which may be it. `None`: there is none.
    #[must_use]
    pub fn last_until(&self, at_ms: u64) -> Option<u64> {
        // Instants are whole seconds, and this one counts.
        let at = self.zoned((at_ms / 1000).checked_add(1)?.checked_mul(1000)?)?;
        instant(&self.cron.find_previous_occurrence(&at, false).ok()?)
    }

    fn zoned(&self, at_ms: u64) -> Option<Zoned> {
        let at = Timestamp::from_millisecond(i64::try_from(at_ms).ok()?).ok()?;
        Some(Zoned::new(at, self.zone.clone()))
    }
}

fn instant(at: &Zoned) -> Option<u64> {
    u64::try_from(at.timestamp().as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> u64 {
        instant(&text.parse::<Timestamp>().unwrap().to_zoned(TimeZone::UTC)).unwrap()
    }

    #[track_caller]
    fn check(line: &str, zone: &str, after: &str, expected: &[&str]) {
        let table = Timetable::parse(line, Timetable::zone(zone).unwrap()).unwrap();
        let mut at = ms(after);
        for expected in expected {
            let next = table.next_after(at).unwrap();
            assert_eq!(next, ms(expected), "{line} after {at}");
            assert_eq!(
                table.last_until(next),
                Some(next),
                "{line} until {expected}"
            );
            if at != ms(after) {
                assert_eq!(
                    table.last_until(next - 1),
                    Some(at),
                    "{line} before {expected}"
                );
            }
            at = next;
        }
    }

    #[test]
    fn a_fixed_time_comes_once_a_day_whatever_the_clocks_do() {
        // Gap: 02:30 is not there on 29 March, and comes at 03:00 (01:00 UTC).
        check(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
        );
        // Overlap: 02:30 is there twice on 25 October, and comes at the first.
        check(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
        );
    }

    #[test]
    fn an_interval_follows_the_hours_as_they_pass() {
        check(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-03-29T00:29:00Z",
            &[
                "2026-03-29T00:30:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-29T01:30:00Z",
            ],
        );
        check(
            "*/30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T23:00:00Z",
            &[
                "2026-10-25T00:00:00Z",
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-26T01:00:00Z",
            ],
        );
    }

    #[test]
    fn lines_and_zones_are_read_or_told_to_be_wrong() {
        check(
            "0 0 29 2 *",
            "UTC",
            "2026-01-01T00:00:00Z",
            &["2028-02-29T00:00:00Z"],
        );
        check(
            "@daily",
            "UTC",
            "2026-01-01T00:00:00Z",
            &["2026-01-02T00:00:00Z"],
        );
        check(
            "0 9 * * MON-FRI",
            "America/New_York",
            "2026-07-03T14:00:00Z",
            &["2026-07-06T13:00:00Z"],
        );
        for line in [
            "",
            "* * * *",
            "* * * * * *",
            "61 * * * *",
            "@reboot",
            "0 0 30 2 *",
            "a b c d e",
            "\0",
            &"*".repeat(101),
        ] {
            assert!(Timetable::parse(line, TimeZone::UTC).is_err(), "{line:?}");
        }
        for zone in [
            "",
            "Mars/Olympus",
            "../../etc/passwd",
            "Europe/Berlin\0",
            "CEST!",
        ] {
            assert!(Timetable::zone(zone).is_err(), "{zone:?}");
        }
    }
}
