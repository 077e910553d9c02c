//! Netns that is lent to a user namespace: what the kernel lets only the owner of a netns do in it is
//! done in advance.

use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::threads::on_own_thread;
use super::{NetworkError, netns};
use crate::mounts::on_host;

/// Sysctls, by name (`a.b.c`) and value.
type Sysctls = &'static [(&'static str, &'static str)];

/// Sets sysctls in the netns that `file` names, and shows it at the directory `place`.
pub(super) async fn lend(
    file: PathBuf,
    place: PathBuf,
    sysctls: Sysctls,
) -> Result<(), NetworkError> {
    on_own_thread("netns", move || {
        let doing = format!("cannot lend the netns {}", file.display());
        enter_and_lend(&file, &place, sysctls).map_err(|error| netns::failed(doing, error))
    })
    .await
}

/// Moves the calling thread into the netns, for good.
fn enter_and_lend(file: &Path, place: &Path, sysctls: Sysctls) -> io::Result<()> {
    if !netns::exists(file)? {
        return Err(io::ErrorKind::NotFound.into());
    }
    netns::enter(file)?;
    for (name, value) in sysctls {
        std::fs::write(Path::new("/proc/sys").join(name.replace('.', "/")), value)?;
    }
    match std::fs::create_dir(place) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // One of an earlier start may show another netns of that name.
            let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            let shown = on_host(|| Ok(unmount(place, flags)?));
            match shown {
                // Nothing is mounted there.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                shown => shown?,
            }
        }
        made => made?,
    }
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    on_host(|| Ok(mount("sysfs", place, "sysfs", flags, None)?))
}
