//! Volumes and archives of the agent, as the API needs them.

use state::access::NameScope;
use state::id::ContainerId;
use state::spec::VolumeName;

use super::Refusal;
use crate::archive::{ArchiveDownload, ArchiveRefusal, ArchiveUpload};
use crate::view::VolumeView;

/// The agent's volumes, and what is in them and in containers.
pub(crate) trait NodeFiles: Send + Sync + 'static {
    /// Volumes with these names, by name; their content is not counted.
    fn volumes(
        &self,
        scope: &NameScope,
    ) -> impl Future<Output = Result<Vec<VolumeView>, Refusal>> + Send;

    /// A volume, its content counted.
    fn volume(&self, name: VolumeName) -> impl Future<Output = Result<VolumeView, Refusal>> + Send;

    /// Removes a volume that nobody uses. Of containers only those in `scope` are told of.
    fn remove_volume(
        &self,
        name: VolumeName,
        scope: &NameScope,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// The content of a volume.
    fn read_volume(
        &self,
        name: VolumeName,
        is_zstd: bool,
    ) -> impl Future<Output = Result<ArchiveDownload, ArchiveRefusal>> + Send;

    /// Things that a container has at a path.
    fn read_container(
        &self,
        id: ContainerId,
        path: String,
        is_zstd: bool,
    ) -> impl Future<Output = Result<ArchiveDownload, ArchiveRefusal>> + Send;

    /// Takes an archive into a directory of a container.
    fn write_container(
        &self,
        id: ContainerId,
        path: String,
        is_zstd: bool,
    ) -> impl Future<Output = Result<ArchiveUpload, ArchiveRefusal>> + Send;

    /// Takes an archive into a volume, which is made if there is none.
    fn write_volume(
        &self,
        name: VolumeName,
        is_zstd: bool,
    ) -> impl Future<Output = Result<ArchiveUpload, ArchiveRefusal>> + Send;
}
