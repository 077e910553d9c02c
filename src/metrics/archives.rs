//! Counts of archives, and of the volumes that there are.

use std::sync::{Arc, Mutex};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::Metrics;
use crate::lock::lock;

/// Volumes whose sizes are shown.
const VOLUMES_SHOWN_MAX: usize = 1000;

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
    sizes: Arc<Mutex<Arc<[VolumeNumbers]>>>,
}

/// Numbers of a volume that has a size, and that a container names.
#[derive(Clone, Debug, Default)]
pub(crate) struct VolumeNumbers {
    /// Name of the volume.
    pub(crate) volume: String,
    /// Bytes that it has on the disk.
    pub(crate) used: u64,
    /// Bytes that it may have.
    pub(crate) limit: u64,
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

    /// Keeps use and size of the volumes that have one, for scrapes.
    pub(crate) fn show_volume_sizes(&self, volumes: impl Iterator<Item = VolumeNumbers>) {
        *lock(&self.archives.sizes) = volumes.take(VOLUMES_SHOWN_MAX).collect();
    }

    /// Use and size of the volumes that have one, as of the last look.
    pub(crate) fn volume_sizes(&self) -> Arc<[VolumeNumbers]> {
        Arc::clone(&lock(&self.archives.sizes))
    }
}
