//! OCI spec of an instance, from its record, its image, and what the node gives it.

use std::sync::Arc;

use state::desired::Record;

use super::Instances;
use super::given::Opened;
use crate::oci::{self, ImageFacts, Placement};
use crate::runtime::RuntimeError;
use crate::runtime::containerd::image::LocalImage;
use crate::runtime::engine::Sandbox;

impl Instances {
    /// OCI spec of the record's instance, and the image that it is made of.
    pub(super) async fn oci_spec(
        &self,
        record: &Record,
        sandbox: &Sandbox,
        values: Option<&Opened>,
    ) -> Result<(Arc<LocalImage>, Vec<u8>), RuntimeError> {
        let digest = record.image_digest.as_deref().unwrap_or_default();
        let image = self.images.local(&record.spec.image, digest).await?;
        let facts = self.facts(record, &image).await?;
        let place = Placement {
            netns: sandbox.netns.as_deref(),
            cgroups_path: &self.cgroups_path(record.instance()),
            mounts: &sandbox.mounts,
            volumes: &sandbox.volumes,
            sysfs: &sandbox.sysfs,
            ids: self.own_ids(record, &facts).await?,
            devices: &self.devices(record).await?,
            given: values.map(Opened::place),
        };
        let (host, confinement) = (&self.host, &self.config.confinement);
        let spec = oci::spec(&image.config, record, &facts, host, confinement, place)?;
        Ok((image, spec))
    }

    /// User and volumes of a container of this image.
    pub(super) async fn facts(
        &self,
        record: &Record,
        image: &LocalImage,
    ) -> Result<ImageFacts, RuntimeError> {
        let wanted = oci::wanted_user(&image.config, record);
        let (volumes, parent) = (&image.config.volumes, &image.top_chain_id);
        self.lookup
            .lookup(
                &self.client,
                (&wanted, &record.spec.groups),
                volumes,
                parent,
                &self.config.run_dir,
            )
            .await
    }
}
