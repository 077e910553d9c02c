//! Named network namespaces (netns): one file a container, kept alive by a bind mount. What is wired into one is `veth`'s.

use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::statfs;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use state::id::InstanceName;
use tokio::sync::oneshot;

use super::NetworkError;

/// The netns of the thread that opens it.
pub(super) const OWN: &str = "/proc/thread-self/ns/net";

/// The file system type of an open netns, `NSFS_MAGIC` of `linux/magic.h`.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// How many mounts may lie upon another at one netns file. One is the rule; more come from somebody's hand.
const STACKED_MOUNTS_MAX: u32 = 16;

/// Runs `work` on a thread of its own, so that a change of netns ends with it and never reaches one of tokio's.
///
/// `work` runs to its end although the caller went away.
pub(super) async fn on_own_thread<T, W>(name: &str, work: W) -> Result<T, NetworkError>
where
    T: Send + 'static,
    W: FnOnce() -> Result<T, NetworkError> + Send + 'static,
{
    let (done, result) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        // Whoever asked may have gone away, and then nobody wants the result.
        .spawn(move || drop(done.send(work())))
        .map_err(|error| NetworkError::failed("cannot start a thread", error))?;
    result.await.map_err(|error| {
        NetworkError::failed("the thread that changes a netns ended early", error)
    })?
}

/// Runs a future on the calling thread alone.
pub(super) fn block_on<T>(
    work: impl Future<Output = Result<T, NetworkError>>,
) -> Result<T, NetworkError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| NetworkError::failed("cannot start an executor", error))?
        .block_on(work)
}

/// Moves the calling thread into the netns named by `file`, making it first if there is none.
///
/// Only for a thread of [`on_own_thread`].
pub(super) fn enter(file: &Path) -> io::Result<()> {
    if exists(file)? {
        let netns = File::open(file)?;
        return Ok(move_into_link_name_space(
            netns.as_fd(),
            Some(LinkNameSpaceType::Network),
        )?);
    }
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    // A file without a mount is what a crash between the next steps leaves behind; it is used again.
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(file)?;
    unshare_network()?;
    Ok(mount_bind(OWN, file)?)
}

#[allow(
    deprecated,
    reason = "the other form is `unsafe` for the sake of CLONE_FILES alone, which is not asked for here"
)]
fn unshare_network() -> rustix::io::Result<()> {
    rustix::thread::unshare(UnshareFlags::NEWNET)
}

/// Whether `file` names a netns: it is there, and a netns is mounted on it.
pub(super) fn exists(file: &Path) -> io::Result<bool> {
    match statfs(file) {
        Ok(found) => Ok(found.f_type == NSFS_MAGIC),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes a netns away, mount and file. The kernel ends it, and the veth in it, soon after the last process in it.
///
/// Answers whether there was anything.
pub(super) fn remove(file: &Path) -> io::Result<bool> {
    for _ in 0..STACKED_MOUNTS_MAX {
        if !exists(file)? {
            break;
        }
        unmount(file, UnmountFlags::DETACH)?;
    }
    match fs::remove_file(file) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The instances that have an entry in `dir`. What bears another name is not ours and is passed over.
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
