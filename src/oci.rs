//! OCI runtime spec of a container, from its image, its record and facts about the host. Pure, and
//! without containerd.
//!
//! Source: opencontainers/runtime-spec 1.0.2. JSON is written directly: no two specs are ever
//! hashed or compared, and a builder brings defaults (a shell as command, a host name) that a node
//! must not have.

use std::path::Path;

use oci_spec::image::ImageConfiguration;
use serde_json::json;
use state::desired::Record;
use state::failure::Failure;
use state::reason::Reason;
use state::spec::Signal;

use host::Host;
use mounts::Mount;
use user::User;

pub(crate) mod descriptor;
pub(crate) mod host;
pub(crate) mod mounts;
mod namespaces;
mod process;
mod resources;
mod seccomp;
pub(crate) mod user;

/// Place on the host that a container is put into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement<'a> {
    /// File that names the network namespace.
    pub(crate) netns: &'a Path,
    /// Control group, absolute, as in `/chas/0123456789ab-1`.
    pub(crate) cgroups_path: &'a str,
    /// Files and directories of the host to be seen in the container, mounted in this order after
    /// the kernel's own.
    pub(crate) mounts: &'a [Mount],
}

/// User to run as, as asked or as the image says; to be resolved by [`user::resolve`].
pub(crate) fn wanted_user(image: &ImageConfiguration, record: &Record) -> String {
    let own = image
        .config()
        .as_ref()
        .and_then(|config| config.user().clone());
    record.spec.user.clone().or(own).unwrap_or_default()
}

/// Signal that the image wants to be stopped with.
pub(crate) fn stop_signal(image: &ImageConfiguration) -> Option<Signal> {
    image
        .config()
        .as_ref()
        .and_then(|config| config.stop_signal().as_ref())
        .and_then(|signal| signal.parse().ok())
}

/// OCI runtime spec as JSON.
///
/// # Errors
/// [`Reason::NoCommand`]: neither the image nor the record says what to run.
pub(crate) fn spec(
    image: &ImageConfiguration,
    record: &Record,
    user: &User,
    host: &Host,
    place: Placement<'_>,
) -> Result<Vec<u8>, Failure> {
    let capabilities = &record.spec.security.capabilities.0;
    let spec = json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": record.spec.security.read_only_rootfs},
        "hostname": record.name.as_str(),
        "process": process::process(image, record, user, host)?,
        "mounts": mounts::mounts(place.mounts),
        "linux": {
            "namespaces": namespaces::namespaces(place.netns, host.cgroup),
            "cgroupsPath": place.cgroups_path,
            "resources": resources::resources(&record.spec.resources, host.cgroup),
            "seccomp": seccomp::profile(host.machine, capabilities),
            "maskedPaths": namespaces::MASKED,
            "readonlyPaths": namespaces::READ_ONLY,
            // A user that is not root may bind port 80, and ping, in a network that is all its own.
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"},
        },
    });
    serde_json::to_vec(&spec).map_err(|error| Failure::new(Reason::CreateFailed, error.to_string()))
}

#[cfg(test)]
pub(crate) mod tests;
