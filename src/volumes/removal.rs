//! Removal of volumes from the disk.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use state::id::ContainerId;

use super::key::{OF_IMAGES, OF_IMAGES_NOTES};
use super::shelf::Shelf;

impl Shelf {
    /// Containers for which volumes of images, or notes of such, are on the disk.
    pub(super) fn of_images(&self) -> BTreeSet<ContainerId> {
        let places = [OF_IMAGES, OF_IMAGES_NOTES];
        let entries = places.map(|place| fs::read_dir(self.state_dir.join(place)));
        let entries = entries.into_iter().flatten().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.collect()
    }

    /// Removes the volumes that its images gave a container. The notes go last: what is left of a
    /// removal that was cut off is found by them.
    pub(super) fn remove_of_images(&self, id: ContainerId) -> io::Result<()> {
        for place in [OF_IMAGES, OF_IMAGES_NOTES] {
            remove(&self.state_dir.join(place).join(id.to_string()))?;
        }
        Ok(())
    }
}

/// Removes a directory with all that is in it, but nothing of another disk. One that is absent is
/// removed.
fn remove(path: &Path) -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    // As the kernel names it, whatever links lead to the state directory.
    let path = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        path => path?,
    };
    if let Some(point) = mount_at_or_below(&mounts, &path) {
        let message = format!("something is mounted at {point}; unmount it");
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
    }
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn mount_at_or_below(mounts: &str, path: &Path) -> Option<String> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    // Some characters stand as octal numbers (proc(5)).
    let octal = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let decoded = |point: &str| {
        let replace = |point: String, (octal, plain)| point.replace(octal, plain);
        octal.into_iter().fold(point.to_owned(), replace)
    };
    let mut points = points.map(decoded);
    points.find(|point| Path::new(point).starts_with(path))
}

#[cfg(test)]
mod tests {
    use super::*;

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
