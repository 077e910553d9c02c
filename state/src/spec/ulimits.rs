//! Ulimits section: limits of the kernel on each process of a container (setrlimit(2)).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::{Fields, amount};
use super::sketch::{self, learned};

/// Word for no limit, and the kernel's number for it.
const UNLIMITED: (&str, u64) = ("unlimited", u64::MAX);
/// Nice value that a process may have without a privilege, as `nice` counts (20 less the value).
const NICE_UNPRIVILEGED_MAX: u64 = 20;
/// Capability of processes that take the CPU from others.
const SYS_NICE: &str = "CAP_SYS_NICE";

/// Limits of a container's processes, by name.
pub type Ulimits = BTreeMap<UlimitName, Ulimit>;

macro_rules! ulimit_names {
    ($($name:ident = $text:literal, $meaning:literal;)+) => {
        /// Name of a limit, as of docker: that of setrlimit(2) without `RLIMIT_`, in lower case.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum UlimitName { $(#[doc = $meaning] $name,)+ }

        impl UlimitName {
            /// Every name.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name as text.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

ulimit_names! {
    Core = "core", "Bytes of a core file.";
    Cpu = "cpu", "Seconds of CPU time.";
    Data = "data", "Bytes of data and heap.";
    Fsize = "fsize", "Bytes of a file.";
    Locks = "locks", "File locks, of old kernels.";
    Memlock = "memlock", "Bytes of locked memory.";
    Msgqueue = "msgqueue", "Bytes of POSIX message queues.";
    Nice = "nice", "Ceiling of the nice value, as 20 less it.";
    Nofile = "nofile", "Open files.";
    Nproc = "nproc", "Processes of one user, on the whole host unless the ids are the container's own.";
    Rss = "rss", "Bytes of resident memory, of old kernels.";
    Rtprio = "rtprio", "Ceiling of the realtime priority.";
    Rttime = "rttime", "Microseconds of realtime without a pause.";
    Sigpending = "sigpending", "Queued signals of one user.";
    Stack = "stack", "Bytes of stack.";
}

/// Limit of a process: the one in force, and the one up to which it may be raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ulimit {
    /// Limit in force; not above `hard`. `u64::MAX`: none.
    pub soft: u64,
    /// Limit of the limit. `u64::MAX`: none.
    pub hard: u64,
}

/// Error of a text that is no limit; it says what the text must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be a number, \"unlimited\", or a soft limit and a hard one that is not below it, such as \
     \"1024:65536\""
)]
pub struct InvalidUlimit;

impl FromStr for Ulimit {
    type Err = InvalidUlimit;

    fn from_str(text: &str) -> Result<Self, InvalidUlimit> {
        let (soft, hard) = text.split_once(':').unwrap_or((text, text));
        let limit = Self {
            soft: number(soft)?,
            hard: number(hard)?,
        };
        Some(limit)
            .filter(|limit| limit.soft <= limit.hard)
            .ok_or(InvalidUlimit)
    }
}

/// Number of a limit; docker's -1 means unlimited.
fn number(text: &str) -> Result<u64, InvalidUlimit> {
    if text == UNLIMITED.0 || text == "-1" {
        return Ok(UNLIMITED.1);
    }
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_plain);
    number.ok_or(InvalidUlimit)
}

stored_as_text!(Ulimit);

impl fmt::Display for Ulimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |limit: u64| match limit {
            limit if limit == UNLIMITED.1 => UNLIMITED.0.to_owned(),
            limit => limit.to_string(),
        };
        write!(f, "{}:{}", text(self.soft), text(self.hard))
    }
}

impl UlimitName {
    /// Limit below which the OCI runtime, which lives under it before the program does, cannot work.
    const fn least(self) -> Option<u64> {
        match self {
            Self::Nofile => Some(64),
            Self::Nproc => Some(16),
            Self::Stack => Some(256 << 10),
            Self::Data => Some(32 << 20),
            Self::Core
            | Self::Cpu
            | Self::Fsize
            | Self::Locks
            | Self::Memlock
            | Self::Msgqueue
            | Self::Nice
            | Self::Rss
            | Self::Rtprio
            | Self::Rttime
            | Self::Sigpending => None,
        }
    }

