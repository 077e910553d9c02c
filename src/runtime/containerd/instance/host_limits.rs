//! Limits that are asked for and that this host cannot keep, told before the OCI runtime is asked:
//! its own words differ by version, and it leaves some out in silence.

use std::fs;
use std::path::{Path, PathBuf};

use state::desired::Record;
use state::reason::Reason;
use state::spec::{
    CAPABILITIES, CpuList, DEFAULT_CAPABILITIES, Resources, Spec, SwapLimit, Ulimit, UlimitName,
};
use tokio::net::UnixStream;

use super::{Instances, disks};
use crate::cgroup::Cgroup;
use crate::runtime::RuntimeError;

/// Bit of `CAP_SYS_RESOURCE` in a set of capabilities.
const SYS_RESOURCE: usize = 24;

/// Directories in which a host shows what it has.
#[derive(Clone, Debug)]
struct HostFiles {
    proc: PathBuf,
    sys: PathBuf,
}

impl Instances {
    /// Checks the limits of a container that is to be launched.
    pub(super) async fn check_limits(&self, record: &Record) -> Result<(), RuntimeError> {
        let spec = record.spec.clone();
        if !asks_the_host(&spec) {
            return Ok(());
        }
        let containerd = if spec.ulimits.is_empty() && added(&spec).next().is_none() {
            None
        } else {
            self.containerd_process().await
        };
        let (cgroup, oom_score_min) = (self.host.cgroup, self.host.oom_score_min);
        let around = self.config.namespace.clone();
        let look = move || {
            let host = HostFiles::own();
            let mut faults = host.resources(&spec.resources, cgroup, &around);
            if let Some(pid) = containerd {
                faults.extend(host.ulimits(&spec, pid));
                faults.extend(host.capabilities(&spec, pid));
            }
            let lowest = spec
                .oom_score
                .filter(|score| i32::from(*score) < oom_score_min);
            faults.extend(lowest.map(|score| {
                format!("oom_score {score} is below {oom_score_min}, the least that this agent may give; raise it")
            }));
            faults
        };
        let faults = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        if faults.is_empty() {
            return Ok(());
        }
        Err(RuntimeError::failed(
            Reason::LimitRefused,
            faults.join("; "),
        ))
    }

    /// Faults of the limits that a container which runs is to be given, each beginning with its field.
    pub(super) async fn live_faults(&self, record: &Record) -> Vec<String> {
        let (wanted, cgroup) = (record.spec.resources.clone(), self.host.cgroup);
        let around = self.config.namespace.clone();
        let look = move || HostFiles::own().resources(&wanted, cgroup, &around);
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }

    /// Process of containerd, of which the OCI runtime has its rights; `None`: it cannot be found.
    async fn containerd_process(&self) -> Option<u32> {
        let stream = UnixStream::connect(&self.config.socket).await.ok()?;
        stream.peer_cred().ok()?.pid()?.try_into().ok()
    }
}

/// Whether anything is asked for that a host may lack.
fn asks_the_host(spec: &Spec) -> bool {
    let Resources {
        cpuset, swap, io, ..
    } = &spec.resources;
    let of_disks = io.weight.is_some() || disks::are_any(io);
    let is_sized = cpuset.is_some() || swap.is_some() || of_disks;
    let is_beyond = !spec.ulimits.is_empty() || added(spec).next().is_some();
    is_sized || is_beyond || spec.oom_score.is_some()
}

/// Capabilities beyond docker's list, with their numbers.
fn added(spec: &Spec) -> impl Iterator<Item = (&str, usize)> {
    let names = spec.security.capabilities.0.iter().map(String::as_str);
    let added = names.filter(|name| !DEFAULT_CAPABILITIES.contains(name));
    added.filter_map(|name| Some((name, CAPABILITIES.iter().position(|known| *known == name)?)))
}

impl HostFiles {
    fn own() -> Self {
        Self {
            proc: "/proc".into(),
            sys: "/sys".into(),
        }
    }

