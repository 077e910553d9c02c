//! Control groups of the kernel, of version 1 and 2: what a group is limited to, and what is in it.
//!
//! This room knows no other: not which containers there are, nor what they were asked to be limited to.

use std::io;
use std::path::{Path, PathBuf};

pub(crate) mod throttles;
pub(crate) mod usage;

/// Mount of the control groups at `/sys/fs/cgroup`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cgroup {
    /// A directory a controller (also the hybrid of systemd).
    V1 {
        /// Whether the kernel accounts swap (`memory.memsw.limit_in_bytes` exists).
        swap: bool,
    },
    /// A single tree for all controllers.
    V2,
}

/// `cgroup2`'s magic number, as `statfs` tells it (linux/magic.h).
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Mount point of the control groups, on every distribution with systemd.
pub(crate) const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Device of tunnels, `/dev/net/tun`, as the kernel's devices controller writes it.
const TUNNELS: &str = "c 10:200 rwm";

/// Weight of a control group of version 1 that asks for none: the kernel's default.
const CPU_SHARES_DEFAULT: u64 = 1024;
/// Shares of which runc makes the default weight of version 2, 100: 1 + (shares - 2) * 9999 / 262142.
const CPU_SHARES_OF_100: u64 = 2598;

/// Values by which a control group is limited in nothing, where that is no number of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReleasedLimits {
    /// CPUs that it may have at most. `None`: CPUs are not dealt out.
    pub(crate) cpus: Option<String>,
    /// Weight among all who want CPU time, as an OCI runtime is asked for it. `None`: it has the
    /// kernel's.
    pub(crate) cpu_shares: Option<u64>,
    /// The same of its disk operations.
    pub(crate) disk_weight: Option<u16>,
}

impl Cgroup {
    /// The kind of this computer's.
    ///
    /// # Errors
    /// `/sys/fs/cgroup` cannot be asked what it is.
    pub(crate) fn read() -> io::Result<Self> {
        let kind = rustix::fs::statfs(CGROUP_ROOT)?.f_type;
        if u64::try_from(kind).is_ok_and(|magic| magic == CGROUP2_MAGIC) {
            return Ok(Self::V2);
        }
        let swap = Path::new(CGROUP_ROOT).join("memory/memory.memsw.limit_in_bytes");
        Ok(Self::V1 {
            swap: swap.exists(),
        })
    }

    /// Values by which the control group at `path` (absolute, as in the OCI spec) is limited in
    /// nothing.
    pub(crate) fn released(self, path: &str) -> ReleasedLimits {
        let path = Path::new(path.trim_start_matches('/'));
        self.released_in(Path::new(CGROUP_ROOT), path)
    }

    fn released_in(self, root: &Path, path: &Path) -> ReleasedLimits {
        let above = path.parent().unwrap_or(Path::new(""));
        let (cpus, weights) = match self {
            Self::V1 { .. } => (
                root.join("cpuset").join(above).join("cpuset.cpus"),
                [
                    ("blkio/", "blkio.bfq.weight", 100),
                    ("blkio/", "blkio.weight", 500),
                ],
            ),
            // A runtime has another scale than the second file, whose 100 is some 20 of it.
            Self::V2 => (
                root.join(above).join("cpuset.cpus.effective"),
                [("", "io.bfq.weight", 100), ("", "io.weight", 20)],
            ),
        };
        let read = |file| Some(std::fs::read_to_string(file).ok()?.trim().to_owned());
        let weight = weights.into_iter().find_map(|(place, file, released)| {
            let weight = read(root.join(place).join(path).join(file))?;
            Some((weight, released))
        });
        let kernels = |weight: &str, released| {
            let own = weight.lines().next().unwrap_or_default();
            let own = own.trim_start_matches("default ");
            own == "100" || own == format!("{released}")
        };
        let weight = weight.filter(|(weight, released)| !kernels(weight, *released));
        let cpu_shares = match self {
            Self::V1 { .. } => Some(CPU_SHARES_DEFAULT),
            Self::V2 => read(root.join(path).join("cpu.weight"))
                .filter(|weight| weight != "100")
                .map(|_| CPU_SHARES_OF_100),
        };
        ReleasedLimits {
            cpu_shares,
            cpus: read(cpus).filter(|cpus| !cpus.is_empty()),
            disk_weight: weight.map(|(_, released)| released),
        }
    }

