//! Keys of volumes: by what a volume is found again.

use std::fmt;
use std::path::PathBuf;

use state::digest::sha256;
use state::id::ContainerId;
use state::spec::VolumeName;

/// Places below the state directory of the volumes of images.
pub(super) const OF_IMAGES: &str = "image-volumes";
/// Notes of the volumes of images.
pub(super) const OF_IMAGES_NOTES: &str = "image-volume-notes";

/// Key of a volume. Sorted, for those of one container are locked in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum VolumeKey {
    /// Volume that an operator gave a name.
    Named(VolumeName),
    /// Volume that an image says its containers have at a path: each has its own.
    OfImage(ContainerId, String),
}

impl VolumeKey {
    /// Directory of the volume below the state directory.
    pub(super) fn directory(&self) -> PathBuf {
        match self {
            Self::Named(name) => PathBuf::from("volumes").join(name.as_str()),
            Self::OfImage(id, path) => [OF_IMAGES, &id.to_string(), &word(path)].iter().collect(),
        }
    }

    /// Note of the volume below the state directory.
    pub(super) fn note(&self) -> PathBuf {
        match self {
            Self::Named(name) => PathBuf::from("volume-notes").join(format!("{name}.json")),
            Self::OfImage(id, path) => {
                let file = format!("{}.json", word(path));
                [OF_IMAGES_NOTES, &id.to_string(), &file].iter().collect()
            }
        }
    }
}

/// Name of a directory for a path, which may be longer than such a name.
fn word(path: &str) -> String {
    sha256(path.as_bytes())["sha256:".len()..][..16].to_owned()
}

impl fmt::Display for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "volume {name}"),
            Self::OfImage(id, path) => write!(f, "the image's volume {path} of {id}"),
        }
    }
}