    /// Faults of the limits on a control group in the one named `around`.
    fn resources(&self, wanted: &Resources, cgroup: Cgroup, around: &str) -> Vec<String> {
        let mut faults = Vec::new();
        let is_bounded = matches!(wanted.swap, Some(SwapLimit::Bytes(_)));
        if is_bounded && cgroup == (Cgroup::V1 { swap: false }) {
            let fault = "resources.swap cannot be limited: this kernel does not account swap; start \
                         it with swapaccount=1, or leave swap out";
            faults.push(fault.to_owned());
        }
        if is_bounded && cgroup == Cgroup::V2 && !self.groups_have(&["memory.swap.max"]) {
            let fault = "resources.swap cannot be limited: this kernel does not account swap; leave \
                         it out";
            faults.push(fault.to_owned());
        }
        let asked = wanted.cpuset.as_ref();
        if let Some(lacking) = asked.and_then(|list| self.lacking(list, cgroup, around)) {
            faults.push(lacking);
        }
        if wanted.io.weight.is_some() && !self.has_disk_weights(cgroup) {
            let fault = "resources.io.weight cannot be set: this kernel weighs nobody's disk \
                         operations (neither BFQ nor io.cost); leave it out";
            faults.push(fault.to_owned());
        }
        if disks::are_any(&wanted.io) {
            if self.has_throttles(cgroup) {
                faults.extend(disks::faults(&wanted.io));
            } else {
                let fault = "resources.io can limit no disk: this kernel has no throttling of disk \
                             operations, or its io controller is off; leave all but weight out";
                faults.push(fault.to_owned());
            }
        }
        faults
    }

    /// Whether control groups limit disk operations. What cannot be told counts as yes.
    fn has_throttles(&self, cgroup: Cgroup) -> bool {
        let root = self.sys.join("fs/cgroup/blkio");
        match cgroup {
            Cgroup::V1 { .. } => root.join("blkio.throttle.read_bps_device").exists(),
            // The first container that asks has the OCI runtime switch it on below the root.
            Cgroup::V2 => {
                let known = fs::read_to_string(self.sys.join("fs/cgroup/cgroup.controllers"));
                known.map_or(true, |known| {
                    known.split_whitespace().any(|name| name == "io")
                })
            }
        }
    }

    fn lacking(&self, wanted: &CpuList, cgroup: Cgroup, around: &str) -> Option<String> {
        let permitted = self.permitted_cpus(cgroup, around)?;
        let lacking = wanted.beyond(&permitted)?;
        Some(format!(
            "resources.cpuset names CPU {lacking}, and containers of this host have {permitted}; \
             name some of these"
        ))
    }

    /// CPUs of the control group around all containers, which need not be all that are there.
    fn permitted_cpus(&self, cgroup: Cgroup, around: &str) -> Option<CpuList> {
        let (root, file) = match cgroup {
            Cgroup::V1 { .. } => ("fs/cgroup/cpuset", "cpuset.effective_cpus"),
            Cgroup::V2 => ("fs/cgroup", "cpuset.cpus.effective"),
        };
        let root = self.sys.join(root);
        let files = [
            root.join(around).join(file),
            root.join(file),
            self.sys.join("devices/system/cpu/online"),
        ];
        // A group that the runtime has just made on v1 has no CPU until it gives it some.
        files
            .iter()
            .find_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
    }

    /// Whether control groups weigh disk operations. What cannot be told counts as yes.
    fn has_disk_weights(&self, cgroup: Cgroup) -> bool {
        let root = self.sys.join("fs/cgroup");
        let has = |directory: &Path, files: &[&str]| {
            files.iter().any(|file| directory.join(file).exists())
        };
        match cgroup {
            // The first is beside the weight, which the root has not.
            Cgroup::V1 { .. } => {
                let files = ["blkio.bfq.io_service_bytes", "blkio.weight"];
                has(&root.join("blkio"), &files)
            }
            Cgroup::V2 => self.groups_have(&["io.weight", "io.bfq.weight"]),
        }
    }

