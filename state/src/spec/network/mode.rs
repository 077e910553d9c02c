//! Attachment of a container to a network: by a link of its own, not at all, or by all of the host's.

use serde::{Deserialize, Serialize};

/// Attachment of a container to a network.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// An address on the node's bridge.
    #[default]
    Bridge,
    /// Loopback alone.
    None,
    /// The host's own interfaces, addresses and ports; nothing is published.
    Host,
}

impl NetworkMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Bridge, Self::None, Self::Host];

    /// The mode as a deploy body and a policy name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::None => "none",
            Self::Host => "host",
        }
    }

    /// Whether the container has an address of its own, at which ports can be published.
    #[must_use]
    pub const fn has_address(self) -> bool {
        matches!(self, Self::Bridge)
    }
}

impl std::fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for NetworkMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        let named = all.find(|mode| mode.as_str() == text);
        named.ok_or_else(|| format!("{text:?} is none of bridge, none, host"))
    }
}
