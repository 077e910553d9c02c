//! Signals by name and number.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// A signal of Linux; its stored form is its name, as in `SIGTERM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signal(u32);

impl Signal {
    /// `SIGTERM`, the default of POSIX `kill`.
    pub const TERM: Self = Self(15);
    /// `SIGKILL`, which cannot be caught.
    pub const KILL: Self = Self(9);

    /// The signal's number on Linux, 1 to 64.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl FromStr for Signal {
    type Err = String;

    /// Reads `SIGTERM`, `TERM`, `15`, and real-time signals as `SIGRTMIN+3` (34 + 3).
    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.trim().to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let number = match name.strip_prefix("RTMIN") {
            Some("") => Some(34),
            Some(offset) => offset
                .strip_prefix('+')
                .and_then(|n| n.parse::<u32>().ok())
                .and_then(|n| n.checked_add(34)),
            None => (1..)
                .zip(SIGNALS)
                .find(|(_, known)| *known == name)
                .map(|(number, _)| number)
                .or_else(|| name.parse().ok()),
        };
        match number {
            Some(number @ 1..=64) => Ok(Self(number)),
            _ => Err(format!(
                "{text:?} is not a signal: write a name such as \"SIGTERM\", or a number from 1 to 64"
            )),
        }
    }
}

impl TryFrom<String> for Signal {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Signal> for String {
    fn from(signal: Signal) -> Self {
        let name = usize::try_from(signal.0)
            .ok()
            .and_then(|n| SIGNALS.get(n - 1));
        name.map_or_else(|| signal.0.to_string(), |name| format!("SIG{name}"))
    }
}
