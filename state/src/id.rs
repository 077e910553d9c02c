//! Names of a container: the operator's name, the agent's id, and the name of each instance in
//! containerd.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The operator's name for a container: a DNS label (RFC 1123), 1 to 63 of `a-z`, `0-9` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerName(String);

impl ContainerName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Error of a text that is no name, id or instance name; it says what the text must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidName(&'static str);

impl FromStr for ContainerName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let edge =
            |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let fits = text.len() <= 63 && edge(text.chars().next()) && edge(text.chars().next_back());
        if fits && text.chars().all(inner) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName(
                "must be a DNS label: 1 to 63 of a-z, 0-9 and '-', \
                 beginning and ending with a letter or digit",
            ))
        }
    }
}

stored_as_text!(ContainerName);

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The agent's id of a container: 12 hex digits, chosen at the first deploy and kept as long as the
/// record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(u64);

impl ContainerId {
    const BITS: u64 = (1 << 48) - 1;

    /// The id made of the low 48 bits of `random`.
    #[must_use]
    pub const fn from_bits(random: u64) -> Self {
        Self(random & Self::BITS)
    }

    /// Bits of the id, of which 48 are used.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl FromStr for ContainerId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 12 && text.bytes().all(hex) {
            u64::from_str_radix(text, 16)
                .map(Self)
                .map_err(|_| InvalidName("must be 12 hex digits"))
        } else {
            Err(InvalidName("must be 12 hex digits"))
        }
    }
}

stored_as_text!(ContainerId);

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Name of an instance, which is one generation of one container: `<id>-<generation>`.
///
/// The containerd container, its snapshot, lease, netns and cgroup all bear this name. Creating any
/// of them twice is the same act, and every leftover can be traced to its container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceName {
    /// The container that the instance belongs to.
    pub id: ContainerId,
    /// The generation of the container's spec, counted from 1.
    pub generation: u64,
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.id, self.generation)
    }
}

impl FromStr for InstanceName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let wrong = InvalidName("must be <12 hex digits>-<generation>");
        let (id, generation) = text.split_once('-').ok_or_else(|| wrong.clone())?;
        let canonical =
            generation.bytes().all(|b| b.is_ascii_digit()) && !generation.starts_with('0');
        match generation.parse() {
            Ok(generation) if canonical => Ok(Self {
                id: id.parse()?,
                generation,
            }),
            _ => Err(wrong),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "web-server-1", "0", &"x".repeat(63)] {
            assert!(good.parse::<ContainerName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a_b",
            "a.b",
            "ä",
            &"x".repeat(64),
            "a b",
            "../x",
        ] {
            assert!(bad.parse::<ContainerName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_instance_name_reads_back_as_itself_and_nothing_else_does() {
        let name = InstanceName {
            id: ContainerId::from_bits(0xabc),
            generation: 12,
        };
        assert_eq!(name.to_string(), "000000000abc-12");
        assert_eq!(name.to_string().parse(), Ok(name));
        for bad in [
            "000000000abc",
            "000000000abc-",
            "000000000abc-0",
            "000000000abc-01",
            "000000000ABC-1",
            "abc-1",
            "000000000abc-+1",
        ] {
            assert!(bad.parse::<InstanceName>().is_err(), "{bad}");
        }
    }
}
