//! Netns that is lent to a user namespace: what the kernel lets only the owner of a netns do in it is
//! done in advance.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::threads::on_own_thread;
use super::{NetnsLoan, NetworkError, Part, netns};
use crate::mounts::on_host;

/// Sets sysctls in the netns that `file` names, and shows it at the directory `place` where that is
/// asked for. Without a `file` it is the host's.
pub(super) async fn lend(
    file: Option<PathBuf>,
    place: PathBuf,
    loan: NetnsLoan,
) -> Result<(), NetworkError> {
    on_own_thread("netns", move || {
        let name = file.as_deref().unwrap_or(Path::new(netns::OWN));
        let failed = |error| {
            let doing = format!("cannot prepare the netns {}", name.display());
            netns::failed(doing, error)
        };
        if let Some(file) = &file {
            if !netns::exists(file).map_err(failed)? {
                return Err(failed(io::ErrorKind::NotFound.into()));
            }
            netns::enter(file).map_err(failed)?;
        }
        set(&loan.sysctls)?;
        if loan.shows_sysfs {
            show(&place).map_err(failed)?;
        }
        Ok(())
    })
    .await
}

/// Sets sysctls in the netns of the calling thread.
fn set(sysctls: &BTreeMap<String, String>) -> Result<(), NetworkError> {
    for (name, value) in sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        std::fs::write(path, value).map_err(|error| {
            let doing = format!("sysctls.{name} cannot be set to {value:?}");
            NetworkError::failed(doing, error).of(Part::Sysctls)
        })?;
    }
    Ok(())
}

/// Shows the netns of the calling thread at a directory.
fn show(place: &Path) -> io::Result<()> {
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
