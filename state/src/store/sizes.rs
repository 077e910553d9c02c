//! Sizes of volumes: containers that share a volume and say its size say the same.

use super::StoreError;
use super::batch::Batch;
use crate::id::ContainerId;
use crate::spec::parse::Deploy;

impl Batch<'_> {
    /// Checks that no other container says another size of a volume. One that the same request may
    /// still change is not asked: it is checked against this one then.
    pub(super) fn check_sizes(
        &self,
        own: Option<ContainerId>,
        deploy: &Deploy,
    ) -> Result<(), StoreError> {
        let records = self.desired.records().filter(|record| {
            Some(record.id) != own && !record.removing && !self.retaken.contains(&record.name)
        });
        for mount in &deploy.spec.volumes {
            let Some((volume, size)) = mount.volume().zip(mount.size) else {
                continue;
            };
            let mut others = records.clone().filter_map(|record| {
                let mut mounts = record.spec.volumes.iter();
                let same =
                    mounts.find(|other| other.volume() == Some(volume) && other.size.is_some());
                Some((&record.name, same?.size?))
            });
            if let Some((by, other)) = others.find(|(_, other)| *other != size) {
                return Err(StoreError::VolumeSize {
                    volume: volume.clone(),
                    size,
                    by: by.clone(),
                    other,
                });
            }
        }
        Ok(())
    }
}
