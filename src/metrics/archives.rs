//! Counts of archives, and of the volumes that there are.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::Metrics;

/// Volumes whose sizes are shown.
const VOLUMES_SHOWN_MAX: usize = 1000;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfArchive {
    direction: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVolume {
    volume: String,
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
    volume_used: Family<OfVolume, Gauge>,
    volume_limit: Family<OfVolume, Gauge>,
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
        for direction in ["read", "written"] {
            drop(self.bytes.get_or_create(&OfDirection { direction }));
            for result in ["done", "failed"] {
                drop(self.ended.get_or_create(&OfArchive { direction, result }));
            }
        }
        let volumes = "Volumes with names that are on the node";
        all.register("volumes", volumes, self.volumes.clone());
        let used = "Use of the disk by each volume that has a size, and that a container names";
        all.register_with_unit("volume_used", used, Unit::Bytes, self.volume_used.clone());
        let limit = "Size of each volume that has one, and that a container names";
        all.register_with_unit(
            "volume_limit",
            limit,
            Unit::Bytes,
            self.volume_limit.clone(),
        );
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

    /// Shows use and size of the volumes that have one: name, bytes used, bytes at most.
    pub fn show_volume_sizes<'v>(&self, volumes: impl Iterator<Item = (&'v str, u64, u64)>) {
        let (used, limit) = (&self.archives.volume_used, &self.archives.volume_limit);
        used.clear();
        limit.clear();
        for (volume, used_bytes, limit_bytes) in volumes.take(VOLUMES_SHOWN_MAX) {
            let set = |gauges: &Family<OfVolume, Gauge>, bytes: u64| {
                let volume = volume.to_owned();
                let gauge = gauges.get_or_create(&OfVolume { volume });
                gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
            };
            set(used, used_bytes);
            set(limit, limit_bytes);
        }
    }
}
