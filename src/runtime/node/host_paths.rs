//! Host paths of an instance: held for its launch, and what launches left of them.

use state::desired::Record;
use state::spec::VolumeSource;

use super::NodeRuntime;
use crate::host_paths::{MountedPaths, WantedPath};
use crate::network::NetworkDriver;
use crate::oci::volumes::{HostMount, VolumeDirectory};
use crate::runtime::engine::Engine;
use crate::runtime::{RuntimeError, Swept};

impl<E: Engine, N: NetworkDriver> NodeRuntime<E, N> {
    /// Holds the host's paths that a record asks for.
    pub(super) async fn hold_host_paths(
        &self,
        record: &Record,
    ) -> Result<MountedPaths, RuntimeError> {
        let wanted: Vec<_> = asked(record).map(|(wanted, _)| wanted).collect();
        if wanted.is_empty() {
            return Ok(MountedPaths::none(&self.host_paths));
        }
        let kept = self.engine.own_directories().await?;
        let held = self.host_paths.hold(record.instance(), wanted, kept);
        Ok(held.await?)
    }

    /// Looks whether the host's paths that a record asks for can be had, before anything is ended for
    /// it.
    pub(super) async fn look_at_host_paths(&self, record: &Record) -> Result<(), RuntimeError> {
        let wanted: Vec<_> = asked(record).map(|(wanted, _)| wanted).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let kept = self.engine.own_directories().await?;
        Ok(self.host_paths.look(wanted, kept).await?)
    }

    /// Takes away what launches that were cut off left on the host.
    pub(super) async fn sweep_host_paths(&self, swept: &mut Swept) {
        let instances = self.host_paths.sweep().await.into_iter();
        let lines = instances.map(|instance| format!("places of host paths of {instance}"));
        swept.removed.extend(lines);
    }
}

/// Host paths that are held, as volumes of the record's instance.
pub(super) fn volumes(record: &Record, held: &MountedPaths) -> Vec<VolumeDirectory> {
    let asked = asked(record).zip(held.places());
    let volume =
        |((wanted, destination), (source, is_file)): ((WantedPath, &str), _)| VolumeDirectory {
            source,
            destination: destination.to_owned(),
            read_only: wanted.read_only,
            of_host: Some(HostMount {
                propagation: wanted.propagation,
                is_file,
            }),
            forbidden: Vec::new(),
        };
    asked.map(volume).collect()
}

fn asked(record: &Record) -> impl Iterator<Item = (WantedPath, &str)> {
    record.spec.volumes.iter().filter_map(|volume| {
        let VolumeSource::HostPath { path, propagation } = &volume.source else {
            return None;
        };
        let wanted = WantedPath {
            path: path.clone(),
            propagation: *propagation,
            read_only: volume.read_only,
        };
        Some((wanted, volume.path.as_str()))
    })
}
