//! Facts about this host that an OCI spec depends on, read once at start.

use std::io;
use std::path::Path;

use super::lsm::SecurityModules;

/// Facts of the host that the OCI spec depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// Processor.
    pub(crate) machine: Machine,
    /// Mount of the control groups.
    pub(crate) cgroup: Cgroup,
    /// Hard limit of the agent itself on open files: runc may not raise a container's above it
    /// without `CAP_SYS_RESOURCE`.
    pub(crate) open_files_max: u64,
    /// Lowest `oom_score_adj` that a container may be given.
    pub(crate) oom_score_min: i32,
    /// Security modules of the kernel.
    pub(crate) modules: SecurityModules,
}

/// A processor the agent runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    /// 64 bit Intel and AMD, which run 32 bit programs as well.
    X86_64,
    /// 64 bit ARM.
    Aarch64,
}

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
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

impl Host {
    /// Facts of the host that the agent runs on.
    ///
    /// # Errors
    /// `/sys/fs/cgroup` cannot be asked what it is.
    pub(crate) fn read() -> io::Result<Self> {
        let unified = u64::try_from(rustix::fs::statfs(CGROUP_ROOT)?.f_type)
            .is_ok_and(|magic| magic == CGROUP2_MAGIC);
        let swap = Path::new(CGROUP_ROOT)
            .join("memory/memory.memsw.limit_in_bytes")
            .exists();
        // `None` is "unlimited"; the kernel's own ceiling, fs.nr_open, is 2^20 unless it was
        // raised.
        let open_files_max = rustix::process::getrlimit(rustix::process::Resource::Nofile)
            .maximum
            .unwrap_or(1 << 20);
        // Lowering a score below one's own needs CAP_SYS_RESOURCE, which a hardened unit may lack.
        let own_score = std::fs::read_to_string("/proc/self/oom_score_adj").ok();
        let oom_score_min = own_score
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
            .max(0);
        let machine = if cfg!(target_arch = "aarch64") {
            Machine::Aarch64
        } else {
            Machine::X86_64
        };
        Ok(Self {
            machine,
            cgroup: if unified {
                Cgroup::V2
            } else {
                Cgroup::V1 { swap }
            },
            open_files_max,
            oom_score_min,
            modules: SecurityModules::read(),
        })
    }
}

/// Device of tunnels, `/dev/net/tun`, as the kernel's devices controller writes it.
const TUNNELS: &str = "c 10:200 rwm";

impl Cgroup {
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
    fn this_host_can_be_read() {
        assert!(Host::read().unwrap().open_files_max > 0);
    }
}
