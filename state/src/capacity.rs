//! Capacity of a node: what it has, what of it is the system's, and what containers reserve. A
//! container is taken in only where what it reserves fits beside the others; whatever was taken in
//! before stays, however much it is.

use std::fmt;

use serde::Serialize;

use crate::desired::Record;
use crate::quantity::{ByteCount, CpuMillis};
use crate::spec::Spec;

/// CPU time and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amounts {
    /// CPU time per second.
    pub cpu: CpuMillis,
    /// Memory.
    pub memory: ByteCount,
}

impl Amounts {
    /// Nothing of either.
    pub const NONE: Self = Self {
        cpu: CpuMillis(0),
        memory: ByteCount(0),
    };

    /// Amounts that a container with this spec reserves: those that its deploy body says. A limit
    /// alone reserves nothing.
    #[must_use]
    pub fn reserved_by(spec: &Spec) -> Self {
        Self {
            cpu: spec.resources.cpu_reservation.unwrap_or(CpuMillis(0)),
            memory: spec.resources.memory_reservation.unwrap_or(ByteCount(0)),
        }
    }

    /// Amounts that a container holds: while an update is under way, what either generation reserves,
    /// whichever is more.
    #[must_use]
    pub fn of_record(record: &Record) -> Self {
        let records = record.with_former();
        records.fold(Self::NONE, |most, record| {
            let own = Self::reserved_by(&record.spec);
            Self {
                cpu: most.cpu.max(own.cpu),
                memory: most.memory.max(own.memory),
            }
        })
    }

    /// Amounts that containers reserve together. One that is stopped may be started at any time, so
    /// it counts; one that is being removed, or has ended for good, does not.
    pub fn reserved<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let holding = records
            .into_iter()
            .filter(|record| !record.removing && record.finished.is_none());
        holding.fold(Self::NONE, |sum, record| {
            let own = Self::of_record(record);
            Self {
                cpu: CpuMillis(sum.cpu.0.saturating_add(own.cpu.0)),
                memory: ByteCount(sum.memory.0.saturating_add(own.memory.0)),
            }
        })
    }
}

/// Capacity of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Amounts that the node has.
    pub total: Amounts,
    /// The system's part of them, which no container can reserve.
    pub system: Amounts,
}

impl Capacity {
    /// More than containers can reserve.
    pub const ENDLESS: Self = Self {
        total: Amounts {
            cpu: CpuMillis(u64::MAX),
            memory: ByteCount(u64::MAX),
        },
        system: Amounts::NONE,
    };
}

/// Kinds of what a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResourceKind {
    Cpu,
    Memory,
}

/// Want of something that a container would reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    kind: ResourceKind,
    wanted: u64,
    total: u64,
    system: u64,
    others: u64,
}

impl Capacity {
    /// Amounts that are still free beside what is reserved.
    #[must_use]
    pub fn free(&self, reserved: Amounts) -> Amounts {
        let left = |total: u64, system: u64, reserved: u64| {
            total.saturating_sub(system).saturating_sub(reserved)
        };
        Amounts {
            cpu: CpuMillis(left(self.total.cpu.0, self.system.cpu.0, reserved.cpu.0)),
            memory: ByteCount(left(
                self.total.memory.0,
                self.system.memory.0,
                reserved.memory.0,
            )),
        }
    }

    /// Checks that what is `wanted` in place of what was reserved `before` fits beside the `others`.
    /// What takes no more than before passes also on a node that has too little.
    ///
    /// # Errors
    /// What is too little; not empty.
    pub fn admit(
        &self,
        wanted: Amounts,
        before: Amounts,
        others: Amounts,
    ) -> Result<(), Vec<Shortage>> {
        let free = self.free(others);
        let of = |wanted, total, system, others| Shortage {
            kind: ResourceKind::Cpu,
            wanted,
            total,
            system,
            others,
        };
        let (total, system) = (self.total, self.system);
        let cpu = of(wanted.cpu.0, total.cpu.0, system.cpu.0, others.cpu.0);
        let memory = Shortage {
            kind: ResourceKind::Memory,
            ..of(
                wanted.memory.0,
                total.memory.0,
                system.memory.0,
                others.memory.0,
            )
        };
        let short = [
            (wanted.cpu > before.cpu.max(free.cpu)).then_some(cpu),
            (wanted.memory > before.memory.max(free.memory)).then_some(memory),
        ];
        let short: Vec<_> = short.into_iter().flatten().collect();
        if short.is_empty() { Ok(()) } else { Err(short) }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (field, key, what) = match self.kind {
            ResourceKind::Cpu => ("cpu_reservation", "containers.system_cpu", "CPUs"),
            ResourceKind::Memory => (
                "memory_reservation",
                "containers.system_memory",
                "of memory",
            ),
        };
        let shown = |amount: u64| match self.kind {
            ResourceKind::Cpu => CpuMillis(amount).to_string(),
            ResourceKind::Memory => ByteCount(amount).to_string(),
        };
        let free = self
            .total
            .saturating_sub(self.system)
            .saturating_sub(self.others);
        write!(
            f,
            "resources.{field} {}: of the node's {} {what}, {} are the system's ({key}) and {} reserved by \
             other containers, so that {} are free",
            shown(self.wanted),
            shown(self.total),
            shown(self.system),
            shown(self.others),
            shown(free),
        )
    }
}

