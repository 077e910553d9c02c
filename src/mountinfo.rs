//! Lines of the kernel's list of mounts, `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).

/// Mount, as a line of the list tells it.
#[derive(Debug)]
pub(crate) struct MountLine<'a> {
    /// Number of its file system's device, as in `254:0`.
    pub(crate) device: &'a str,
    /// Directory of its file system that is mounted.
    pub(crate) root: String,
    /// Place where it is mounted.
    pub(crate) point: String,
    /// Groups among which mounts are passed on, as in `shared:1`.
    pub(crate) groups: Vec<&'a str>,
    /// Type of its file system.
    pub(crate) kind: &'a str,
    /// Source of its file system, mostly a device.
    pub(crate) source: String,
    /// Options of its file system.
    pub(crate) options: &'a str,
}

impl<'a> MountLine<'a> {
    /// Mounts of a list, in its order. What is no such line is left out.
    pub(crate) fn all(list: &'a str) -> impl Iterator<Item = Self> {
        list.lines().filter_map(Self::read)
    }

    fn read(line: &'a str) -> Option<Self> {
        let (mount, disk) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(2);
        let mut disk = disk.split(' ');
        Some(Self {
            device: mount.next()?,
            root: decoded(mount.next()?),
            point: decoded(mount.next()?),
            // Between them are the mount's own options.
            groups: mount.skip(1).collect(),
            kind: disk.next()?,
            source: disk.next().map(decoded).unwrap_or_default(),
            options: disk.next().unwrap_or_default(),
        })
    }
}

/// Path as it is, of which some characters stand as octal numbers.
fn decoded(path: &str) -> String {
    let octal = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let replace = |path: String, (octal, plain)| path.replace(octal, plain);
    octal.into_iter().fold(path.to_owned(), replace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_all_that_it_tells() {
        let list = "27 22 254:16 /sub /srv/a\\040b rw,noatime shared:2 master:3 - ext4 /dev/vdb rw,prjquota\n\
                    no mount\n\
                    30 22 0:50 / /run rw - tmpfs tmpfs rw,size=1k\n";
        let mounts: Vec<_> = MountLine::all(list).collect();
        assert_eq!(mounts.len(), 2);
        let first = &mounts[0];
        assert_eq!(
            (first.device, &*first.root, &*first.point),
            ("254:16", "/sub", "/srv/a b")
        );
        assert_eq!(first.groups, ["shared:2", "master:3"]);
        assert_eq!(
            (first.kind, &*first.source, first.options),
            ("ext4", "/dev/vdb", "rw,prjquota")
        );
        assert_eq!(mounts[1].groups, [""; 0]);
    }
}
