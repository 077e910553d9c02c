//! Use by the processes of a control group, by the kernel's own counts: a few small files a group,
//! and no call to containerd.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags};

use super::{CGROUP_ROOT, Cgroup, parse_kills};

/// Ticks per second in `cpuacct.stat`: `USER_HZ`, which is 100 on every Linux.
const TICK: Duration = Duration::from_millis(10);
/// A limit of version 1 from which on it is none: the largest number of whole pages is a little below
/// `i64::MAX`.
const NO_LIMIT: u64 = 1 << 62;

/// Bytes that are read at once: more than all but the longest have.
const PIECE_BYTES: usize = 4 << 10;
/// Bytes of a file, above which it is none of the kernel's.
const FILE_BYTES_MAX: usize = 1 << 20;

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
    /// Processes that the kernel killed for want of memory, since the group was made.
    pub(crate) kills: u64,
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

/// Reader of what the control groups below one use, whose directories are opened once for all of them:
/// most of what a small file costs is the way to it.
#[derive(Debug)]
pub(crate) struct UsageReader {
    cgroup: Cgroup,
    /// Directory of the group above, for each controller; of version 2 there is one.
    directories: BTreeMap<&'static str, OwnedFd>,
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
    /// Use of the group with this name. Blocks for some fifty microseconds. `None`: there is none.
    pub(crate) fn usage(&self, name: &str) -> Option<GroupUsage> {
        let group = |controller: &str| Group {
            directory: self.directories.get(controller),
            name,
        };
        let usage = match self.cgroup {
            Cgroup::V1 { .. } => GroupUsage {
                cpu: cpu_of_v1(&group("cpuacct"), &group("cpu")),
                memory: memory_of_v1(&group("memory")),
                pids: pids(&group("pids")),
                disk: disk_of_v1(&group("blkio")),
            },
            Cgroup::V2 => {
                let group = group("");
                GroupUsage {
                    cpu: cpu_of_v2(&group),
                    memory: memory_of_v2(&group),
                    pids: pids(&group),
                    disk: disk_of_v2(&group),
                }
            }
        };
        (usage != GroupUsage::default()).then_some(usage)
    }
}

/// Control group, by its name in the directory of the one above.
struct Group<'a> {
    directory: Option<&'a OwnedFd>,
    name: &'a str,
}

impl Group<'_> {
    fn text(&self, file: &str) -> Option<String> {
        let path = format!("{}/{file}", self.name);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.directory?, path, flags, Mode::empty()).ok()?;
        let mut bytes = Vec::new();
        loop {
            bytes.reserve_exact(PIECE_BYTES);
            let room = bytes.capacity() - bytes.len();
            let count = rustix::io::read(&file, spare_capacity(&mut bytes)).ok()?;
            // The kernel gives as much of such a file as there is room for.
            if count < room {
                return String::from_utf8(bytes).ok();
            }
            if bytes.len() > FILE_BYTES_MAX {
                return None;
            }
        }
    }

    fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.trim().parse().ok()
    }

    /// Limit, for which there may be the word `max`.
    fn limit(&self, file: &str) -> Option<u64> {
        self.number(file).filter(|limit| *limit < NO_LIMIT)
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

fn cpu_of_v1(accounts: &Group, limits: &Group<'_>) -> Option<CpuUsage> {
    let total = accounts.number("cpuacct.usage")?;
    let ticks = accounts.text("cpuacct.stat").unwrap_or_default();
    let limited = limits.text("cpu.stat").unwrap_or_default();
    let spent = |name| TICK.saturating_mul(u32::try_from(count(&ticks, name)).unwrap_or(u32::MAX));
    Some(CpuUsage {
        total: Duration::from_nanos(total),
        user: spent("user"),
        system: spent("system"),
        periods: count(&limited, "nr_periods"),
        throttled_periods: count(&limited, "nr_throttled"),
        throttled: Duration::from_nanos(count(&limited, "throttled_time")),
    })
}

fn cpu_of_v2(group: &Group<'_>) -> Option<CpuUsage> {
    let text = group.text("cpu.stat")?;
    let time = |name| Duration::from_micros(count(&text, name));
    Some(CpuUsage {
        total: time("usage_usec"),
        user: time("user_usec"),
        system: time("system_usec"),
        periods: count(&text, "nr_periods"),
        throttled_periods: count(&text, "nr_throttled"),
        throttled: time("throttled_usec"),
    })
}

fn memory_of_v1(group: &Group<'_>) -> Option<MemoryUsage> {
    let used = group.number("memory.usage_in_bytes")?;
    let stat = group.text("memory.stat").unwrap_or_default();
    let kills = group.text("memory.oom_control").unwrap_or_default();
    Some(MemoryUsage {
        used,
        working_set: used.saturating_sub(count(&stat, "total_inactive_file")),
        limit: group.limit("memory.limit_in_bytes"),
        swap: stat
            .contains("total_swap ")
            .then(|| count(&stat, "total_swap")),
        kills: parse_kills(&kills).unwrap_or(0),
    })
}

fn memory_of_v2(group: &Group<'_>) -> Option<MemoryUsage> {
    let used = group.number("memory.current")?;
    let stat = group.text("memory.stat").unwrap_or_default();
    let kills = group.text("memory.events").unwrap_or_default();
    Some(MemoryUsage {
        used,
        working_set: used.saturating_sub(count(&stat, "inactive_file")),
        limit: group.limit("memory.max"),
        swap: group.number("memory.swap.current"),
        kills: parse_kills(&kills).unwrap_or(0),
    })
}

fn pids(group: &Group<'_>) -> Option<PidUsage> {
    Some(PidUsage {
        count: group.number("pids.current")?,
        limit: group.limit("pids.max"),
    })
}

fn disk_of_v1(group: &Group<'_>) -> Option<DiskUsage> {
    let text = |file: &str| {
        let of_tree = group.text(&format!("blkio.throttle.{file}_recursive"));
        of_tree.or_else(|| group.text(&format!("blkio.throttle.{file}")))
    };
    let (bytes, operations) = (text("io_service_bytes")?, text("io_serviced")?);
    // `8:0 Read 4096`, a line for each disk and kind.
    let sum = |text: &str, kind: &str| {
        let words = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let of_kind = words.filter_map(|words| match words[..] {
            [_, this, number] if this == kind => number.parse::<u64>().ok(),
            _ => None,
        });
        of_kind.fold(0, u64::saturating_add)
    };
    Some(DiskUsage {
        read: sum(&bytes, "Read"),
        written: sum(&bytes, "Write"),
        reads: sum(&operations, "Read"),
        writes: sum(&operations, "Write"),
    })
}

fn disk_of_v2(group: &Group<'_>) -> Option<DiskUsage> {
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
