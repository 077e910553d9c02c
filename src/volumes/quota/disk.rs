//! File systems that bound projects, as the kernel's list of mounts tells them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::SizeFault;
use crate::mountinfo::MountLine;

/// File system whose project quotas are switched on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QuotaDisk {
    /// Place where it is mounted.
    pub(super) mount_point: String,
}

impl QuotaDisk {
    /// File system of a directory, or of the nearest one above that is there.
    pub(super) fn of(directory: &Path) -> Result<Self, SizeFault> {
        let mut above = directory.ancestors().map(fs::metadata);
        let found = above
            .find(|found| !matches!(found, Err(error) if error.kind() == io::ErrorKind::NotFound));
        let device = found.unwrap_or_else(|| fs::metadata("/"))?.dev();
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
        Self::among(&mounts, device)
    }

    /// File system of a device, by the content of `mountinfo` (proc_pid_mountinfo(5)).
    fn among(mounts: &str, device: u64) -> Result<Self, SizeFault> {
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let device = format!("{major}:{minor}");
        let mut found: Vec<_> = MountLine::all(mounts)
            .filter(|mount| mount.device == device)
            .collect();
        // Where all of it is mounted, rather than a part.
        found.sort_by_key(|mount| (mount.root != "/", mount.point.len()));
        let mount = found.first();
        let mount = mount.ok_or_else(|| SizeFault::NoQuotas(kind_fault("of a kind")))?;
        let point = mount.point.clone();
        let fault = match mount.kind {
            "ext4" | "xfs" if mount.options.split(',').any(|option| option == "prjquota") => {
                return Ok(Self { mount_point: point });
            }
            "ext4" => format!(
                "ext4 at {point} is mounted without project quotas: unmount it, run \"tune2fs -O \
                 project,quota -Q prjquota {source}\" once, and mount it with the option prjquota",
                source = mount.source
            ),
            "xfs" => format!(
                "XFS at {point} is mounted without project quotas: mount it anew with the option \
                 pquota (the root file system: rootflags=pquota for the kernel)"
            ),
            kind => kind_fault(&format!("at {point} is {kind},")),
        };
        Err(SizeFault::NoQuotas(fault))
    }
}

fn kind_fault(which: &str) -> String {
    format!(
        "the file system of the volumes {which} without project quotas: mount an ext4 (prjquota) or XFS \
         (pquota) at volumes/ in state.dir"
    )
}

/// Whether a directory is where a disk is mounted, as its device tells.
pub(super) fn is_mount(directory: &Path) -> io::Result<bool> {
    let above = directory.parent().unwrap_or(directory);
    Ok(fs::metadata(directory)?.dev() != fs::metadata(above)?.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro
26 22 254:16 /sub /srv/sub rw - ext4 /dev/vdb rw,prjquota
27 22 254:16 / /srv/a\\040b rw shared:2 - ext4 /dev/vdb rw,usrquota,prjquota
28 22 254:32 / /x rw - xfs /dev/vdc rw,attr2,inode64,pqnoenforce
29 22 254:48 / /y rw - xfs /dev/vdd rw,attr2,inode64,prjquota
30 22 0:50 / /run rw - tmpfs tmpfs rw,size=1k
";

    #[test]
    fn a_disk_is_found_by_its_device_and_tells_whether_it_bounds_projects() {
        let of = |major, minor| QuotaDisk::among(MOUNTS, rustix::fs::makedev(major, minor));
        assert_eq!(of(254, 16).unwrap().mount_point, "/srv/a b");
        assert_eq!(of(254, 48).unwrap().mount_point, "/y");
        for (device, parts) in [
            ((254, 0), ["ext4 at /", "-Q prjquota /dev/vda"]),
            ((254, 32), ["XFS at /x", "option pquota"]),
            ((0, 50), ["is tmpfs", "volumes/ in state.dir"]),
            ((0, 99), ["of a kind", "volumes/ in state.dir"]),
        ] {
            let told = of(device.0, device.1).unwrap_err().to_string();
            for part in parts {
                assert!(told.contains(part), "{told}");
            }
        }
    }
}
