//! Signals by name and number.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Other names of the same signals, as docker and `kill` take them.
const ALIASES: [(&str, &str); 4] = [
    ("IOT", "ABRT"),
    ("CLD", "CHLD"),
    ("POLL", "IO"),
    ("UNUSED", "SYS"),
];

/// First and last real-time signal that a program is given; the C library keeps two below for itself.
const REAL_TIME: (u32, u32) = (34, 64);

/// Distance from an end of the real-time signals, as in `+3`: within them.
fn real_time_offset(text: &str, sign: char) -> Option<u32> {
    let offset = if text.is_empty() {
        0
    } else {
        digits(text.strip_prefix(sign)?)?
    };
    (offset <= REAL_TIME.1 - REAL_TIME.0).then_some(offset)
}

/// Number that is written in digits alone.
fn digits(text: &str) -> Option<u32> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

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

    /// Reads `SIGTERM`, `TERM`, `15`, and real-time signals as `SIGRTMIN+3` (34 + 3) and
    /// `SIGRTMAX-2` (64 - 2), in any case.
    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.trim().to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let number = if let Some(offset) = name.strip_prefix("RTMIN") {
            real_time_offset(offset, '+').map(|offset| REAL_TIME.0 + offset)
        } else if let Some(offset) = name.strip_prefix("RTMAX") {
            real_time_offset(offset, '-').map(|offset| REAL_TIME.1 - offset)
        } else {
            let named = ALIASES.iter().find(|(alias, _)| *alias == name);
            let name = named.map_or(name, |(_, usual)| usual);
            (1..)
                .zip(SIGNALS)
                .find(|(_, known)| *known == name)
                .map(|(number, _)| number)
                .or_else(|| digits(name))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_in_every_spelling() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            (" Sigint ", 2),
            ("9", 9),
            ("64", 64),
            ("SIGRTMIN", 34),
            ("RTMIN+3", 37),
            ("sigrtmin+30", 64),
            ("SIGRTMAX-2", 62),
            ("RTMAX", 64),
            ("RTMAX-30", 34),
            ("SIGIOT", 6),
            ("SIGPOLL", 29),
            ("CLD", 17),
        ] {
            let signal: Signal = text.parse().unwrap();
            assert_eq!(signal.number(), number, "{text}");
            let stored = String::from(signal);
            assert_eq!(stored.parse(), Ok(signal), "{stored}");
        }
    }

    #[test]
    fn what_is_no_signal_is_named() {
        for text in [
            "",
            "SIG",
            "SIGNONE",
            "0",
            "65",
            "-1",
            "+9",
            "RTMIN-1",
            "RTMIN+31",
            "RTMIN++3",
            "RTMIN3",
            "RTMAX+1",
            "RTMAX-31",
            "4294967311",
            "SIGRTMAX-",
        ] {
            let error = text.parse::<Signal>().unwrap_err();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
