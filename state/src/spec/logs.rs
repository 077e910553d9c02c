//! Logs section: how much of a container's output is kept on disk.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::{Fields, amount, integer};
use crate::quantity::ByteCount;

/// Limits on the log files of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// Size at which a file is rotated; 64 KiB to 1 GiB.
    pub max_size: ByteCount,
    /// Files kept, the one being written among them; 1 to 100.
    pub max_files: u32,
}

impl Default for LogLimits {
    /// Limits of 50 MiB in all.
    fn default() -> Self {
        Self {
            max_size: ByteCount(10 << 20),
            max_files: 5,
        }
    }
}

impl LogLimits {
    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let max_size = fields.read("max_size", size);
        let max_files = fields
            .read("max_files", |value| integer(value, 1..=100))
            .and_then(|files| u32::try_from(files).ok());
        let default = Self::default();
        Some(Self {
            max_size: max_size.unwrap_or(default.max_size),
            max_files: max_files.unwrap_or(default.max_files),
        })
    }

    pub(super) fn to_json(self) -> Value {
        json!({"max_size": self.max_size.to_string(), "max_files": self.max_files})
    }
}

fn size(value: &Value) -> Result<ByteCount, String> {
    let size: ByteCount = amount(value)?;
    if (64 << 10..=1 << 30).contains(&size.0) {
        Ok(size)
    } else {
        Err("must be from 64k to 1g".to_owned())
    }
}
