//! Mounts of volumes, and of what is in them: nothing of another disk is removed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

use crate::mountinfo::MountLine;

/// Removes a directory with all that is in it, but nothing of another disk. One that is absent is
/// removed.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let Some(path) = is_free(path)? else {
        return Ok(());
    };
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Restrictions of the mount that a directory is on, as mount options.
pub(super) fn forbidden(directory: &Path) -> Vec<&'static str> {
    let Ok(told) = rustix::fs::statvfs(directory) else {
        return Vec::new();
    };
    let flags = [
        (StatVfsMountFlags::RDONLY, "ro"),
        (StatVfsMountFlags::NOSUID, "nosuid"),
        (StatVfsMountFlags::NOEXEC, "noexec"),
    ];
    let set = flags
        .into_iter()
        .filter(|(flag, _)| told.f_flag.contains(*flag));
    set.map(|(_, option)| option).collect()
}

/// Refuses a directory at or below which something is mounted. `None`: it is absent.
pub(super) fn is_free(path: &Path) -> io::Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    // As the kernel names it, whatever links lead to the state directory.
    let path = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        path => path?,
    };
    if let Some(point) = mount_at_or_below(&mounts, &path) {
        let message = format!("something is mounted at {point}; unmount it");
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
    }
    Ok(Some(path))
}

/// A process that has a directory mounted in a mount namespace of its own; `None`: none has.
pub(super) fn mounted_by(directory: &Path) -> io::Result<Option<u32>> {
    let found = match fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => (found?.dev(), fs::canonicalize(directory)?),
    };
    let (own, mut looked) = (fs::read_link("/proc/self/ns/mnt")?, BTreeSet::new());
    looked.insert(own);
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let process = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(process) = process else { continue };
        let place = entry.path();
        // One that has ended meanwhile mounts nothing.
        let Ok(namespace) = fs::read_link(place.join("ns/mnt")) else {
            continue;
        };
        if !looked.insert(namespace) {
            continue;
        }
        let mounts = fs::read_to_string(place.join("mountinfo")).unwrap_or_default();
        if has_mounted(&mounts, found.0, &found.1) {
            return Ok(Some(process));
        }
    }
    Ok(None)
}

/// Whether one of these mounts is of this directory, or of one below: they tell it by the file
/// system, and the path in that, which is the end of its path on the host.
fn has_mounted(mounts: &str, device: u64, path: &Path) -> bool {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let device = format!("{major}:{minor}");
    MountLine::all(mounts).any(|mount| {
        let root = Path::new(mount.root.trim_start_matches('/'));
        // The root of the file system itself is mounted for other ends.
        let is_below = || {
            let mut ancestors = root.ancestors();
            ancestors.any(|above| above.components().count() > 2 && path.ends_with(above))
        };
        mount.device == device && is_below()
    })
}

fn mount_at_or_below(mounts: &str, path: &Path) -> Option<String> {
    let mut points = MountLine::all(mounts).map(|mount| mount.point);
    points.find(|point| Path::new(point).starts_with(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_of_a_volume_is_known_by_its_place_in_its_file_system() {
        let device = rustix::fs::makedev(254, 1);
        let path = Path::new("/var/lib/chas/volumes/db/_data");
        for (root, of, is) in [
            ("/var/lib/chas/volumes/db/_data", "254:1", true),
            ("/lib/chas/volumes/db/_data", "254:1", true),
            ("/volumes/db/_data/below/it", "254:1", true),
            ("/volumes/db/_data", "254:2", false),
            ("/volumes/other/_data", "254:1", false),
            ("/", "254:1", false),
            ("/var/lib/chas/volumes/db", "254:1", false),
        ] {
            let mounts = format!("24 1 {of} {root} /data rw - ext4 a rw\n");
            assert_eq!(has_mounted(&mounts, device, path), is, "{root}");
        }
    }

    #[test]
    fn what_is_mounted_below_keeps_a_directory_from_being_removed() {
        let mounts = "24 1 0:5 / / rw - ext4 a rw\n\
                      25 24 0:6 / /state/volumes\\040x/a rw - ext4 b rw\n\
                      26 24 0:6 / /state/ab rw - ext4 b rw\n";
        let found = |path: &str| mount_at_or_below(mounts, Path::new(path));
        assert_eq!(found("/state/volumes x").unwrap(), "/state/volumes x/a");
        assert_eq!(found("/state/volumes x/a").unwrap(), "/state/volumes x/a");
        assert_eq!(found("/state/a"), None);
        assert_eq!(found("/state/volumes x/a/b"), None);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("removed");
        fs::create_dir_all(path.join("below")).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
        remove(&path).unwrap();
    }
}