    /// Whether a limit on swap can be asked for.
    pub(crate) const fn limits_swap(self) -> bool {
        !matches!(self, Self::V1 { swap: false })
    }

    /// Bytes of memory in the control group at `path` (absolute, as in the OCI spec) that the kernel
    /// cannot easily have back. `None`: it is no business of anybody (version 1 itself refuses a
    /// limit that is too low), or there is no such group.
    pub(crate) fn memory_in_use(self, path: &str) -> Option<u64> {
        if self != Self::V2 {
            return None;
        }
        let group = Path::new(CGROUP_ROOT).join(path.trim_start_matches('/'));
        let read = |file| std::fs::read_to_string(group.join(file)).ok();
        parse_in_use(&read("memory.current")?, &read("memory.stat")?)
    }

    /// Takes the device of tunnels from the control group at `path` (absolute, as in the OCI spec).
    /// On version 2 nothing can be taken away that the runtime's own program grants.
    ///
    /// # Errors
    /// The kernel refuses. That there is no such group is none: its processes have ended.
    pub(crate) fn withhold_tunnels(self, path: &str) -> io::Result<()> {
        match self {
            Self::V1 { .. } => {
                let group = Path::new(CGROUP_ROOT).join("devices");
                let file = group
                    .join(path.trim_start_matches('/'))
                    .join("devices.deny");
                match std::fs::write(file, TUNNELS) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    written => written,
                }
            }
            Self::V2 => Ok(()),
        }
    }

    /// Processes of the control group at `path` (absolute, as in the OCI spec), by their numbers;
    /// none once the group is gone.
    pub(crate) fn processes(self, path: &str) -> Vec<u32> {
        let path = path.trim_start_matches('/');
        let root = Path::new(CGROUP_ROOT);
        let groups = match self {
            // Every controller has them, and one may be switched off.
            Self::V1 { .. } => ["pids", "memory", "devices"].map(|tree| root.join(tree).join(path)),
            Self::V2 => [(); 3].map(|()| root.join(path)),
        };
        let mut texts = groups.iter().filter_map(|group| {
            let text = std::fs::read_to_string(group.join("cgroup.procs"));
            text.ok()
        });
        let text = texts.next().unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Processes of the control group at `path` (absolute, as in the OCI spec) and of those below it,
    /// by their numbers: no more than so many, and none once the group is gone.
    pub(crate) fn all_processes(self, path: &str, count_max: usize) -> Vec<u32> {
        let path = path.trim_start_matches('/');
        let root = Path::new(CGROUP_ROOT);
        let trees: &[&str] = match self {
            Self::V1 { .. } => &["pids", "memory", "devices"],
            Self::V2 => &[""],
        };
        let mut groups = trees.iter().map(|tree| root.join(tree).join(path));
        let group = groups.find(|group| group.join("cgroup.procs").exists());
        group.map_or_else(Vec::new, |group| processes_below(group, count_max))
    }

    /// Number of processes of the control group at `path` (absolute, as in the OCI spec) the kernel
    /// killed for want of memory; `None` once the group is gone.
    pub(crate) fn out_of_memory_kills(self, path: &str) -> Option<u64> {
        let path = path.trim_start_matches('/');
        let file = match self {
            Self::V1 { .. } => Path::new(CGROUP_ROOT)
                .join("memory")
                .join(path)
                .join("memory.oom_control"),
            Self::V2 => Path::new(CGROUP_ROOT).join(path).join("memory.events"),
        };
        parse_kills(&std::fs::read_to_string(file).ok()?)
    }
}

/// Groups that are looked through below one.
const GROUPS_MAX: usize = 256;

