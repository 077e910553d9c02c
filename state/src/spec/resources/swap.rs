//! Limit on a container's swap: a size, or none.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::quantity::ByteCount;

/// Largest limit, as of memory; the sum of both is a number that the kernel takes.
const BYTES_MAX: ByteCount = ByteCount(1 << 50);
const UNLIMITED: &str = "unlimited";

/// Limit on swap alone, without memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SwapLimit {
    /// Number of bytes.
    Bytes(ByteCount),
    /// All that the host has.
    Unlimited,
}

/// Error of a text that is no limit on swap; it says what the text must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be a size of 1024t at most, such as \"512m\", \"0\" for no swap, or \"unlimited\"; it is \
     the swap alone, without memory"
)]
pub struct InvalidSwap;

impl FromStr for SwapLimit {
    type Err = InvalidSwap;

    fn from_str(text: &str) -> Result<Self, InvalidSwap> {
        if text == UNLIMITED {
            return Ok(Self::Unlimited);
        }
        let bytes: ByteCount = text.parse().map_err(|_| InvalidSwap)?;
        Some(bytes)
            .filter(|bytes| *bytes <= BYTES_MAX)
            .map(Self::Bytes)
            .ok_or(InvalidSwap)
    }
}

stored_as_text!(SwapLimit);

impl fmt::Display for SwapLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => bytes.fmt(f),
            Self::Unlimited => f.write_str(UNLIMITED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_a_size_or_unlimited() {
        for (text, limit, shown) in [
            ("0", SwapLimit::Bytes(ByteCount(0)), "0"),
            ("1.5g", SwapLimit::Bytes(ByteCount(3 << 29)), "1536m"),
            ("unlimited", SwapLimit::Unlimited, "unlimited"),
        ] {
            assert_eq!(text.parse(), Ok(limit), "{text}");
            assert_eq!(limit.to_string(), shown);
            assert_eq!(shown.parse(), Ok(limit));
        }
        for text in ["", "-1", "max", "Unlimited", "1025t"] {
            assert_eq!(text.parse::<SwapLimit>(), Err(InvalidSwap), "{text}");
        }
    }
}
