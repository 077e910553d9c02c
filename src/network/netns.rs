//! Named network namespaces (netns): one file for each instance, kept alive by a bind mount. Links
//! inside one are the driver's.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::statfs;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use state::id::InstanceName;

use super::{NetworkError, Part};
use crate::mounts::on_host;

/// Netns of the thread that opens this path.
pub(super) const OWN: &str = "/proc/thread-self/ns/net";

/// File system type of an open netns, `NSFS_MAGIC` of `linux/magic.h`.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Most mounts on top of each other at one netns file. One is the rule; more come from a person's
/// hand.
const STACKED_MOUNTS_MAX: u32 = 16;

/// Moves the calling thread into the netns named by `file`, and makes that netns first if there is
/// none.
///
/// Only for a thread of [`on_own_thread`](super::threads::on_own_thread).
pub(super) fn enter(file: &Path) -> io::Result<()> {
    if exists(file)? {
        return enter_existing(file);
    }
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    // A crash between the next steps leaves a file without a mount; it is used again.
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(file)?;
    unshare_network()?;
    on_host(|| Ok(mount_bind(OWN, file)?))
}

/// Moves the calling thread into the netns named by `file`, which must be one.
///
/// Only for a thread of [`on_own_thread`](super::threads::on_own_thread).
pub(super) fn enter_existing(file: &Path) -> io::Result<()> {
    let netns = File::open(file)?;
    Ok(move_into_link_name_space(
        netns.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
}

#[allow(
    deprecated,
    reason = "the other form is `unsafe` for the sake of CLONE_FILES alone, which is not used here"
)]
fn unshare_network() -> rustix::io::Result<()> {
    rustix::thread::unshare(UnshareFlags::NEWNET)
}

/// Whether `file` exists and has a netns mounted on it.
pub(super) fn exists(file: &Path) -> io::Result<bool> {
    match statfs(file) {
        Ok(found) => Ok(found.f_type == NSFS_MAGIC),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes a netns, mount and file. The kernel ends it, and the veth pair in it, soon after the
/// last OS process in it.
///
/// Answers whether there was anything to remove.
pub(super) fn remove(file: &Path) -> io::Result<bool> {
    for _ in 0..STACKED_MOUNTS_MAX {
        if !exists(file)? {
            break;
        }
        on_host(|| Ok(unmount(file, UnmountFlags::DETACH)?))?;
    }
    match fs::remove_file(file) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Instances that have an entry in `dir`. An entry with another name is not the agent's and is
/// passed over.
pub(super) fn instances_in(dir: &Path) -> io::Result<Vec<InstanceName>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut instances = Vec::new();
    for entry in entries {
        if let Some(instance) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        {
            instances.push(instance);
        }
    }
    Ok(instances)
}

/// Error of a call in this room, told as one about a netns.
pub(super) fn failed(what: impl Into<String>, source: io::Error) -> NetworkError {
    NetworkError::failed(what, source).of(Part::Netns)
}
