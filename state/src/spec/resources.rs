//! Resources section: the limits on what a container may use.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::{Fields, amount, integer};
use crate::quantity::{ByteCount, CpuMillis};

/// Smallest CPU limit: the kernel's smallest CFS quota is 1 ms in a period of 100 ms.
const CPU_MILLIS_MIN: CpuMillis = CpuMillis(10);
const CPU_MILLIS_MAX: CpuMillis = CpuMillis(1_024_000);
/// The memory below which runc itself does not start (2.5 to 3 MiB measured), doubled as docker
/// does.
const MEMORY_BYTES_MIN: ByteCount = ByteCount(6 << 20);
const MEMORY_BYTES_MAX: ByteCount = ByteCount(1 << 50);

/// Upper limits on what a container may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// CPU time per second, at least 10 thousandths. `None`: unlimited.
    pub cpu: Option<CpuMillis>,
    /// Memory without swap, at least 6 MiB. `None`: unlimited.
    pub memory: Option<ByteCount>,
    /// Processes and threads at once, 1 to 4194304.
    pub pids: u32,
}

impl Default for Resources {
    /// Limits the number of processes only: enough for a busy server, far below the 32,768 of a
    /// small host.
    fn default() -> Self {
        Self {
            cpu: None,
            memory: None,
            pids: 4096,
        }
    }
}

impl Resources {
    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let cpu = fields.read("cpu", cpu);
        let memory = fields.read("memory", memory);
        let pids = fields
            .read("pids", |value| integer(value, 1..=4_194_304))
            .and_then(|pids| u32::try_from(pids).ok());
        Some(Self {
            cpu,
            memory,
            pids: pids.unwrap_or(Self::default().pids),
        })
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "cpu": self.cpu.map(|cpu| cpu.to_string()),
            "memory": self.memory.map(|memory| memory.to_string()),
            "pids": self.pids,
        })
    }
}

fn cpu(value: &Value) -> Result<CpuMillis, String> {
    let cpu = amount(value)?;
    if (CPU_MILLIS_MIN..=CPU_MILLIS_MAX).contains(&cpu) {
        Ok(cpu)
    } else {
        Err("must be from 0.01 to 1024 cores".to_owned())
    }
}

fn memory(value: &Value) -> Result<ByteCount, String> {
    let memory = amount(value)?;
    if (MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(&memory) {
        Ok(memory)
    } else {
        Err("must be at least 6m; with less, not even the runtime can start".to_owned())
    }
}
