//! Patterns of sysctls: a name, or the beginning of one and `*`.

use std::fmt;
use std::str::FromStr;

/// Pattern of sysctls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SysctlPattern(String);

impl SysctlPattern {
    /// Whether the name fits.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(begin) => name.starts_with(begin),
            None => name == self.0,
        }
    }
}

impl FromStr for SysctlPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_letter =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let begin = text.strip_suffix('*').unwrap_or(text);
        if (1..=128).contains(&text.len()) && begin.bytes().all(is_letter) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "{text:?} is neither a sysctl nor the beginning of one and '*', such as \
                 \"net.core.*\""
            ))
        }
    }
}

impl fmt::Display for SysctlPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