    /// Capability that a container needs to be given this limit: with it, its processes could take
    /// the CPU from all others of the host.
    #[must_use]
    pub fn required_capability(self, limit: Ulimit) -> Option<&'static str> {
        let is_privileged = match self {
            Self::Rtprio => limit.hard > 0,
            Self::Nice => limit.hard > NICE_UNPRIVILEGED_MAX,
            Self::Core
            | Self::Cpu
            | Self::Data
            | Self::Fsize
            | Self::Locks
            | Self::Memlock
            | Self::Msgqueue
            | Self::Nofile
            | Self::Nproc
            | Self::Rss
            | Self::Rttime
            | Self::Sigpending
            | Self::Stack => false,
        };
        is_privileged.then_some(SYS_NICE)
    }
}

pub(super) fn read(top: &mut Fields<'_>) -> Option<Ulimits> {
    let limits = top.read("ulimits", |value| {
        let fault = || "must be an object such as {\"nofile\": \"1024:65536\"}".to_owned();
        let limits =
            || json!({"type": "object", "additionalProperties": learned(amount::<Ulimit>)});
        let map = value.as_object();
        map.ok_or_else(|| sketch::fault(value, limits, fault))
    })?;
    let mut read = Ulimits::new();
    for (key, value) in limits {
        match (named(key), amount(value)) {
            (Some(name), Ok::<Ulimit, _>(limit)) => {
                if let Some(least) = name.least().filter(|least| limit.soft < *least) {
                    let message = format!(
                        "must be at least {least}; with less, not even the runtime can start"
                    );
                    top.fault(&format!("ulimits.{}", name.as_str()), &message);
                }
                read.insert(name, limit);
            }
            (Some(name), Err(fault)) => top.fault(&format!("ulimits.{}", name.as_str()), &fault),
            (None, _) => {
                let known: Vec<_> = UlimitName::ALL.iter().map(|name| name.as_str()).collect();
                let message = format!("{key:?} is not among {}", known.join(", "));
                top.fault("ulimits", &message);
            }
        }
    }
    Some(read)
}

fn named(key: &str) -> Option<UlimitName> {
    let mut all = UlimitName::ALL.iter().copied();
    all.find(|name| name.as_str() == key)
}

pub(super) fn to_json(limits: &Ulimits) -> Value {
    let limits = limits.iter();
    let shown = limits.map(|(name, limit)| (name.as_str().to_owned(), limit.to_string().into()));
    Value::Object(shown.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_one_number_or_two() {
        for (text, soft, hard, shown) in [
            ("1024", 1024, 1024, "1024:1024"),
            ("0:5", 0, 5, "0:5"),
            ("unlimited", u64::MAX, u64::MAX, "unlimited:unlimited"),
            ("-1", u64::MAX, u64::MAX, "unlimited:unlimited"),
            ("7:-1", 7, u64::MAX, "7:unlimited"),
        ] {
            let limit: Ulimit = text.parse().unwrap();
            assert_eq!((limit.soft, limit.hard), (soft, hard), "{text}");
            assert_eq!(limit.to_string(), shown);
            assert_eq!(shown.parse(), Ok(limit));
        }
        for text in [
            "",
            ":",
            "1:",
            "2:1",
            "-2",
            "1k",
            "+1",
            "unlimited:1",
            "1:2:3",
        ] {
            assert_eq!(text.parse::<Ulimit>(), Err(InvalidUlimit), "{text}");
        }
    }

    #[test]
    fn who_could_take_the_cpu_from_all_needs_the_capability() {
        let needs = |name: UlimitName, text: &str| name.required_capability(text.parse().unwrap());
        assert_eq!(needs(UlimitName::Rtprio, "0"), None);
        assert_eq!(needs(UlimitName::Rtprio, "0:1"), Some("CAP_SYS_NICE"));
        assert_eq!(needs(UlimitName::Nice, "20"), None);
        assert_eq!(needs(UlimitName::Nice, "21"), Some("CAP_SYS_NICE"));
        assert_eq!(needs(UlimitName::Nofile, "unlimited"), None);
    }

    #[test]
    fn a_name_is_stored_as_it_is_written() {
        for name in UlimitName::ALL {
            let stored = serde_json::to_value(name).unwrap();
            assert_eq!(stored, name.as_str());
        }
    }
}
