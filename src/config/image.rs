//! Section `image`: the room that images may take.

use state::quantity::{ByteCount, InvalidQuantity};

use super::parse::Parsed;

/// Least that an image may be bounded to: less is a slip of the unit.
const MAX_UNPACKED_MIN: u64 = 1 << 20;

/// Section `image`: the room that images may take.
#[derive(Clone, Debug)]
pub struct ImageSection {
    /// Most bytes of the disk that one image may take, unpacked; at least 1 MiB. `None`: as the
    /// node's age has it.
    pub max_unpacked: Option<u64>,
    /// Bytes of the disk that pulls leave free. `None`: a part of the disk.
    pub disk_reserve: Option<u64>,
}

/// Parses the bytes that an image may take.
pub(super) fn max_unpacked(text: &str) -> Parsed<u64> {
    let bytes = disk_reserve(text)?;
    if bytes >= MAX_UNPACKED_MIN {
        Ok(bytes)
    } else {
        Err(format!("{text:?} is too small: write 1Mi or more"))
    }
}

/// Parses bytes of a disk.
pub(super) fn disk_reserve(text: &str) -> Parsed<u64> {
    let bytes: Result<ByteCount, InvalidQuantity> = text.parse();
    bytes
        .map(|bytes| bytes.0)
        .map_err(|wrong| wrong.to_string())
}
