//! Image section: when the registry is asked for the image of a container.

use serde::{Deserialize, Serialize};

use super::fields::Fields;

/// Pull policy: when the registry is asked for the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImagePull {
    /// Pull only when the node lacks the image.
    #[default]
    IfNotPresent,
    /// Pull once for each accepted change of the spec and each restart that is asked for, so that a
    /// moved tag is followed then.
    Always,
    /// Never pull: the image must be on the node.
    Never,
}

impl ImagePull {
    pub(super) fn read(top: &mut Fields<'_>) -> Option<Self> {
        let policies = [
            ("if-not-present", Self::IfNotPresent),
            ("always", Self::Always),
            ("never", Self::Never),
        ];
        top.choice("image_pull", &policies)
    }
}