    /// Whether a control group of version 2 below the root, which has not all files, has one of these.
    fn groups_have(&self, files: &[&str]) -> bool {
        let groups = fs::read_dir(self.sys.join("fs/cgroup"));
        let groups = groups.into_iter().flatten().flatten();
        let groups = groups
            .map(|entry| entry.path())
            .filter(|path| path.is_dir());
        let mut groups = groups.peekable();
        let has = |group: PathBuf| files.iter().any(|file| group.join(file).exists());
        groups.peek().is_none() || groups.any(has)
    }

    /// Faults of the capabilities, for an OCI runtime with the rights of the process `pid`.
    fn capabilities(&self, spec: &Spec, pid: u32) -> Vec<String> {
        let status = fs::read_to_string(self.proc.join(pid.to_string()).join("status"));
        let status = status.unwrap_or_default();
        let lacking = added(spec).filter(|(_, bit)| !has_capability(&status, "CapBnd:", *bit));
        lacking
            .map(|(name, _)| {
                format!(
                    "{name} cannot be given: this kernel has it not, or containerd itself is \
                     without it; leave it out of security.capabilities.add"
                )
            })
            .collect()
    }

    /// Faults of the limits on processes, for an OCI runtime with the rights of the process `pid`.
    fn ulimits(&self, spec: &Spec, pid: u32) -> Vec<String> {
        let of_process = |file| fs::read_to_string(self.proc.join(pid.to_string()).join(file));
        let (Ok(status), Ok(limits)) = (of_process("status"), of_process("limits")) else {
            return Vec::new();
        };
        let files_max = fs::read_to_string(self.proc.join("sys/fs/nr_open"));
        let files_max = files_max.ok().and_then(|text| text.trim().parse().ok());
        let is_free = has_capability(&status, "CapEff:", SYS_RESOURCE);
        let fault = |(name, limit): (&UlimitName, &Ulimit)| {
            let most = hard_limit(&limits, *name).filter(|_| !is_free);
            let most = match (name, files_max) {
                (UlimitName::Nofile, Some(files)) => Some(most.unwrap_or(files).min(files)),
                _ => most,
            };
            let most = most.filter(|most| limit.hard > *most)?;
            let (name, by) = (
                name.as_str(),
                if is_free { "fs.nr_open" } else { "containerd" },
            );
            Some(format!(
                "ulimits.{name} {limit} is above the {most} that {by} has on this host; lower it, or \
                 raise that"
            ))
        };
        spec.ulimits.iter().filter_map(fault).collect()
    }
}

/// Whether a process with this `status` has a capability in one of its sets; yes if it cannot be
/// told.
fn has_capability(status: &str, set: &str, bit: usize) -> bool {
    let mut lines = status.lines();
    let set = lines.find_map(|line| line.strip_prefix(set));
    let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.is_none_or(|set| set >> bit & 1 == 1)
}

/// Hard limit in a process's `limits`; `None`: there is none.
fn hard_limit(limits: &str, name: UlimitName) -> Option<u64> {
    let label = label(name);
    let line = limits.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Name of a limit in `/proc/PID/limits`.
const fn label(name: UlimitName) -> &'static str {
    match name {
        UlimitName::Core => "Max core file size",
        UlimitName::Cpu => "Max cpu time",
        UlimitName::Data => "Max data size",
        UlimitName::Fsize => "Max file size",
        UlimitName::Locks => "Max file locks",
        UlimitName::Memlock => "Max locked memory",
        UlimitName::Msgqueue => "Max msgqueue size",
        UlimitName::Nice => "Max nice priority",
        UlimitName::Nofile => "Max open files",
        UlimitName::Nproc => "Max processes",
        UlimitName::Rss => "Max resident set",
        UlimitName::Rtprio => "Max realtime priority",
        UlimitName::Rttime => "Max realtime timeout",
        UlimitName::Sigpending => "Max pending signals",
        UlimitName::Stack => "Max stack size",
    }
}

#[cfg(test)]
mod tests;
