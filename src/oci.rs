//! OCI runtime spec of a container, from its image, its record and facts about the host. Pure, and
//! without containerd.
//!
//! Source: opencontainers/runtime-spec 1.0.2. JSON is written directly: no two specs are ever
//! hashed or compared, and a builder brings defaults (a shell as command, a host name) that a node
//! must not have.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::json;
use state::desired::Record;
use state::digest::canonical;
use state::failure::Failure;
use state::reason::Reason;
use state::spec::network::NetworkMode;
use state::spec::{Signal, Spec, sysctls};

use crate::devices::DeviceGrant;
use confinement::Confinement;
use host::Host;
use host_ids::HostIds;
use image::ImageConfig;
use mounts::Mount;
pub(crate) use process::working_dir;
use user::User;
use volumes::{ImageVolume, VolumeDirectory};

pub(crate) mod confinement;
pub(crate) mod descriptor;
mod devices;
pub(crate) mod exec;
pub(crate) mod host;
pub(crate) mod host_ids;
pub(crate) mod image;
pub(crate) mod limits;
mod lsm;
pub(crate) mod mounts;
mod namespaces;
mod process;
mod resources;
mod seccomp;
pub(crate) mod user;
pub(crate) mod volumes;

/// Place on the host that a container is put into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement<'a> {
    /// File that names the network namespace. `None`: it is the host's.
    pub(crate) netns: Option<&'a Path>,
    /// Control group, absolute, as in `/chas/0123456789ab-1`.
    pub(crate) cgroups_path: &'a str,
    /// Files and directories of the host to be seen in the container, mounted in this order after
    /// the kernel's own.
    pub(crate) mounts: &'a [Mount],
    /// Directories of the host that are the container's volumes.
    pub(crate) volumes: &'a [VolumeDirectory],
    /// File system of the kernel's objects (sysfs), to be seen by a container that has ids of its
    /// own: it may mount none in a network that is not made by it.
    pub(crate) sysfs: &'a Path,
    /// Ids of the container's own. `None`: they are the host's.
    pub(crate) ids: Option<HostIds>,
    /// Devices of the host that it is given.
    pub(crate) devices: &'a DeviceGrant,
    /// Values that the container is given beside its spec. `None`: none.
    pub(crate) given: Option<Given<'a>>,
}

/// Values that a container is given beside its spec.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    /// Files and directories of the host, each at its path in the container, to be read only.
    pub(crate) mounts: &'a [(PathBuf, String)],
    /// Words of the program in the container that sets its variables, before those of its own program.
    /// Empty: it has no variables of its own.
    pub(crate) init: &'a [String],
    /// Variables.
    pub(crate) variables: &'a BTreeMap<String, String>,
}

impl fmt::Debug for Given<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.variables.keys().collect();
        f.debug_tuple("Given").field(&names).finish()
    }
}

/// Switches of the kernel by which a user that is not root may bind port 80, and ping, in a network
/// that is all its own.
const NETWORK_SYSCTLS: [(&str, &str); 2] = [
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
];

/// Sysctls of the network of a container with this spec: the node's, and those asked for. None where it
/// is the host's.
pub(crate) fn network_sysctls(spec: &Spec) -> BTreeMap<String, String> {
    if spec.network.mode == NetworkMode::Host {
        return BTreeMap::new();
    }
    let nodes = NETWORK_SYSCTLS.iter();
    let nodes = nodes.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    nodes.chain(asked_network_sysctls(spec)).collect()
}

/// Sysctls of the network that a spec asks for.
pub(crate) fn asked_network_sysctls(spec: &Spec) -> impl Iterator<Item = (String, String)> {
    let asked = spec.sysctls.iter();
    let of_network = asked.filter(|(name, _)| sysctls::is_of_network(name));
    of_network.map(|(name, value)| (name.clone(), value.clone()))
}

/// Facts of an image's files that its containers depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageFacts {
    /// Identity of the process.
    pub(crate) user: User,
    /// Volumes of the image.
    pub(crate) volumes: Vec<ImageVolume>,
    /// Fault for which the image's files were not looked at, so that its volumes and the user's home
    /// are not known.
    pub(crate) unread: Option<String>,
}

/// User to run as, as asked or as the image says; to be resolved by [`user::resolve`].
pub(crate) fn wanted_user(image: &ImageConfig, record: &Record) -> String {
    let asked = record.spec.user.clone();
    asked.unwrap_or_else(|| image.user.clone())
}

/// Signal that the image wants to be stopped with.
///
/// # Errors
/// [`Reason::ImageInvalid`]: it is none, and the record asks for no other.
pub(crate) fn stop_signal(image: &ImageConfig, record: &Record) -> Result<Option<Signal>, Failure> {
    if image.stop_signal.is_empty() {
        return Ok(None);
    }
    match image.stop_signal.parse() {
        Ok(signal) => Ok(Some(signal)),
        Err(_) if record.spec.stop.signal.is_some() => Ok(None),
        Err(error) => Err(Failure::new(
            Reason::ImageInvalid,
            format!(
                "the image's STOPSIGNAL cannot be sent: {error}; or give \"stop.signal\" in the deploy body"
            ),
        )),
    }
}

/// OCI runtime spec as JSON.
///
/// # Errors
/// [`Reason::NoCommand`]: neither the image nor the record says what to run.
/// [`Reason::CommandNotExecutable`]: what they say is longer than the kernel takes.
pub(crate) fn spec(
    image: &ImageConfig,
    record: &Record,
    facts: &ImageFacts,
    host: &Host,
    confinement: &Confinement,
    place: Placement<'_>,
) -> Result<Vec<u8>, Failure> {
    let capabilities = confinement.granted(&record.spec.security.capabilities);
    let read_only = record.spec.security.read_only_rootfs;
    let mounted = volumes::mounts(record, &place);
    let mut spec = json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": read_only},
        "hostname": process::hostname(record),
        "process": process::process(image, record, &facts.user, (host, &capabilities), place.given)?,
        "mounts": mounts::mounts(mounted, record.spec.shm_size, &place),
        "linux": {
            "namespaces": namespaces::namespaces(&place, host.cgroup),
            "cgroupsPath": place.cgroups_path,
            "resources": resources::resources(&record.spec.resources, host.cgroup),
            "seccomp": seccomp::profile(host.machine, &capabilities, confinement.socketcall),
            "maskedPaths": namespaces::MASKED,
            "readonlyPaths": namespaces::READ_ONLY,
        },
    });
    if let Some(ids) = place.ids {
        spec["linux"]["uidMappings"] = ids.mappings();
        spec["linux"]["gidMappings"] = ids.mappings();
    } else {
        // A container with ids of its own may not set them: the network does it in advance.
        spec["linux"]["sysctl"] = json!(network_sysctls(&record.spec));
    }
    if let Some(made) = volumes::annotations(record, &place) {
        spec["annotations"] = made;
    }
    devices::give(&mut spec, place.devices, place.ids.is_some());
    Ok(canonical(&spec).into_bytes())
}

#[cfg(test)]
pub(crate) mod tests;
