//! Devices of this host that containers are given: device nodes, and what the node's CDI files name.
//! It knows no containerd; what it finds, `oci` writes into a container's spec.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use state::failure::Failure;
use state::reason::Reason;
use state::spec::Device;
use state::spec::devices::DeviceNode;

mod cdi;

/// Directories of CDI files; what a later one names counts more (CDI `SPEC.md`).
const CDI_DIRS: [&str; 2] = ["/etc/cdi", "/run/cdi"];

/// Everything that a container is given with its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceGrant {
    /// Device nodes.
    pub(crate) nodes: Vec<GrantedNode>,
    /// Mounts of the host's files, in their order.
    pub(crate) mounts: Vec<GrantedMount>,
    /// Variables as `KEY=VALUE`, in place of those of the same name.
    pub(crate) environment: Vec<String>,
    /// Programs of the host that the OCI runtime runs around the container's life.
    pub(crate) hooks: Vec<GrantedHook>,
    /// Groups of the container's process.
    pub(crate) groups: Vec<u32>,
}

impl DeviceGrant {
    /// No devices.
    pub(crate) const NONE: Self = Self {
        nodes: Vec::new(),
        mounts: Vec::new(),
        environment: Vec::new(),
        hooks: Vec::new(),
        groups: Vec::new(),
    };
}

/// Device node that a container is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GrantedNode {
    /// Path on the host.
    pub(crate) host: String,
    /// Path in the container.
    pub(crate) container: String,
    /// Kind of the device.
    pub(crate) kind: NodeKind,
    /// Numbers of the device, major and minor.
    pub(crate) number: (u32, u32),
    /// Permissions of the node.
    pub(crate) mode: u32,
    /// User and group of the node.
    pub(crate) owner: (u32, u32),
    /// Access to it, of `r`, `w` and `m`.
    pub(crate) access: String,
}

/// Kind of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeKind {
    /// Device of characters.
    Char,
    /// Device of blocks.
    Block,
}

impl NodeKind {
    /// Letter of the kind in an OCI spec.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Char => "c",
            Self::Block => "b",
        }
    }
}

/// Mount of a file or directory of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GrantedMount {
    /// Path on the host.
    pub(crate) source: String,
    /// Path in the container.
    pub(crate) destination: String,
    /// Type of the file system; `bind`: the host's own files.
    pub(crate) kind: String,
    /// Options as of mount(8).
    pub(crate) options: Vec<String>,
}

/// Program that the OCI runtime runs on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GrantedHook {
    /// Time of the container's life, as in `createRuntime` (OCI runtime-spec, `config.md`).
    pub(crate) when: String,
    /// Path of the program.
    pub(crate) path: String,
    /// All of its arguments, its name first.
    pub(crate) args: Vec<String>,
    /// Environment of the program.
    pub(crate) environment: Vec<String>,
    /// Time for it, in seconds. `None`: any.
    pub(crate) timeout_s: Option<i64>,
}

/// Devices of this host that a container asks for. Blocks.
///
/// # Errors
/// [`Reason::DeviceMissing`]: every device that is not there, or that cannot be given.
pub(crate) fn find(asked: &[Device]) -> Result<DeviceGrant, Failure> {
    find_in(asked, &CDI_DIRS.map(PathBuf::from))
}

fn find_in(asked: &[Device], cdi_dirs: &[PathBuf]) -> Result<DeviceGrant, Failure> {
    let (mut grant, mut faults, mut names) = (DeviceGrant::NONE, Vec::new(), Vec::new());
    for device in asked {
        match device {
            Device::Node(node) => match nodes(node) {
                Ok(nodes) => grant.nodes.extend(nodes),
                Err(fault) => faults.push(fault),
            },
            Device::Cdi(name) => names.push(name),
        }
    }
    if !names.is_empty() {
        match cdi::Registry::read(cdi_dirs).edits(&names) {
            Ok(edits) => {
                for edit in edits {
                    if let Err(fault) = edit.add_to(&mut grant) {
                        faults.push(fault);
                    }
                }
            }
            Err(more) => faults.extend(more),
        }
    }
    if faults.is_empty() {
        Ok(grant)
    } else {
        Err(Failure::new(Reason::DeviceMissing, faults.join("; ")))
    }
}

/// Most nodes of one directory.
const NODES_MAX: usize = 64;

/// The node that is asked for, or all nodes of a directory.
fn nodes(asked: &DeviceNode) -> Result<Vec<GrantedNode>, String> {
    let fault = |error: io::Error| {
        if error.kind() == io::ErrorKind::NotFound {
            let host = &asked.host;
            return format!("this host has no {host}; connect the device, or load its driver");
        }
        format!("{}: {error}", asked.host)
    };
    if !fs::metadata(&asked.host).map_err(fault)?.is_dir() {
        return node(&asked.host, &asked.container, &asked.access)
            .map(|node| vec![node])
            .map_err(fault);
    }
    let mut entries = fs::read_dir(&asked.host)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(fault)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut found = Vec::new();
    for entry in &entries {
        let kind = entry.file_type().map_err(fault)?;
        if kind.is_char_device() || kind.is_block_device() {
            let name = entry.file_name();
            let below = |directory: &str| Path::new(directory).join(&name).display().to_string();
            found.push(
                node(&below(&asked.host), &below(&asked.container), &asked.access)
                    .map_err(fault)?,
            );
        }
    }
    match found.len() {
        0 => Err(format!(
            "{} is a directory without device nodes",
            asked.host
        )),
        1..=NODES_MAX => Ok(found),
        more => Err(format!(
            "{} holds {more} device nodes, and {NODES_MAX} may be given at once; name those that are \
             needed",
            asked.host
        )),
    }
}

/// Device node at a path of the host; links are followed.
fn node(host: &str, container: &str, access: &str) -> io::Result<GrantedNode> {
    let found = fs::metadata(host)?;
    let kind = if found.file_type().is_char_device() {
        NodeKind::Char
    } else if found.file_type().is_block_device() {
        NodeKind::Block
    } else {
        return Err(io::Error::other("it is no device node"));
    };
    let number = found.rdev();
    Ok(GrantedNode {
        host: host.to_owned(),
        container: container.to_owned(),
        kind,
        number: (rustix::fs::major(number), rustix::fs::minor(number)),
        mode: found.mode() & 0o777,
        owner: (found.uid(), found.gid()),
        access: access.to_owned(),
    })
}

#[cfg(test)]
mod tests;
