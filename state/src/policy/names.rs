//! Names that mean a host to every program: a container that bears one is taken for that host by
//! its neighbours.

use std::fmt;
use std::str::FromStr;

use crate::id::ContainerName;

/// Names that hosts files and libraries define, always reserved.
const LOOPBACK: [&str; 3] = ["localhost", "broadcasthost", "ip6-*"];
/// Names by which programs find their cloud or their host, reserved unless the policy lists others.
const WELL_KNOWN: [&str; 2] = ["metadata", "host"];

/// Pattern of container names: a name, or the beginning of one and `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamePattern {
    text: String,
    is_prefix: bool,
}

impl NamePattern {
    /// Whether the name fits.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        if self.is_prefix {
            name.starts_with(&self.text)
        } else {
            name == self.text
        }
    }

    /// Whether every name that fits `narrower` fits here too.
    #[must_use]
    pub fn covers(&self, narrower: &Self) -> bool {
        if self.is_prefix {
            narrower.text.starts_with(&self.text)
        } else {
            self == narrower
        }
    }
}

impl FromStr for NamePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (begin, is_prefix) = text
            .strip_suffix('*')
            .map_or((text, false), |begin| (begin, true));
        let is_label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_word = begin.len() <= 63 && begin.bytes().all(is_label) && !begin.starts_with('-');
        let is_name = is_prefix || begin.parse::<ContainerName>().is_ok();
        if is_word && is_name {
            Ok(Self {
                text: begin.to_owned(),
                is_prefix,
            })
        } else {
            Err(format!(
                "{text:?} is neither a container's name nor the beginning of one and '*', \
                 such as \"web-*\""
            ))
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.is_prefix { "*" } else { "" };
        write!(f, "{}{star}", self.text)
    }
}

/// Names that no new container may bear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedNames {
    loopback: Vec<NamePattern>,
    /// Names of the node itself, as labels.
    pub node: Vec<String>,
    /// Names that the policy reserves.
    pub listed: Vec<NamePattern>,
}

impl Default for ReservedNames {
    fn default() -> Self {
        Self {
            loopback: patterns(&LOOPBACK),
            node: Vec::new(),
            listed: patterns(&WELL_KNOWN),
        }
    }
}

impl ReservedNames {
    /// The meaning for which a name is reserved. `None`: it is free.
    pub(super) fn meaning(&self, name: &ContainerName) -> Option<&'static str> {
        let name = name.as_str();
        let fits = |patterns: &[NamePattern]| patterns.iter().any(|pattern| pattern.fits(name));
        if fits(&self.loopback) {
            Some("programs take it for the container itself")
        } else if self.node.iter().any(|node| node == name) {
            Some("it is this node's own")
        } else if fits(&self.listed) {
            Some("by reserved_names of the policy, or its default")
        } else {
            None
        }
    }
}

/// The labels by which a host of this name is known: its first one, in lower case.
#[must_use]
pub fn label(hostname: &str) -> Option<String> {
    let first = hostname.split('.').next().unwrap_or_default();
    (!first.is_empty()).then(|| first.to_ascii_lowercase())
}

fn patterns(texts: &[&str]) -> Vec<NamePattern> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}
