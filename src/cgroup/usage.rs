//! Use by the processes of a control group, by the kernel's own counts: a few small files a group,
//! and no call to containerd.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use self::files::Group;
pub(crate) use self::files::{KeptFiles, Scratch};
use self::memory::{memory_of_v1, memory_of_v2};
use super::{CGROUP_ROOT, Cgroup};

mod files;
mod memory;

/// Ticks per second in `cpuacct.stat`: `USER_HZ`, which is 100 on every Linux.
const TICK: Duration = Duration::from_millis(10);
/// Use of a control group. A part is `None` where the kernel does not count it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupUsage {
    pub(crate) cpu: Option<CpuUsage>,
    pub(crate) memory: Option<MemoryUsage>,
    pub(crate) pids: Option<PidUsage>,
    pub(crate) disk: Option<DiskUsage>,
}

/// CPU time since the group was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuUsage {
    /// In all.
    pub(crate) total: Duration,
    /// In programs.
    pub(crate) user: Duration,
    /// In the kernel for them.
    pub(crate) system: Duration,
    /// Periods of the limit in which anything ran. 0 without a limit.
    pub(crate) periods: u64,
    /// Periods in which the limit was used up.
    pub(crate) throttled_periods: u64,
    /// Time that processes waited for the next period.
    pub(crate) throttled: Duration,
}

/// Memory now, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryUsage {
    /// In all, with what is cached of files.
    pub(crate) used: u64,
    /// Without files that were not used of late: what the kernel would not easily give back.
    pub(crate) working_set: u64,
    /// Limit. `None`: the node's memory.
    pub(crate) limit: Option<u64>,
    /// In swap.
    pub(crate) swap: Option<u64>,
    /// Processes that the kernel killed for want of memory, since the group was made. `None`: they were
    /// not looked at.
    pub(crate) kills: Option<u64>,
}

/// Processes and threads now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PidUsage {
    pub(crate) count: u64,
    /// `None`: the node's.
    pub(crate) limit: Option<u64>,
}

/// Input and output of disks since the group was made, in bytes and operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskUsage {
    pub(crate) read: u64,
    pub(crate) written: u64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
}

/// Limits of a control group. They are the agent's own, so they are not read at each look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupLimits {
    /// Of memory, in bytes.
    memory: Option<u64>,
    /// Of processes and threads.
    pids: Option<u64>,
    /// Whether CPU time is limited, and so counted by periods.
    cpu: bool,
}

/// Extent to which a group is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UsageDetail {
    /// All.
    All,
    /// Numbers that the metrics have: of CPU time only that in all, which may be a file of its own, and no
    /// kills, which the containers' history counts.
    Metrics,
}

/// Use of a group at an earlier look, which spares a part of this one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UsageBefore<'a> {
    /// Memory, if that is not long ago: while all of it is the same in bytes, its parts are not read.
    pub(crate) memory: Option<&'a MemoryUsage>,
    /// Disks: while no bytes came, operations are not read.
    pub(crate) disk: Option<&'a DiskUsage>,
}

/// Reader of what the control groups below one use, whose directories are opened once for all of them:
/// most of what a small file costs is the way to it.
#[derive(Debug)]
pub(crate) struct UsageReader {
    cgroup: Cgroup,
    /// Directory of the group above, for each controller; of version 2 there is one.
    directories: BTreeMap<&'static str, OwnedFd>,
}

impl GroupUsage {
    /// Whether a part is unknown that was known at another look.
    pub(crate) const fn lacks(&self, before: &Self) -> bool {
        (self.cpu.is_none() && before.cpu.is_some())
            || (self.memory.is_none() && before.memory.is_some())
            || (self.pids.is_none() && before.pids.is_some())
            || (self.disk.is_none() && before.disk.is_some())
    }

    /// Whether it is of a group that was made since: CPU time only grows.
    pub(crate) fn is_anew(&self, cpu: Option<&CpuUsage>) -> bool {
        self.cpu.as_ref().map(|cpu| cpu.total) > cpu.map(|cpu| cpu.total)
    }
}

