//! Call of the logger: how the agent, or containerd's shim for it, starts the process, and how that
//! process and whoever looks for it read the same words again.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use state::id::InstanceName;
use state::quantity::ByteCount;
use state::spec::LogLimits;

use super::limits::NumberedLimits;
use super::rules::LoggerRules;

/// First argument that makes this binary the logger.
pub const ARGUMENT: &str = "logger";

/// Environment variable that names the container.
pub const CONTAINER_VARIABLE: &str = "CONTAINER_ID";

/// Environment variable that names the containerd namespace of the container.
pub const NAMESPACE_VARIABLE: &str = "CONTAINER_NAMESPACE";

/// Beginning of the argument of a logger that takes over.
const TAKEOVER: &str = "takeover=";

/// Beginning of the word that says which generation the limits are of; it comes before the rules.
const GENERATION: &str = "of=";

/// Call of the logger of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LoggerCall {
    /// Log directory of the container.
    pub(super) dir: PathBuf,
    /// Limits on its files.
    pub(super) limits: NumberedLimits,
    /// Rules of the node.
    pub(super) rules: LoggerRules,
    /// Takeover from a logger that ended; `None`: the container begins.
    pub(super) takeover: Option<Takeover>,
}

/// Takeover of the pipes of a logger that ended before its container did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Takeover {
    /// Bytes of output that nobody could write in between.
    pub(super) lost_bytes: u64,
}

impl LoggerCall {
    /// Reads the arguments of a process, its name first. `None`: it is no logger.
    ///
    /// Version 0.1.0 called its loggers in the same way, without a takeover.
    pub(super) fn read(args: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut args = args.into_iter().skip(1);
        if args.next()? != ARGUMENT {
            return None;
        }
        let (dir, limits, rules) = parse_value(args.next()?)?;
        let takeover = match args.next() {
            None => None,
            Some(word) => Some(Takeover {
                lost_bytes: word.to_str()?.strip_prefix(TAKEOVER)?.parse().ok()?,
            }),
        };
        Some(Self {
            dir,
            limits,
            rules,
            takeover,
        })
    }

    /// Arguments after the program's name.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = vec![ARGUMENT.into(), OsString::from_vec(self.value())];
        arguments.extend(
            self.takeover
                .map(|takeover| format!("{TAKEOVER}{}", takeover.lost_bytes).into()),
        );
        arguments
    }

    /// URI for a task's stdout and stderr that makes containerd's shim start `program` as the
    /// logger; its path is absolute, and present at every start of the task.
    ///
    /// There is exactly one key: the shim hands the keys on in random order (containerd 1.6,
    /// `runtime/v2/runc`, `NewBinaryCmd`).
    pub(super) fn uri(&self, program: &Path) -> String {
        format!(
            "binary://{}?{ARGUMENT}={}",
            percent_encoded(program.as_os_str().as_bytes()),
            percent_encoded(&self.value())
        )
    }

    /// Numbers of the descriptors that are the container's stdout and stderr.
    pub(super) const fn descriptors(&self) -> [u32; 2] {
        match self.takeover {
            None => [3, 4],
            Some(_) => [0, 1],
        }
    }

    /// Whether the directory is that of this container: the logger never writes into another's.
    pub(super) fn is_for(&self, instance: InstanceName) -> bool {
        self.dir.file_name() == Some(OsStr::new(&instance.id.to_string()))
    }

    fn value(&self) -> Vec<u8> {
        let LogLimits {
            max_size,
            max_files,
        } = self.limits.limits;
        let generation = match self.limits.generation {
            0 => String::new(),
            generation => format!("{GENERATION}{generation},"),
        };
        let rules = self.rules.words();
        let words = format!("{},{max_files},{generation}{rules}", max_size.0);
        [words.as_bytes(), self.dir.as_os_str().as_bytes()].concat()
    }
}

