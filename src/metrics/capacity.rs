//! Gauges of what the node has, and what containers reserve of it.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use state::capacity::{Amounts, Capacity};

use super::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPart {
    part: &'static str,
}

/// Gauges by the parts of what there is.
#[derive(Clone, Debug, Default)]
pub(super) struct CapacityGauges {
    cpu: Family<OfPart, Gauge>,
    memory: Family<OfPart, Gauge>,
}

impl CapacityGauges {
    pub(super) fn register(&self, all: &mut Registry) {
        all.register(
            "capacity_cpu_millicores",
            "CPU time of the node in thousandths of a core: all of it, the system's part, what containers reserve, and what is free to be reserved",
            self.cpu.clone(),
        );
        all.register_with_unit(
            "capacity_memory",
            "Memory of the node, in the same parts",
            Unit::Bytes,
            self.memory.clone(),
        );
    }
}

impl Metrics {
    /// Shows what the node has, and what containers reserve of it.
    pub fn show_capacity(&self, capacity: Capacity, reserved: Amounts) {
        let parts = [
            ("total", capacity.total),
            ("system", capacity.system),
            ("reserved", reserved),
            ("free", capacity.free(reserved)),
        ];
        for (part, Amounts { cpu, memory }) in parts {
            let set = |gauges: &Family<OfPart, Gauge>, amount: u64| {
                let amount = i64::try_from(amount).unwrap_or(i64::MAX);
                gauges.get_or_create(&OfPart { part }).set(amount);
            };
            set(&self.capacity.cpu, cpu.0);
            set(&self.capacity.memory, memory.0);
        }
    }
}
