//! Paths of the host as volumes: which may be named, and how mounts pass between host and container.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{KERNEL_DIRECTORIES, absolute, is_at_or_below};
use crate::spec::fields::{Fields, text};

/// Way in which mounts that the host makes later are seen (mount_namespaces(7)), in docker's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// The container sees none of them.
    #[default]
    Rprivate,
    /// The container sees them, and the host none of the container's.
    Rslave,
}

impl Propagation {
    const WORDS: [(&str, Self); 2] = [("rprivate", Self::Rprivate), ("rslave", Self::Rslave)];

    /// The word for it, which is the option of mount(8) as well.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rprivate => "rprivate",
            Self::Rslave => "rslave",
        }
    }

    /// Whether the container sees what the host mounts later.
    #[must_use]
    pub const fn follows_host(self) -> bool {
        matches!(self, Self::Rslave)
    }
}

/// Path of the host that can be a volume.
///
/// # Errors
/// The fault, as a sentence without its subject.
pub fn host_path(path: &str) -> Result<String, String> {
    let path = absolute(path)?;
    if path == "/" {
        return Err("must be below /: nobody is given all of the host".to_owned());
    }
    let mut kernels = KERNEL_DIRECTORIES.into_iter();
    match kernels.find(|top| is_at_or_below(&path, top)) {
        Some("/dev") => Err("must not be /dev or below; see \"devices\"".to_owned()),
        Some(top) => Err(format!("must not be {top} or below, which is the kernel's")),
        None => Ok(path),
    }
}

/// Reads the members of a path of the host.
pub(super) fn read(fields: &mut Fields<'_>, read_only: bool) -> Option<(String, Propagation)> {
    let path = fields.read("host_path", |value: &Value| host_path(text(value)?));
    let propagation = fields.choice("propagation", &Propagation::WORDS);
    if propagation.is_some() && !fields.has("host_path") {
        let message = "is for \"host_path\" only; nothing is mounted below another volume";
        fields.fault("propagation", message);
    }
    if read_only && propagation == Some(Propagation::Rslave) {
        let message = "\"rslave\" would let the container write to what the host mounts later, \
                       which read_only cannot promise for; leave one of the two out";
        fields.fault("propagation", message);
    }
    Some((path?, propagation.unwrap_or_default()))
}
