//! Size of a container's shared memory, `/dev/shm`.

use serde::{Deserialize, Serialize};

use super::fields::{Fields, amount};
use crate::quantity::ByteCount;

/// Smallest size: a page. To the kernel, 0 would be no limit.
const BYTES_MIN: ByteCount = ByteCount(4096);
const BYTES_MAX: ByteCount = ByteCount(1 << 50);

/// Most that the files in `/dev/shm` may have; what they have counts as the container's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShmSize(pub ByteCount);

impl Default for ShmSize {
    /// The default of docker.
    fn default() -> Self {
        Self(ByteCount(64 << 20))
    }
}

impl ShmSize {
    pub(super) fn read(top: &mut Fields<'_>) -> Option<Self> {
        top.read("shm_size", |value| {
            let size = amount(value)?;
            if (BYTES_MIN..=BYTES_MAX).contains(&size) {
                Ok(Self(size))
            } else {
                Err("must be from 4k to 1024t; what is in /dev/shm counts as memory".to_owned())
            }
        })
    }
}