impl Cgroup {
    /// Reader for the groups below `parent` (absolute, as in the OCI spec).
    pub(crate) fn usage_below(self, parent: &str) -> UsageReader {
        self.usage_in(Path::new(CGROUP_ROOT), parent.trim_start_matches('/'))
    }

    fn usage_in(self, root: &Path, parent: &str) -> UsageReader {
        let controllers: &[&'static str] = match self {
            Self::V1 { .. } => &["cpuacct", "cpu", "memory", "pids", "blkio"],
            Self::V2 => &[""],
        };
        let open = |controller: &&'static str| {
            let path = root.join(controller).join(parent);
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(path, flags, Mode::empty());
            Some((*controller, directory.ok()?))
        };
        UsageReader {
            cgroup: self,
            directories: controllers.iter().filter_map(open).collect(),
        }
    }
}

impl UsageReader {
    /// Limits of the group with this name. `None`: not all of them could be read.
    pub(crate) fn limits(&self, name: &str, scratch: &mut Scratch) -> Option<GroupLimits> {
        let group = &mut self.group(name, (None, scratch));
        let mut limit = |controller, file| self.at(controller, group).limit(file);
        Some(match self.cgroup {
            Cgroup::V1 { .. } => GroupLimits {
                memory: limit("memory", "memory.limit_in_bytes")?,
                pids: limit("pids", "pids.max")?,
                cpu: limit("cpu", "cpu.cfs_quota_us")?.is_some(),
            },
            Cgroup::V2 => GroupLimits {
                memory: limit("", "memory.max")?,
                pids: limit("", "pids.max")?,
                // Its counts stand where those of all CPU time do.
                cpu: true,
            },
        })
    }

    /// CPU time of the group with this name and these limits. `None`: there is no group, or it is not
    /// counted.
    pub(crate) fn cpu(
        &self,
        name: &str,
        limits: GroupLimits,
        detail: UsageDetail,
        read: (Option<&KeptFiles>, &mut Scratch),
    ) -> Option<CpuUsage> {
        let group = &mut self.group(name, read);
        if self.cgroup == Cgroup::V2 {
            return cpu_of_v2(group);
        }
        let mut usage = cpu_of_v1(self.at("cpuacct", group), detail)?;
        if limits.cpu {
            add_periods_of_v1(self.at("cpu", group), &mut usage);
        }
        Some(usage)
    }

    /// Use of the group with this name and these limits, beside its CPU time. Blocks for some thirty
    /// microseconds. `None`: there is none.
    pub(crate) fn usage(
        &self,
        name: &str,
        limits: GroupLimits,
        detail: UsageDetail,
        (cpu, before): (Option<CpuUsage>, UsageBefore<'_>),
        read: (Option<&KeptFiles>, &mut Scratch),
    ) -> Option<GroupUsage> {
        let wanted = (limits.memory, detail, before.memory);
        let group = &mut self.group(name, read);
        let usage = match self.cgroup {
            Cgroup::V1 { .. } => GroupUsage {
                cpu,
                memory: memory_of_v1(self.at("memory", group), wanted),
                pids: pids(self.at("pids", group), limits.pids),
                disk: disk_of_v1(self.at("blkio", group), before.disk),
            },
            Cgroup::V2 => GroupUsage {
                cpu,
                memory: memory_of_v2(group, wanted),
                pids: pids(group, limits.pids),
                disk: disk_of_v2(group),
            },
        };
        (usage != GroupUsage::default()).then_some(usage)
    }

    /// The same group in the tree of a controller.
    fn at<'a, 'b>(&'b self, controller: &str, group: &'a mut Group<'b>) -> &'a mut Group<'b> {
        group.directory = self.directories.get(controller);
        group
    }

    fn group<'a>(
        &'a self,
        name: &'a str,
        (kept, scratch): (Option<&'a KeptFiles>, &'a mut Scratch),
    ) -> Group<'a> {
        Group {
            // Of version 2 the one; version 1 names it for each file.
            directory: self.directories.get(""),
            name,
            kept,
            scratch,
        }
    }
}

