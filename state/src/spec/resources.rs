//! Resources section: the limits on what a container may use, and its share where all want more.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::{Fields, amount, integer};
use super::is_default;
use crate::quantity::{ByteCount, CpuMillis};

mod cpus;
mod disks;
mod swap;

pub use cpus::CpuList;
pub use disks::DiskLimits;
pub use swap::SwapLimit;

/// Smallest CPU limit: the kernel's smallest CFS quota is 1 ms in a period of 100 ms.
const CPU_MILLIS_MIN: CpuMillis = CpuMillis(10);
const CPU_MILLIS_MAX: CpuMillis = CpuMillis(1_024_000);
/// The memory below which runc itself does not start (2.5 to 3 MiB measured), doubled as docker
/// does.
const MEMORY_BYTES_MIN: ByteCount = ByteCount(6 << 20);
const MEMORY_BYTES_MAX: ByteCount = ByteCount(1 << 50);

/// Upper limits on what a container may use, and its weight among others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// CPU time per second, at least 10 thousandths. `None`: unlimited.
    pub cpu: Option<CpuMillis>,
    /// Memory without swap, at least 6 MiB. `None`: unlimited.
    pub memory: Option<ByteCount>,
    /// Processes and threads at once, 1 to 4194304.
    pub pids: u32,
    /// CPU time per second that it gets at least while others want more than there is; not above
    /// `cpu`. `None`: as `cpu`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cpu_reservation: Option<CpuMillis>,
    /// Memory that the kernel takes from it last, where the host has too little; not above
    /// `memory`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub memory_reservation: Option<ByteCount>,
    /// Swap beside `memory`, which it requires. `None`: none where memory is limited, else
    /// unlimited.
    #[serde(default, skip_serializing_if = "is_default")]
    pub swap: Option<SwapLimit>,
    /// Weight among all who want CPU time, 2 to 262144; a core has 1024. `None`: by
    /// `cpu_reservation`, else by `cpu`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cpu_shares: Option<u32>,
    /// CPUs of the host that it may run on. `None`: all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cpuset: Option<CpuList>,
    /// Limits on its disk operations.
    #[serde(default, skip_serializing_if = "is_default")]
    pub io: DiskLimits,
}

impl Default for Resources {
    /// Limits the number of processes only: enough for a busy server, far below the 32,768 of a
    /// small host.
    fn default() -> Self {
        Self {
            cpu: None,
            memory: None,
            pids: 4096,
            cpu_reservation: None,
            memory_reservation: None,
            swap: None,
            cpu_shares: None,
            cpuset: None,
            io: DiskLimits::default(),
        }
    }
}

impl Resources {
    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let cpu = fields.read("cpu", cpu);
        let memory = fields.read("memory", memory_size);
        let pids = fields
            .read("pids", |value| integer(value, 1..=4_194_304))
            .and_then(|pids| u32::try_from(pids).ok());
        let cpu_reservation = fields.read("cpu_reservation", cpu_time);
        let memory_reservation = fields.read("memory_reservation", memory_size);
        let swap = fields.read("swap", amount);
        let cpu_shares = fields
            .read("cpu_shares", |value| integer(value, 2..=262_144))
            .and_then(|shares| u32::try_from(shares).ok());
        let cpuset = fields.read("cpuset", amount);
        let io = fields.object("io", DiskLimits::read);
        not_above(fields, "cpu", cpu, cpu_reservation);
        not_above(fields, "memory", memory, memory_reservation);
        if swap.is_some() && !fields.has("memory") {
            fields.fault("swap", "requires memory: swap is limited beside it");
        }
        Some(Self {
            cpu,
            memory,
            pids: pids.unwrap_or(Self::default().pids),
            cpu_reservation,
            memory_reservation,
            swap,
            cpu_shares,
            cpuset,
            io: io.unwrap_or_default(),
        })
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "cpu": text(self.cpu.as_ref()),
            "memory": text(self.memory.as_ref()),
            "pids": self.pids,
            "cpu_reservation": text(self.cpu_reservation.as_ref()),
            "memory_reservation": text(self.memory_reservation.as_ref()),
            "swap": text(self.swap.as_ref()),
            "cpu_shares": self.cpu_shares,
            "cpuset": text(self.cpuset.as_ref()),
            "io": self.io.to_json(),
        })
    }
}

fn text<T: ToString>(value: Option<&T>) -> Option<String> {
    value.map(ToString::to_string)
}

/// Notes a reservation that is above its limit.
fn not_above<T: PartialOrd + std::fmt::Display>(
    fields: &mut Fields<'_>,
    limit_key: &str,
    limit: Option<T>,
    reserved: Option<T>,
) {
    if let (Some(limit), Some(reserved)) = (limit, reserved)
        && reserved > limit
    {
        fields.fault(
            &format!("{limit_key}_reservation"),
            &format!("{reserved} must not be above the limit {limit_key}, {limit}"),
        );
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

fn cpu_time(value: &Value) -> Result<CpuMillis, String> {
    let cpu = amount(value)?;
    if (CpuMillis(1)..=CPU_MILLIS_MAX).contains(&cpu) {
        Ok(cpu)
    } else {
        Err("must be from 0.001 to 1024 cores".to_owned())
    }
}

fn memory_size(value: &Value) -> Result<ByteCount, String> {
    let memory = amount(value)?;
    if (MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(&memory) {
        Ok(memory)
    } else {
        Err("must be at least 6m; with less, not even the runtime can start".to_owned())
    }
}