fn processes_below(group: PathBuf, count_max: usize) -> Vec<u32> {
    let (mut found, mut groups, mut seen) = (Vec::new(), vec![group], 0);
    while let Some(group) = groups.pop().filter(|_| seen < GROUPS_MAX) {
        seen += 1;
        let text = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        if found.len() >= count_max {
            found.truncate(count_max);
            break;
        }
        let entries = std::fs::read_dir(&group).into_iter().flatten().flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        groups.extend(below.map(|entry| entry.path()));
    }
    found
}

/// Bytes of `memory.current` without cached files, which the kernel drops where a limit asks for it.
fn parse_in_use(current: &str, stat: &str) -> Option<u64> {
    let bytes = |name: &str| {
        let bytes = stat.lines().find_map(|line| line.strip_prefix(name))?;
        bytes.trim().parse::<u64>().ok()
    };
    let cached = bytes("inactive_file ")?.saturating_add(bytes("active_file ")?);
    let current: u64 = current.trim().parse().ok()?;
    Some(current.saturating_sub(cached))
}

/// Number in the line `oom_kill N`, which both `memory.oom_control` and `memory.events` hold.
fn parse_kills(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_count_of_kills_is_read_in_both_forms() {
        assert_eq!(
            parse_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
            Some(3)
        );
        assert_eq!(
            parse_kills("low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n"),
            Some(1)
        );
        assert_eq!(parse_kills("oom_kill_disable 0\n"), None);
    }

    #[test]
    fn what_releases_a_group_is_what_the_one_above_has_and_the_kernel_s_weight() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        let released = |cgroup: Cgroup| {
            let found = cgroup.released_in(root.path(), Path::new("chas/a-1"));
            (found.cpus, found.disk_weight)
        };
        let v1 = Cgroup::V1 { swap: true };
        assert_eq!(released(v1), (None, None));
        assert_eq!(released(Cgroup::V2), (None, None));
        write("cpuset/chas/cpuset.cpus", "0-3\n");
        write("blkio/chas/a-1/blkio.bfq.weight", "300\n");
        assert_eq!(released(v1), (Some("0-3".to_owned()), Some(100)));
        write("blkio/chas/a-1/blkio.bfq.weight", "100\n");
        assert_eq!(released(v1), (Some("0-3".to_owned()), None));
        let shares = |cgroup: Cgroup| {
            let found = cgroup.released_in(root.path(), Path::new("chas/a-1"));
            found.cpu_shares
        };
        assert_eq!((shares(v1), shares(Cgroup::V2)), (Some(1024), None));
        write("chas/a-1/cpu.weight", "100\n");
        assert_eq!(shares(Cgroup::V2), None, "nothing is to be released");
        write("chas/a-1/cpu.weight", "39\n");
        assert_eq!(shares(Cgroup::V2), Some(2598));
        write("chas/cpuset.cpus.effective", "1\n");
        write("chas/a-1/io.weight", "default 500\n8:0 100\n");
        assert_eq!(released(Cgroup::V2), (Some("1".to_owned()), Some(20)));
        write("chas/a-1/io.weight", "default 100\n");
        assert_eq!(released(Cgroup::V2), (Some("1".to_owned()), None));
    }

    #[test]
    fn processes_of_groups_within_count_too_and_no_more_than_the_bound() {
        let root = tempfile::tempdir().unwrap();
        for (group, pids) in [("", "7\n8\n"), ("a", "9\n"), ("a/b", "10\nx\n")] {
            let group = root.path().join(group);
            std::fs::create_dir_all(&group).unwrap();
            std::fs::write(group.join("cgroup.procs"), pids).unwrap();
        }
        let found = |count_max| processes_below(root.path().to_owned(), count_max);
        assert_eq!(found(100), [7, 8, 9, 10]);
        assert_eq!(found(3), [7, 8, 9]);
        let none = processes_below(root.path().join("gone"), 100);
        assert_eq!(none, [0; 0]);
    }

    #[test]
    fn memory_in_use_is_without_what_is_only_cached() {
        let stat = "anon 30\nfile 70\ninactive_file 60\nactive_file 10\n";
        assert_eq!(parse_in_use("100\n", stat), Some(30));
        assert_eq!(parse_in_use("50\n", stat), Some(0));
        assert_eq!(parse_in_use("100\n", "anon 30\n"), None);
    }
}
