//! Volumes section: what is mounted into a container besides its image.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::fields::{Fields, amount, boolean, parsed, text};
use super::is_default;
use crate::id::{ContainerName, InvalidName};
use crate::quantity::ByteCount;
pub use host_path::{Propagation, host_path};

mod host_path;

/// Volumes of one container.
const VOLUMES_MAX: usize = 64;
/// Bytes of a path, in a container or on the host.
const PATH_BYTES_MAX: usize = 1024;
/// Least bytes that a volume can be bounded to.
const SIZE_MIN: ByteCount = ByteCount(1 << 20);
/// Permissions of a file system in memory that are not written out.
const TMPFS_MODE: u32 = 0o1777;

/// Directories in which a container finds the kernel's own file systems.
pub(super) const KERNEL_DIRECTORIES: [&str; 3] = ["/proc", "/sys", "/dev"];
/// Directory in a container of the values that the agent gives it.
const AGENT_DIRECTORY: &str = "/.chas";
/// Files that the agent keeps in each container.
pub(super) const AGENT_FILES: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];
/// Members that name a source, of which each volume has one.
const SOURCES: [&str; 3] = ["volume", "host_path", "tmpfs"];

/// Name of a volume: a DNS label, as a container's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(ContainerName);

impl VolumeName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for VolumeName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.parse().map(Self)
    }
}

stored_as_text!(VolumeName);

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Volume of a container: something that is mounted into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// Path in the container: absolute, without `.`, `..` and empty parts.
    pub path: String,
    /// Thing that is seen there.
    pub source: VolumeSource,
    /// Whether the container can only read it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// Most bytes that a volume of the node takes of its disk, whoever writes them. `None`: this
    /// container asks for no limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub size: Option<ByteCount>,
    /// Whether two generations of the container may write to it at once.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shared: bool,
}

/// Thing that a container sees as a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeSource {
    /// Volume of the node that lives as long as nobody deletes it.
    Volume(VolumeName),
    /// Directory or file of the host.
    HostPath {
        /// Path on the host: absolute, without `.`, `..` and empty parts.
        path: String,
        /// Way in which later mounts are seen.
        #[serde(default, skip_serializing_if = "is_default")]
        propagation: Propagation,
    },
    /// File system in the container's memory, empty at each start.
    Tmpfs {
        /// Most bytes that it holds.
        size: ByteCount,
        /// Permissions of its directory.
        mode: u32,
    },
}

impl VolumeMount {
    /// Name of the volume; `None`: it is none of the node's.
    #[must_use]
    pub const fn volume(&self) -> Option<&VolumeName> {
        match &self.source {
            VolumeSource::Volume(name) => Some(name),
            VolumeSource::Tmpfs { .. } | VolumeSource::HostPath { .. } => None,
        }
    }

    /// Part that an instance keeps for its life: all but the size.
    #[must_use]
    pub(super) fn fixed(&self) -> Self {
        Self {
            size: None,
            ..self.clone()
        }
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let named: Vec<_> = SOURCES.into_iter().filter(|key| fields.has(key)).collect();
        let volume = fields.read("volume", parsed::<VolumeName>);
        let in_memory = fields.read("tmpfs", amount::<ByteCount>);
        let path = fields.required("path", place);
        let read_only = fields.read("read_only", boolean).unwrap_or_default();
        let shared = fields.read("shared", boolean).unwrap_or_default();
        if shared && fields.has("tmpfs") {
            fields.fault(
                "shared",
                "each generation has a file system in memory of its own",
            );
        }
        let host_path = host_path::read(fields, read_only);
        match named[..] {
            [] => {
                let message = "is required, as the name of a volume, or \"host_path\" or \"tmpfs\"";
                fields.fault("volume", message);
            }
            [_, second, ..] => fields.fault(second, "another source is named beside it"),
            [_] => {}
        }
        let mode = read_mode(fields);
        let size = read_size(fields);
        if read_only && fields.has("tmpfs") {
            fields.fault("read_only", "an empty file system would stay empty");
        }
        if in_memory == Some(ByteCount(0)) {
            fields.fault("tmpfs", "must be more than 0, such as \"64m\"");
        }
        let mode = mode.unwrap_or(TMPFS_MODE);
        let source = match (volume, host_path, in_memory) {
            (Some(name), ..) => VolumeSource::Volume(name),
            (None, Some((path, propagation)), _) => VolumeSource::HostPath { path, propagation },
            (None, None, Some(size)) => VolumeSource::Tmpfs { size, mode },
            (None, None, None) => return None,
        };
        Some(Self {
            path: path?,
            source,
            read_only,
            size,
            shared,
        })
    }