/// Number in the line `NAME N`; 0 without one.
fn count(text: &str, name: &str) -> u64 {
    let mut lines = text.lines();
    let number = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    number
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

fn cpu_of_v1(accounts: &mut Group<'_>, detail: UsageDetail) -> Option<CpuUsage> {
    let mut usage = CpuUsage {
        total: Duration::from_nanos(accounts.number("cpuacct.usage")?),
        ..CpuUsage::default()
    };
    if detail == UsageDetail::All {
        let ticks = accounts.text("cpuacct.stat").unwrap_or_default();
        let spent =
            |name| TICK.saturating_mul(u32::try_from(count(ticks, name)).unwrap_or(u32::MAX));
        (usage.user, usage.system) = (spent("user"), spent("system"));
    }
    Some(usage)
}

/// Adds how far the limit of version 1 was used.
fn add_periods_of_v1(limits: &mut Group<'_>, usage: &mut CpuUsage) {
    let limited = limits.text("cpu.stat").unwrap_or_default();
    usage.periods = count(limited, "nr_periods");
    usage.throttled_periods = count(limited, "nr_throttled");
    usage.throttled = Duration::from_nanos(count(limited, "throttled_time"));
}

fn cpu_of_v2(group: &mut Group<'_>) -> Option<CpuUsage> {
    let text = group.text("cpu.stat")?;
    let time = |name| Duration::from_micros(count(text, name));
    Some(CpuUsage {
        total: time("usage_usec"),
        user: time("user_usec"),
        system: time("system_usec"),
        periods: count(text, "nr_periods"),
        throttled_periods: count(text, "nr_throttled"),
        throttled: time("throttled_usec"),
    })
}

fn pids(group: &mut Group<'_>, limit: Option<u64>) -> Option<PidUsage> {
    let count = group.number("pids.current")?;
    Some(PidUsage { count, limit })
}

fn disk_of_v1(group: &mut Group<'_>, before: Option<&DiskUsage>) -> Option<DiskUsage> {
    // Bytes, or operations, that were read and written: `8:0 Read 4096`, a line for each disk and kind.
    let sums = |text: &str| {
        let mut sums = [0_u64; 2];
        for line in text.lines() {
            let mut words = line.split(' ').skip(1);
            let at = match words.next() {
                Some("Read") => 0,
                Some("Write") => 1,
                _ => continue,
            };
            let number = words.next().and_then(|word| word.parse().ok());
            sums[at] = sums[at].saturating_add(number.unwrap_or(0));
        }
        sums
    };
    let mut sums_of = |[below, own]: [&'static str; 2]| {
        let found = group.text(below).map(sums);
        found.or_else(|| group.text(own).map(sums))
    };
    let [read, written] = sums_of([
        "blkio.throttle.io_service_bytes_recursive",
        "blkio.throttle.io_service_bytes",
    ])?;
    // Operations carry bytes.
    if let Some(same) = before.filter(|disk| (disk.read, disk.written) == (read, written)) {
        return Some(same.clone());
    }
    let [reads, writes] = sums_of([
        "blkio.throttle.io_serviced_recursive",
        "blkio.throttle.io_serviced",
    ])?;
    Some(DiskUsage {
        read,
        written,
        reads,
        writes,
    })
}

fn disk_of_v2(group: &mut Group<'_>) -> Option<DiskUsage> {
    let text = group.text("io.stat")?;
    // `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 …`, a line for each disk.
    let sum = |name: &str| {
        let words = text.split_whitespace();
        let numbers = words.filter_map(|word| {
            let (this, number) = word.split_once('=')?;
            number.parse::<u64>().ok().filter(|_| this == name)
        });
        numbers.fold(0, u64::saturating_add)
    };
    Some(DiskUsage {
        read: sum("rbytes"),
        written: sum("wbytes"),
        reads: sum("rios"),
        writes: sum("wios"),
    })
}

#[cfg(test)]
mod tests;