/// Capacity of a node, and the rest of it for containers that reserve some.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CapacityReport {
    /// CPU time, in cores.
    pub cpu: Shares<f64>,
    /// Memory, in bytes.
    pub memory: Shares<u64>,
}

/// Parts of one resource of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Shares<T> {
    /// All of it.
    pub total: T,
    /// The system's part, which no container can reserve.
    pub system: T,
    /// The part that containers reserve. It may be more than there is.
    pub reserved: T,
    /// The part that can still be reserved.
    pub free: T,
}

impl CapacityReport {
    /// The report on this capacity, of which so much is reserved.
    #[must_use]
    pub fn of(capacity: Capacity, reserved: Amounts) -> Self {
        let free = capacity.free(reserved);
        let cores = |amount: CpuMillis| amount.0 as f64 / 1000.0;
        Self {
            cpu: Shares {
                total: cores(capacity.total.cpu),
                system: cores(capacity.system.cpu),
                reserved: cores(reserved.cpu),
                free: cores(free.cpu),
            },
            memory: Shares {
                total: capacity.total.memory.0,
                system: capacity.system.memory.0,
                reserved: reserved.memory.0,
                free: free.memory.0,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::desired::tests::record;
    use crate::desired::{Finished, RunState};
    use crate::reason::Reason;

    fn amounts(cpu: u64, memory: u64) -> Amounts {
        Amounts {
            cpu: CpuMillis(cpu),
            memory: ByteCount(memory),
        }
    }

    #[test]
    fn what_is_to_run_or_may_be_started_is_reserved_and_limits_are_not() {
        let with = |resources| {
            let body = json!({"name": "a", "image": "x", "resources": resources});
            let spec = crate::spec::parse::deploy(&body).unwrap().spec;
            Record {
                spec,
                ..record("a", 1)
            }
        };
        let plain = with(json!({"cpu": "2", "memory": "1g", "cpu_reservation": "0.5",
            "memory_reservation": "100m"}));
        let stopped = Record {
            run: RunState::Stopped,
            ..plain.clone()
        };
        let removed = Record {
            removing: true,
            ..plain.clone()
        };
        let limited = with(json!({"cpu": "2", "memory": "1g"}));
        let all = [&plain, &stopped, &removed, &limited];
        assert_eq!(Amounts::reserved(all), amounts(1000, 200 << 20));
        let ended = Record {
            finished: Some(Finished {
                code: 0,
                reason: Reason::Completed,
                at_ms: 1,
            }),
            ..plain
        };
        assert_eq!(Amounts::reserved([&ended]), Amounts::NONE);
    }

    #[test]
    fn a_shortage_is_told_with_every_number() {
        let node = Capacity {
            total: amounts(4000, 8 << 30),
            system: amounts(200, 1 << 30),
        };
        let short = node.admit(
            amounts(2000, 3 << 30),
            Amounts::NONE,
            amounts(2500, 5 << 30),
        );
        let told: Vec<_> = short.unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "resources.cpu_reservation 2: of the node's 4 CPUs, 0.2 are the system's (containers.system_cpu) and \
                 2.5 reserved by other containers, so that 1.3 are free",
                "resources.memory_reservation 3g: of the node's 8g of memory, 1g are the system's \
                 (containers.system_memory) and 5g reserved by other containers, so that 2g are free",
            ]
        );
    }

    proptest! {
        #[test]
        fn whatever_is_admitted_fits_or_takes_no_more(
            total in 0_u64..9, system in 0_u64..9, others in 0_u64..9, before in 0_u64..9, wanted in 0_u64..9,
        ) {
            let node = Capacity { total: amounts(total, total), system: amounts(system, 0) };
            let admitted = node.admit(amounts(wanted, 0), amounts(before, 0), amounts(others, 0));
            prop_assert_eq!(admitted.is_ok(), wanted <= before || wanted + others + system <= total || wanted == 0);
        }
    }
}