    fn to_json(&self) -> Value {
        let mut shown = Map::new();
        let mut show = |key: &str, value| drop(shown.insert(key.to_owned(), value));
        match &self.source {
            VolumeSource::Volume(name) => {
                show("volume", json!(name));
                show("path", json!(self.path));
                show("read_only", json!(self.read_only));
                if let Some(size) = self.size {
                    show("size", json!(size.to_string()));
                }
                show("shared", json!(self.shared));
            }
            VolumeSource::HostPath { path, propagation } => {
                show("host_path", json!(path));
                show("path", json!(self.path));
                show("read_only", json!(self.read_only));
                show("shared", json!(self.shared));
                show("propagation", json!(propagation));
            }
            VolumeSource::Tmpfs { size, mode } => {
                show("tmpfs", json!(size.to_string()));
                show("path", json!(self.path));
                show("mode", json!(format!("{mode:04o}")));
            }
        }
        Value::Object(shown)
    }
}

/// Reads all volumes. No two are at one path, and no volume has two sizes.
pub(super) fn read(top: &mut Fields<'_>) -> Option<Vec<VolumeMount>> {
    let items = top.objects("volumes", VOLUMES_MAX, VolumeMount::read)?;
    let (mut volumes, mut paths) = (Vec::new(), BTreeSet::new());
    for (index, item) in items.iter().enumerate() {
        let Some(volume) = top.item("volumes", index, item, VolumeMount::read) else {
            continue;
        };
        if !paths.insert(volume.path.clone()) {
            let field = format!("volumes[{index}].path");
            top.fault(&field, "another volume is at this path");
        }
        if let Some(other) = other_size(&volumes, &volume) {
            let field = format!("volumes[{index}].size");
            let message = format!("the same volume is to have {other} above; it has one size");
            top.fault(&field, &message);
        }
        volumes.push(volume);
    }
    Some(volumes)
}

/// Size of a volume by a mount before this one, which says another.
fn other_size(before: &[VolumeMount], mount: &VolumeMount) -> Option<ByteCount> {
    let (volume, size) = (mount.volume()?, mount.size?);
    let same = before.iter().filter(|other| other.volume() == Some(volume));
    same.filter_map(|other| other.size)
        .find(|other| *other != size)
}

/// Most that a volume of the node takes of its disk.
fn read_size(fields: &mut Fields<'_>) -> Option<ByteCount> {
    let size = fields.read("size", amount::<ByteCount>);
    if !fields.has("size") {
        return None;
    }
    if !fields.has("volume") {
        let message = "is for \"volume\" only; the size of \"tmpfs\" is its value, and a path of \
                       the host has what its disk has";
        fields.fault("size", message);
    } else if size.is_some_and(|size| size < SIZE_MIN) {
        fields.fault("size", "must be 1m or more, such as \"10g\"");
    }
    size
}

pub(super) fn to_json(volumes: &[VolumeMount]) -> Value {
    volumes.iter().map(VolumeMount::to_json).collect()
}

/// Permissions, as octal digits; a number would be read as decimal by one and as octal by another.
fn read_mode(fields: &mut Fields<'_>) -> Option<u32> {
    let mode = fields.read("mode", |value| {
        let digits = text(value)?;
        let mode = u32::from_str_radix(digits, 8).ok();
        let is_octal = (3..=4).contains(&digits.len()) && !digits.starts_with('+');
        mode.filter(|_| is_octal)
            .ok_or_else(|| "must be 3 or 4 octal digits in quotes, such as \"1777\"".to_owned())
    });
    if fields.has("mode") && !fields.has("tmpfs") {
        let message = "is for \"tmpfs\" only; files of a volume have the permissions that the \
                       image or the container gives them";
        fields.fault("mode", message);
    }
    mode
}

/// Path in a container at which something can be mounted.
pub(super) fn place(value: &Value) -> Result<String, String> {
    let path = absolute(text(value)?)?;
    if path == "/" {
        return Err("must be below /, whose files are the image's".to_owned());
    }
    let is_below = |top: &&str| is_at_or_below(&path, top);
    if let Some(top) = KERNEL_DIRECTORIES.into_iter().find(is_below) {
        return Err(format!("must not be {top} or below, which is the kernel's"));
    }
    if is_below(&AGENT_DIRECTORY) {
        return Err(format!(
            "must not be {AGENT_DIRECTORY} or below, which is the agent's"
        ));
    }
    if AGENT_FILES.contains(&path.as_str()) {
        return Err("is a file that the agent keeps itself".to_owned());
    }
    Ok(path)
}

fn is_at_or_below(path: &str, top: &str) -> bool {
    let rest = path.strip_prefix(top);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Absolute path, without what can be left out.
fn absolute(path: &str) -> Result<String, String> {
    let is_short = path.len() <= PATH_BYTES_MAX;
    if !path.starts_with('/') || !is_short || path.bytes().any(|byte| byte < b' ') {
        return Err(format!(
            "must be an absolute path of {PATH_BYTES_MAX} bytes at most, without control characters"
        ));
    }
    let parts: Vec<_> = path
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    if parts.contains(&"..") {
        return Err("must not contain \"..\"".to_owned());
    }
    Ok(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests;
