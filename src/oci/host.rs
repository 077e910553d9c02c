//! Facts about this host that an OCI spec depends on, read once at start.

use std::io;

use super::lsm::SecurityModules;
use crate::cgroup::Cgroup;

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

impl Host {
    /// Facts of the host that the agent runs on.
    ///
    /// # Errors
    /// `/sys/fs/cgroup` cannot be asked what it is.
    pub(crate) fn read() -> io::Result<Self> {
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
            cgroup: Cgroup::read()?,
            open_files_max,
            oom_score_min,
            modules: SecurityModules::read(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_can_be_read() {
        assert!(Host::read().unwrap().open_files_max > 0);
    }
}
