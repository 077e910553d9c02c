//! Lookup of a container's user in the files of its image, by a read-only mount that lasts a
//! moment.

use std::io::{self, Read as _};
use std::path::Path;
use std::time::SystemTime;

use containerd_client::types::Mount;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use state::reason::Reason;
use uuid::Uuid;

use crate::oci::user::{User, needs_files, resolve};
use crate::runtime::RuntimeError;
use crate::runtime::containerd::rpc::client::{CallError, ContainerdClient};
use crate::runtime::containerd::rpc::lease::Lease;
use crate::runtime::containerd::rpc::snapshots;

/// Bytes read of `/etc/passwd`: no real one is larger, and a hostile one must not fill the memory.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Identity that `wanted` stands for in the image whose topmost snapshot is `parent`. The image is
/// mounted below `run_dir` for a moment.
///
/// # Errors
/// [`Reason::UserNotFound`], [`Reason::GroupNotFound`]; [`RuntimeError::ImageLost`] when the
/// snapshot is not there.
pub(crate) async fn lookup(
    client: &ContainerdClient,
    wanted: &str,
    parent: &str,
    run_dir: &Path,
) -> Result<User, RuntimeError> {
    if !needs_files(wanted) {
        return Ok(User::default());
    }
    // Without a lease, containerd's garbage collector may take the view while it is mounted.
    let key = format!("chas-view-{}", Uuid::new_v4().simple());
    let lease = Lease::open(client, &key, SystemTime::now()).await?;
    let files = match snapshots::view(&lease.client, &key, parent).await {
        Ok(mounts) => {
            let directory = run_dir.join(&key);
            let read = tokio::task::spawn_blocking(move || files(&mounts, &directory)).await;
            let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
            read.map_err(|error| {
                RuntimeError::failed(
                    Reason::CreateFailed,
                    format!("the image's users cannot be read: {error}"),
                )
            })
        }
        Err(CallError::NotFound(message)) => Err(RuntimeError::ImageLost(message)),
        Err(error) => Err(error.into_error(Reason::CreateFailed, "view a snapshot")),
    };
    snapshots::discard(client, &key).await;
    lease.close().await?;
    let (passwd, group) = files?;
    Ok(resolve(wanted, &passwd, &group)?)
}

/// `/etc/passwd` and `/etc/group` of a snapshot, empty where they are missing.
fn files(mounts: &[Mount], directory: &Path) -> io::Result<(String, String)> {
    std::fs::create_dir_all(directory)?;
    let read = mount(mounts, directory).and_then(|()| {
        let files = read(directory, "etc/passwd")
            .and_then(|passwd| Ok((passwd, read(directory, "etc/group")?)));
        rustix::mount::unmount(directory, UnmountFlags::DETACH)?;
        files
    });
    std::fs::remove_dir(directory)?;
    read
}

fn mount(mounts: &[Mount], directory: &Path) -> io::Result<()> {
    let [mount] = mounts else {
        return Err(io::Error::other("the snapshot has not exactly one mount"));
    };
    let mut flags =
        MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if mount.r#type == "bind" {
        flags |= MountFlags::BIND;
    }
    let flag_words = ["ro", "rw", "bind", "rbind"];
    let data: Vec<_> = mount
        .options
        .iter()
        .filter(|option| !flag_words.contains(&option.as_str()))
        .cloned()
        .collect();
    let data = std::ffi::CString::new(data.join(",")).map_err(io::Error::other)?;
    rustix::mount::mount(
        &mount.source,
        directory,
        &mount.r#type,
        flags,
        Some(data.as_c_str()),
    )?;
    Ok(())
}

/// Contents of a file below `root`. The image's author may have made it a link to anywhere: it is
/// followed as the container would, never out of the image.
fn read(root: &Path, path: &str) -> io::Result<String> {
    let root = std::fs::File::open(root)?;
    let opened = rustix::fs::openat2(
        &root,
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    );
    let file = match opened {
        Ok(file) => std::fs::File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
            return Ok(String::new());
        }
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
