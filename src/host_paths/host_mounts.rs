//! Mounts of the host, by which a path is told whatever name it has: one directory may be seen at
//! several places.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::mountinfo::MountLine;

/// Name of the directory below the run directory at which launches hold paths of the host.
pub(super) const PLACES: &str = "host-paths";
/// Types of the kernel's own file systems, by which a host is ruled or spied on.
const KERNEL_TYPES: [&str; 19] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "cgroup",
    "cgroup2",
    "securityfs",
    "debugfs",
    "tracefs",
    "configfs",
    "efivarfs",
    "bpf",
    "pstore",
    "binfmt_misc",
    "nsfs",
    "selinuxfs",
    "resctrl",
    "rpc_pipefs",
    "fusectl",
];

/// Mounts of the calling thread's namespace.
#[derive(Debug)]
pub(super) struct ListedMounts(Vec<ListedMount>);

/// Mount, as proc_pid_mountinfo(5) tells it.
#[derive(Debug)]
struct ListedMount {
    device: String,
    /// Directory of its file system that is mounted.
    root: PathBuf,
    point: PathBuf,
    kind: String,
    passes_on: bool,
}

impl ListedMounts {
    pub(super) fn read() -> io::Result<Self> {
        // Of this thread: the process's are others where the agent has mounts of its own.
        fs::read_to_string("/proc/thread-self/mountinfo").map(|text| Self::of(&text))
    }

    fn of(text: &str) -> Self {
        Self(MountLine::all(text).map(mount).collect())
    }

    /// The mount that a path is on: of several, the last one.
    fn on(&self, path: &Path) -> Option<&ListedMount> {
        let above = self.0.iter().filter(|mount| path.starts_with(&mount.point));
        above.max_by_key(|mount| mount.point.components().count())
    }

    /// Mounts of a path and below it: its own with the path in its file system.
    fn seen_at<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = (&'a ListedMount, PathBuf)> {
        let own = self.on(path);
        let own = own.map(|mount| (mount, mount.place_of(path)));
        let below = self.0.iter();
        let below = below.filter(move |mount| mount.point.starts_with(path) && mount.point != path);
        own.into_iter()
            .chain(below.map(|mount| (mount, mount.root.clone())))
    }

    /// Place of the kernel's, or of `kept`, that is seen at a path or below it; `None`: none is.
    pub(super) fn forbidden<'a>(&'a self, path: &'a Path, kept: &[PathBuf]) -> Option<PathBuf> {
        let kept: Vec<_> = kept
            .iter()
            .flat_map(|kept| {
                let seen = self.seen_at(kept);
                // Paths that other launches hold at this moment are the host's.
                let seen = seen.filter(|(mount, _)| !mount.point.iter().any(|part| part == PLACES));
                seen.map(move |(mount, place)| (&mount.device, place, kept))
            })
            .collect();
        self.seen_at(path).find_map(|(mount, place)| {
            if KERNEL_TYPES.contains(&mount.kind.as_str()) {
                return Some(mount.point.clone());
            }
            let meets = |(device, of_kept, _): &&(&String, PathBuf, &PathBuf)| {
                **device == mount.device
                    && (place.starts_with(of_kept) || of_kept.starts_with(&place))
            };
            kept.iter().find(meets).map(|(.., kept)| (*kept).clone())
        })
    }

    /// Point of the mount that a path is on, if it passes nothing on that is mounted later.
    pub(super) fn silent(&self, path: &Path) -> Option<&Path> {
        let on = self.on(path)?;
        (!on.passes_on).then_some(&on.point)
    }
}

impl ListedMount {
    /// Path, which is on this mount, in its file system.
    fn place_of(&self, path: &Path) -> PathBuf {
        let rest = path.strip_prefix(&self.point).unwrap_or(Path::new(""));
        self.root.join(rest)
    }
}

fn mount(line: MountLine<'_>) -> ListedMount {
    let passes = |group: &&str| group.starts_with("shared:") || group.starts_with("master:");
    ListedMount {
        passes_on: line.groups.iter().any(passes),
        device: line.device.to_owned(),
        root: line.root.into(),
        point: line.point.into(),
        kind: line.kind.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forbidden_is_known_under_every_name() {
        let mounts = ListedMounts::of(
            "24 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n\
             25 24 0:21 / /proc rw - proc proc rw\n\
             26 24 254:0 /var/lib/chas /srv/alias rw - ext4 /dev/vda rw\n\
             27 24 254:0 / /srv/whole\\040host rw - ext4 /dev/vda rw\n\
             28 24 0:21 / /srv/chroot/proc rw - proc proc rw\n\
             29 24 254:1 / /srv/disk rw,noatime - ext4 /dev/vdb rw\n\
             30 24 254:1 /inner /mnt rw master:4 - ext4 /dev/vdb rw\n\
             31 24 254:2 / /var/lib/chas/volumes/db rw - ext4 /dev/vdc rw\n\
             32 24 254:2 / /srv/db rw - ext4 /dev/vdc rw\n\
             33 24 254:1 /data /var/lib/chas/host-paths/0123456789ab-1/0 rw - ext4 /dev/vdb rw\n",
        );
        let kept = [PathBuf::from("/var/lib/chas"), PathBuf::from("/mnt/own")];
        for (path, found) in [
            ("/srv/data", None),
            ("/var/lib/chaste", None),
            ("/srv/disk/data", None),
            ("/mnt/other", None),
            ("/srv/db", Some("/var/lib/chas")),
            ("/srv/db/_data", Some("/var/lib/chas")),
            ("/srv/alias", Some("/var/lib/chas")),
            ("/srv/alias/volumes", Some("/var/lib/chas")),
            ("/srv/whole host", Some("/var/lib/chas")),
            ("/srv/whole host/var/lib/chas/x", Some("/var/lib/chas")),
            ("/srv/whole host/etc", None),
            ("/srv/chroot", Some("/srv/chroot/proc")),
            ("/srv/chroot/proc/sys", Some("/srv/chroot/proc")),
            ("/srv/disk", Some("/mnt/own")),
            ("/srv/disk/inner/own", Some("/mnt/own")),
            ("/var", Some("/var/lib/chas")),
        ] {
            let told = mounts.forbidden(Path::new(path), &kept);
            assert_eq!(told.as_deref(), found.map(Path::new), "{path}");
        }
        assert_eq!(mounts.silent(Path::new("/srv/data")), None);
        assert_eq!(mounts.silent(Path::new("/mnt/x")), None);
        let silent = mounts.silent(Path::new("/srv/disk/data"));
        assert_eq!(silent, Some(Path::new("/srv/disk")));
    }
}
