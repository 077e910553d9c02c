//! Counts of archives, and of the volumes that there are.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfArchive {
    direction: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDirection {
    direction: &'static str,
}

/// Counts of archives.
#[derive(Clone, Debug, Default)]
pub(super) struct ArchiveCounts {
    ended: Family<OfArchive, Counter>,
    bytes: Family<OfDirection, Counter>,
    volumes: Gauge,
}

impl ArchiveCounts {
    pub(super) fn register(&self, all: &mut Registry) {
        all.register(
            "archives",
            "Archives of volumes and containers that were read from the node or written to it, by how they ended",
            self.ended.clone(),
        );
        all.register_with_unit(
            "archived",
            "Content of the files in archives, without their holes, read from the node or written to it",
            Unit::Bytes,
            self.bytes.clone(),
        );
        let volumes = "Volumes with names that are on the node";
        all.register("volumes", volumes, self.volumes.clone());
    }
}

impl Metrics {
    /// Counts the end of an archive that was read from the node or written to it, and its bytes.
    pub fn archived(&self, direction: &'static str, result: &'static str, bytes: u64) {
        let counts = &self.archives;
        let of = OfArchive { direction, result };
        counts.ended.get_or_create(&of).inc();
        let of = OfDirection { direction };
        counts.bytes.get_or_create(&of).inc_by(bytes);
    }

    /// Shows how many volumes with names there are.
    pub fn show_volumes(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.archives.volumes.set(count);
    }
}
