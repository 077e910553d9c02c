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

use super::Instances;
use crate::oci::host::Cgroup;
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
            let host = HostFiles {
                proc: "/proc".into(),
                sys: "/sys".into(),
            };
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
    let is_sized = cpuset.is_some() || swap.is_some() || io.weight.is_some();
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
        faults
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
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, HostFiles) {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = HostFiles {
            proc: root.path().join("proc"),
            sys: root.path().join("sys"),
        };
        (root, host)
    }

    fn spec(more: &Value) -> Spec {
        let mut body = json!({"name": "a", "image": "b"});
        let more = more.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(more);
        state::spec::parse::deploy(&body).unwrap().spec
    }

    #[track_caller]
    fn check(faults: &[String], parts: &[&str]) {
        assert_eq!(faults.len(), parts.len(), "{faults:?}");
        for (fault, part) in faults.iter().zip(parts) {
            assert!(fault.contains(part), "{fault}");
        }
    }

    const V1: Cgroup = Cgroup::V1 { swap: true };

    #[test]
    fn what_the_control_groups_of_a_host_lack_is_told_at_once() {
        let all = spec(&json!({"resources": {
            "cpuset": "1-3", "memory": "64m", "swap": "0", "io": {"weight": 10},
        }}));
        let online = ("sys/devices/system/cpu/online", "0-1\n");
        let (_root, bare) = host(&[online]);
        let lacking = "CPU 2-3, and containers of this host have 0-1";
        let unaccounted = bare.resources(&all.resources, Cgroup::V1 { swap: false }, "ns");
        check(&unaccounted, &["swapaccount=1", lacking, "io.weight"]);
        let (_root, around) = host(&[
            ("sys/devices/system/cpu/online", "0-3\n"),
            ("sys/fs/cgroup/cpuset/ns/cpuset.effective_cpus", "\n"),
            ("sys/fs/cgroup/cpuset/cpuset.effective_cpus", "0-1\n"),
            ("sys/fs/cgroup/cpuset.cpus.effective", "0-2\n"),
            ("sys/fs/cgroup/ns/cpuset.cpus.effective", "0-3\n"),
            ("sys/fs/cgroup/ns/memory.swap.max", "max\n"),
        ]);
        let of_group = |cgroup| around.resources(&all.resources, cgroup, "ns");
        check(&of_group(V1), &[lacking, "io.weight"]);
        check(&of_group(Cgroup::V2), &["io.weight"]);
        check(
            &bare.resources(&all.resources, Cgroup::V2, "ns"),
            &[lacking],
        );
        let bfq = "sys/fs/cgroup/blkio/blkio.bfq.io_service_bytes";
        let (_root, weighing) = host(&[online, (bfq, "")]);
        check(&weighing.resources(&all.resources, V1, "ns"), &[lacking]);
        let (_root, unweighed) = host(&[("sys/fs/cgroup/a.slice/cpu.max", "")]);
        check(
            &unweighed.resources(&all.resources, Cgroup::V2, "ns"),
            &["does not account swap", "io.weight"],
        );
        let (_root, weighed) = host(&[
            ("sys/fs/cgroup/a.slice/io.weight", ""),
            ("sys/fs/cgroup/a.slice/memory.swap.max", ""),
        ]);
        check(&weighed.resources(&all.resources, Cgroup::V2, "ns"), &[]);
        let unlimited = spec(&json!({"resources": {"memory": "64m", "swap": "unlimited"}}));
        check(
            &bare.resources(&unlimited.resources, Cgroup::V1 { swap: false }, "ns"),
            &[],
        );
    }

    #[test]
    fn no_process_limit_is_above_what_the_runtime_may_give() {
        const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max locked memory         8388608              8388608              bytes     \n\
             Max open files            1024                 524288               files     \n\
             Max stack size            8388608              unlimited            bytes     \n";
        let with = |capabilities: &str| {
            host(&[
                ("proc/7/limits", LIMITS),
                (
                    "proc/7/status",
                    &format!("Name:\tx\nCapEff:\t{capabilities}\n"),
                ),
                ("proc/sys/fs/nr_open", "1048576\n"),
            ])
        };
        let asked = spec(&json!({"ulimits": {
            "memlock": "unlimited", "nofile": "64:2000000", "stack": "unlimited", "rtprio": 1,
        }}));
        let (_root, bound) = with("000001fffeffffff");
        let told = [
            "memlock unlimited:unlimited is above the 8388608 that containerd",
            "the 524288 that containerd",
        ];
        check(&bound.ulimits(&asked, 7), &told);
        let (_root, free) = with("000001ffffffffff");
        check(&free.ulimits(&asked, 7), &["the 1048576 that fs.nr_open"]);
        check(
            &free.ulimits(&spec(&json!({"ulimits": {"nofile": 1_048_576}})), 7),
            &[],
        );
        check(&free.ulimits(&asked, 8), &[]);
    }

    #[test]
    fn a_capability_that_the_runtime_has_not_is_told() {
        assert_eq!(CAPABILITIES[SYS_RESOURCE], "CAP_SYS_RESOURCE");
        let status = "CapBnd:\t000001fffeffffff\n";
        let (_root, bound) = host(&[("proc/7/status", status)]);
        let asked = |add: &[&str]| spec(&json!({"security": {"capabilities": {"add": add}}}));
        let both = asked(&["NET_ADMIN", "SYS_RESOURCE"]);
        check(&bound.capabilities(&both, 7), &["CAP_SYS_RESOURCE cannot"]);
        check(&bound.capabilities(&asked(&["NET_ADMIN"]), 7), &[]);
        check(&bound.capabilities(&both, 8), &[]);
        assert!(asks_the_host(&both) && !asks_the_host(&asked(&["KILL"])));
    }

    #[test]
    fn every_limit_is_found_in_the_list_of_this_kernel() {
        let limits = fs::read_to_string("/proc/self/limits").unwrap();
        for name in UlimitName::ALL {
            let is_there = limits.lines().any(|line| line.starts_with(label(*name)));
            assert!(is_there, "{}", label(*name));
        }
    }
}
