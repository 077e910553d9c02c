//! Patterns of a policy for texts: a name (of a sysctl, a device, a runtime), or the beginning of one
//! and `*`.

use std::fmt;
use std::str::FromStr;

/// Longest pattern.
const BYTES_MAX: usize = 256;

/// Pattern of texts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TextPattern(String);

impl TextPattern {
    /// Whether the text fits.
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(begin) => text.starts_with(begin),
            None => text == self.0,
        }
    }
}

impl FromStr for TextPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = |byte: u8| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/' | b'=' | b':')
        };
        let begin = text.strip_suffix('*').unwrap_or(text);
        if (1..=BYTES_MAX).contains(&text.len()) && begin.bytes().all(is_plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "{text:?} is neither a name nor the beginning of one and '*', such as \"net.core.*\" or \
                 \"/dev/snd/*\""
            ))
        }
    }
}

impl fmt::Display for TextPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
