//! Volumes of the node, as they are shown.

use std::time::SystemTime;

use state::id::ContainerName;
use state::spec::VolumeName;

/// Volume with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeView {
    /// Name.
    pub name: VolumeName,
    /// Containers that name it, by name.
    pub used_by: Vec<ContainerName>,
    /// Whether records cannot be read now, of which some may name it.
    pub is_use_unknown: bool,
    /// Time since which no container names it. `None`: one does, or nobody has looked yet.
    pub unused_since: Option<SystemTime>,
    /// Time at which it was made. `None`: it was found.
    pub made: Option<SystemTime>,
    /// Image whose files it began with. `None`: it began empty, or with an archive.
    pub image: Option<String>,
    /// Whether its content is not where it should be.
    pub is_missing: bool,
    /// Whether its directory is a mount of another disk.
    pub is_mount: bool,
    /// Most bytes that it takes of its disk. `None`: it has no limit but that.
    pub limit_bytes: Option<u64>,
    /// Content, where it was counted.
    pub content: Option<VolumeContentView>,
}

/// Content of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VolumeContentView {
    /// Bytes that it takes of its disk.
    pub bytes: u64,
    /// Files and directories.
    pub files: u64,
    /// Whether there is more, which would take too long to count.
    pub is_partial: bool,
}