/// Parses `<max_size>,<max_files>,<generation><rules><absolute directory>`.
fn parse_value(value: OsString) -> Option<(PathBuf, NumberedLimits, LoggerRules)> {
    let bytes = value.into_vec();
    let mut parts = bytes.splitn(3, |byte| *byte == b',');
    let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u64>().ok();
    let limits = LogLimits {
        max_size: ByteCount(number()?),
        max_files: u32::try_from(number()?).ok()?,
    };
    let rest = parts.next()?;
    // Version 0.1 had no such word.
    let (generation, rest) = match rest.strip_prefix(GENERATION.as_bytes()) {
        None => (0, rest),
        Some(rest) => {
            let comma = rest.iter().position(|byte| *byte == b',')?;
            let generation = std::str::from_utf8(&rest[..comma]).ok()?.parse().ok()?;
            (generation, &rest[comma + 1..])
        }
    };
    let limits = NumberedLimits { generation, limits };
    let (rules, dir) = LoggerRules::parse(rest)?;
    Some((OsStr::from_bytes(dir).into(), limits, rules))
}

fn percent_encoded(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b',' => {
                text.push(char::from(*byte));
            }
            _ => write!(text, "%{byte:02X}").expect("writing to a string cannot fail"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use state::id::ContainerId;

    use super::*;

    const LIMITS: NumberedLimits = NumberedLimits {
        generation: 0,
        limits: LogLimits {
            max_size: ByteCount(10 << 20),
            max_files: 5,
        },
    };

    fn call(dir: &str, takeover: Option<Takeover>) -> LoggerCall {
        LoggerCall {
            dir: dir.into(),
            limits: LIMITS,
            rules: LoggerRules::default(),
            takeover,
        }
    }

    fn read(words: &[&str]) -> Option<LoggerCall> {
        LoggerCall::read(words.iter().map(OsString::from))
    }

    #[test]
    fn the_uri_has_one_key_and_its_value_comes_back() {
        let begun = call("/var/lib/a b&c=d?e#f%g+ü/000000000007", None);
        let text = begun.uri(Path::new("/run/chas/chas-logger"));
        assert_eq!(
            text,
            "binary:///run/chas/chas-logger?logger=10485760,5,/var/lib/a%20b%26c%3Dd%3Fe%23f%25g%2B%C3%BC/000000000007"
        );
        let value = percent_decoded(text.split_once("logger=").unwrap().1);
        let args = [
            "chas-logger".into(),
            ARGUMENT.into(),
            OsString::from_vec(value),
        ];
        assert_eq!(LoggerCall::read(args), Some(begun));
    }

    fn percent_decoded(text: &str) -> Vec<u8> {
        let mut parts = text.split('%');
        let mut bytes = parts.next().unwrap().as_bytes().to_vec();
        for part in parts {
            bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
            bytes.extend_from_slice(&part.as_bytes()[2..]);
        }
        bytes
    }

    #[test]
    fn a_call_comes_back_also_that_of_the_version_before_and_nothing_else_is_one() {
        for takeover in [
            None,
            Some(Takeover { lost_bytes: 0 }),
            Some(Takeover { lost_bytes: 77 }),
        ] {
            let call = call("/logs/000000000007", takeover);
            let args = std::iter::once("any-name".into()).chain(call.arguments());
            assert_eq!(LoggerCall::read(args), Some(call));
        }
        let numbered = LoggerCall {
            limits: NumberedLimits {
                generation: 12,
                ..LIMITS
            },
            ..call("/d", None)
        };
        let args = std::iter::once("any-name".into()).chain(numbered.arguments());
        assert_eq!(LoggerCall::read(args), Some(numbered));
        let of_0_1_0 = ["/usr/local/bin/chas-node-agent", "logger", "10485760,5,/d"];
        assert_eq!(read(&of_0_1_0), Some(call("/d", None)));
        for value in [
            "",
            "1,2",
            "1,2,relative",
            "x,2,/d",
            "1,99999999999,/d",
            "-1,2,/d",
            "/d",
            "1,2,of=x,/d",
        ] {
            assert_eq!(read(&["agent", ARGUMENT, value]), None, "{value}");
        }
        for words in [
            &["agent"][..],
            &["agent", "run", "1,2,/d"],
            &["agent", ARGUMENT],
            &[],
        ] {
            assert_eq!(read(words), None, "{words:?}");
        }
        assert_eq!(read(&["agent", ARGUMENT, "1,2,/d", "more"]), None);
    }

    #[test]
    fn a_directory_is_that_of_one_container() {
        let call = call("/logs/000000000007", None);
        assert!(call.is_for(InstanceName {
            id: ContainerId::from_bits(7),
            generation: 12
        }));
        assert!(!call.is_for(InstanceName {
            id: ContainerId::from_bits(8),
            generation: 1
        }));
    }
}
