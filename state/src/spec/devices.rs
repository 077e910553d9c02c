//! Devices section: device nodes of the host, and what the node's CDI files name.
//!
//! Source: Container Device Interface 1.0, `SPEC.md` (names of devices).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::fields::{Fields, list_of, parsed};

/// Devices of one container.
const ENTRIES_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 256;
/// Directory of all device nodes.
const DEV: &str = "/dev/";
/// Entries of a container's own `/dev`, which are the same everywhere.
const OWN: [&str; 16] = [
    "console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr",
    "stdin", "stdout", "tty", "urandom", "zero",
];
/// Everything that may be done with a device: read, write, make its node.
const ACCESS_ALL: &str = "rwm";

/// Device that a container is given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// Device node of the host: `HOST[:CONTAINER[:ACCESS]]`.
    Node(DeviceNode),
    /// Device of a CDI file of the node: `VENDOR/CLASS=NAME`.
    Cdi(CdiName),
}

/// Device node of the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNode {
    /// Path on the host, below `/dev`.
    pub host: String,
    /// Path in the container, below `/dev`.
    pub container: String,
    /// Access to it, of `r` (read), `w` (write) and `m` (make its node).
    pub access: String,
}

/// Name of a CDI device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CdiName {
    /// Vendor and class, as in `nvidia.com/gpu`: the kind of a CDI file.
    pub kind: String,
    /// Name within the kind.
    pub name: String,
}

/// Error of a text that names no device; it says what the text must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidDevice(&'static str);

impl Device {
    /// Name by which a policy permits it: the path on the host, or the CDI name.
    #[must_use]
    pub fn permitted_as(&self) -> String {
        match self {
            Self::Node(node) => node.host.clone(),
            Self::Cdi(name) => name.to_string(),
        }
    }
}

impl FromStr for Device {
    type Err = InvalidDevice;

    fn from_str(text: &str) -> Result<Self, InvalidDevice> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(InvalidDevice("has more than 256 bytes"));
        }
        if text.starts_with('/') {
            return node(text).map(Self::Node);
        }
        let parts = text.split_once('=').and_then(|(kind, name)| {
            let (vendor, class) = kind.split_once('/')?;
            let fits = is_word(vendor, ".-_") && is_word(class, "-_") && is_word(name, ".-_:");
            fits.then(|| (kind.to_owned(), name.to_owned()))
        });
        match parts {
            Some((kind, name)) => Ok(Self::Cdi(CdiName { kind, name })),
            None => Err(InvalidDevice(
                "must be a device node such as \"/dev/fuse\", or a CDI name such as \
                 \"vendor.com/gpu=0\"",
            )),
        }
    }
}

fn node(text: &str) -> Result<DeviceNode, InvalidDevice> {
    let mut parts = text.split(':');
    let host = parts.next().unwrap_or_default();
    let container = parts.next().unwrap_or(host);
    let access = parts.next().unwrap_or(ACCESS_ALL);
    let is_access = !access.is_empty()
        && access
            .bytes()
            .all(|byte| ACCESS_ALL.as_bytes().contains(&byte))
        && access.len() == access.bytes().collect::<BTreeSet<_>>().len();
    if parts.next().is_some() || !is_access {
        return Err(InvalidDevice(
            "must be HOST[:CONTAINER[:ACCESS]] with an access of the letters r, w and m, such as \
             \"/dev/ttyUSB0:/dev/modem:rw\"",
        ));
    }
    if !is_below_dev(host) || !is_below_dev(container) {
        return Err(InvalidDevice(
            "must name paths below /dev, without \".\", \"..\" and double slashes",
        ));
    }
    let first = container[DEV.len()..].split('/').next();
    if first.is_some_and(|first| OWN.contains(&first)) {
        return Err(InvalidDevice(
            "is a place in /dev that every container has of its own; name another in the container",
        ));
    }
    Ok(DeviceNode {
        host: host.to_owned(),
        container: container.to_owned(),
        access: access.to_owned(),
    })
}

fn is_below_dev(path: &str) -> bool {
    let Some(below) = path.strip_prefix(DEV) else {
        return false;
    };
    let is_part = |part: &str| !matches!(part, "" | "." | "..");
    below.split('/').all(is_part) && below.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_word(text: &str, more: &str) -> bool {
    let mut chars = text.chars();
    chars
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && chars.all(|c| c.is_ascii_alphanumeric() || more.contains(c))
}

stored_as_text!(Device);

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => node.fmt(f),
            Self::Cdi(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for DeviceNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            container,
            access,
        } = self;
        match (host == container, access == ACCESS_ALL) {
            (true, true) => f.write_str(host),
            (false, true) => write!(f, "{host}:{container}"),
            (_, false) => write!(f, "{host}:{container}:{access}"),
        }
    }
}

impl fmt::Display for CdiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.name)
    }
}

/// Reads the section: a list of texts, of which no two are for one place.
pub(super) fn read(top: &mut Fields<'_>) -> Option<Vec<Device>> {
    let items = top.read("devices", |value| {
        list_of(value, ENTRIES_MAX, parsed::<Device>)
    })?;
    let (mut devices, mut places) = (Vec::new(), BTreeSet::new());
    for (index, item) in items.iter().enumerate() {
        let field = format!("devices[{index}]");
        match parsed::<Device>(item) {
            Err(message) => top.fault(&field, &message),
            Ok(device) => {
                let place = match &device {
                    Device::Node(node) => node.container.clone(),
                    Device::Cdi(name) => name.to_string(),
                };
                if places.insert(place) {
                    devices.push(device);
                } else {
                    top.fault(&field, "is there already; no two devices have one place");
                }
            }
        }
    }
    Some(devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_a_node_below_dev_or_a_cdi_name_and_shown_as_it_is_read() {
        for (text, shown) in [
            ("/dev/fuse", Some("/dev/fuse")),
            ("/dev/fuse:/dev/fuse:rwm", Some("/dev/fuse")),
            ("/dev/sda:/dev/disk", Some("/dev/sda:/dev/disk")),
            ("/dev/sda:/dev/sda:r", Some("/dev/sda:/dev/sda:r")),
            ("/dev/null:/dev/void", Some("/dev/null:/dev/void")),
            ("nvidia.com/gpu=0", Some("nvidia.com/gpu=0")),
            (
                "v-1.example/net_card=a:b.c",
                Some("v-1.example/net_card=a:b.c"),
            ),
            ("/dev/null", None),
            ("/dev/sda:/dev/pts/7", None),
            ("/dev", None),
            ("/dev/", None),
            ("/etc/passwd", None),
            ("/dev/../etc/passwd", None),
            ("/dev//sda", None),
            ("/dev/sda:/etc/x", None),
            ("/dev/sda:/dev/x:", None),
            ("/dev/sda:/dev/x:rx", None),
            ("/dev/sda:/dev/x:rr", None),
            ("/dev/sda:/dev/x:r:w", None),
            ("gpu", None),
            ("vendor/gpu", None),
            ("vendor/gpu=", None),
            ("vendor/a/b=0", None),
            ("-vendor/gpu=0", None),
            ("", None),
        ] {
            let device = text.parse::<Device>().ok();
            assert_eq!(device.map(|d| d.to_string()).as_deref(), shown, "{text}");
        }
        let long = format!("/dev/{}", "x".repeat(256));
        assert!(long.parse::<Device>().is_err());
    }
}
