//! Sections `logging`, the agent's own log, and `logs`: loggers of containers, and the user of the
//! machine that they become.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use state::quantity::{ByteCount, InvalidQuantity};

use super::parse::Parsed;

/// File of the machine's users (passwd(5)).
const FILE: &str = "/etc/passwd";

/// User of the loggers where none is configured, and the machine has it.
const DEFAULT: &str = "chas-logger";

/// Rates that a log may be limited to.
const RATES: RangeInclusive<ByteCount> = ByteCount(64 << 10)..=ByteCount(1 << 30);

/// Section `logging`: the agent's own log.
#[derive(Clone, Debug)]
pub struct LoggingSection {
    /// Directives of `tracing_subscriber::EnvFilter`.
    pub level: String,
    /// Format of a log line.
    pub format: LogFormat,
    /// File that log lines are appended to. `None`: stderr.
    pub file: Option<PathBuf>,
    /// Size of that file beyond which another one is begun; 64 KiB to 10 GiB.
    pub size_max: ByteCount,
    /// Number of such files that are kept, with the one that is written; 1 to 100.
    pub files_max: u32,
}

/// Format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// A JSON object for each line.
    Json,
}

/// Sizes that a file of the agent's own log may be limited to.
const FILE_SIZES: RangeInclusive<ByteCount> = ByteCount(64 << 10)..=ByteCount(10 << 30);

/// Section `logs`: loggers of containers.
#[derive(Clone, Debug)]
pub struct LogsSection {
    /// Bytes that a container's log takes in a second, over ten of them; 64 KiB to 1 GiB.
    /// `None`: any number.
    pub rate: Option<ByteCount>,
    /// User that the loggers become. `None`: root.
    pub user: Option<SystemUser>,
}

/// User by its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemUser {
    /// Number of the user.
    pub uid: u32,
    /// Number of its own group.
    pub gid: u32,
}

/// Parses bytes in a second.
pub(super) fn rate(text: &str) -> Parsed<ByteCount> {
    let rate = text
        .parse()
        .map_err(|wrong: InvalidQuantity| wrong.to_string())?;
    if RATES.contains(&rate) {
        Ok(rate)
    } else {
        Err(format!("{text:?} is not from 64KiB to 1GiB"))
    }
}

/// Parses the size of a file of the agent's own log.
pub(super) fn file_size(text: &str) -> Parsed<ByteCount> {
    let size = text
        .parse()
        .map_err(|wrong: InvalidQuantity| wrong.to_string())?;
    if FILE_SIZES.contains(&size) {
        Ok(size)
    } else {
        Err(format!("{text:?} is not from 64KiB to 10GiB"))
    }
}

/// Parses a user's name or number, as `/etc/passwd` has it. `None`: root. A user of a directory
/// service is named by the number, since the agent starts before any network does; one without an
/// entry has a group of the same number.
pub(super) fn user(text: &str) -> Parsed<Option<SystemUser>> {
    find(text, &read()).ok_or_else(|| {
        format!(
            "{text:?} is no user of {FILE}: create it (useradd --system {DEFAULT}), or write its \
             number"
        )
    })
}

/// Name of the user where none is configured.
pub(super) fn default_user() -> &'static str {
    let is_there = find(DEFAULT, &read()).is_some();
    if is_there { DEFAULT } else { "root" }
}

fn read() -> String {
    std::fs::read_to_string(Path::new(FILE)).unwrap_or_default()
}

fn find(user: &str, passwd: &str) -> Option<Option<SystemUser>> {
    let number = user.parse::<u32>().ok();
    let entry = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (
            fields.next()?,
            fields.next()?,
            fields.next()?.parse().ok()?,
            fields.next()?.parse().ok()?,
        );
        (name == user || number == Some(uid)).then_some(SystemUser { uid, gid })
    });
    let found = match number {
        // The kernel takes the largest number for no user at all.
        Some(uid) if uid < u32::MAX => entry.or(Some(SystemUser { uid, gid: uid })),
        Some(_) => None,
        None => entry.or((user == "root").then_some(SystemUser { uid: 0, gid: 0 })),
    }?;
    Some(Some(found).filter(|found| found.uid != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_one_that_a_log_can_be_read_by() {
        assert_eq!(rate("64KiB"), Ok(ByteCount(64 << 10)));
        assert_eq!(rate("1gib"), Ok(ByteCount(1 << 30)));
        for wrong in ["65535", "1025MiB", "0", "-1", "fast", ""] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_user_is_found_by_its_name_or_number_and_root_is_none() {
        let passwd =
            "root:x:0:0:root:/root:/bin/bash\nbad line\nchas-logger:x:994:991::/:/bin/false\n";
        let of = |uid, gid| Some(Some(SystemUser { uid, gid }));
        for (text, expected) in [
            ("chas-logger", of(994, 991)),
            ("994", of(994, 991)),
            ("65000", of(65000, 65000)),
            ("root", Some(None)),
            ("0", Some(None)),
            ("nobody-here", None),
            ("4294967295", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(find(text, passwd), expected, "{text:?}");
        }
        assert_eq!(find("root", ""), Some(None));
    }
}
