//! Memory of a control group, in both versions.

use super::files::Group;
use super::{MemoryUsage, UsageDetail, count};
use crate::cgroup::parse_kills;

/// Limit of memory, extent, and memory before.
type WantedMemory<'a> = (Option<u64>, UsageDetail, Option<&'a MemoryUsage>);

pub(super) fn memory_of_v1(
    group: &mut Group<'_>,
    (limit, detail, before): WantedMemory<'_>,
) -> Option<MemoryUsage> {
    let used = group.number("memory.usage_in_bytes")?;
    if let Some(same) = before.filter(|before| before.used == used) {
        return Some(MemoryUsage {
            limit,
            ..same.clone()
        });
    }
    let stat = group.text("memory.stat").unwrap_or_default();
    let has_swap = stat.contains("total_swap ");
    Some(MemoryUsage {
        used,
        working_set: used.saturating_sub(count(stat, "total_inactive_file")),
        limit,
        swap: has_swap.then(|| count(stat, "total_swap")),
        kills: kills(group, "memory.oom_control", detail),
    })
}

pub(super) fn memory_of_v2(
    group: &mut Group<'_>,
    (limit, detail, before): WantedMemory<'_>,
) -> Option<MemoryUsage> {
    let used = group.number("memory.current")?;
    let swap = group.number("memory.swap.current");
    let is_same = |before: &&MemoryUsage| before.used == used && before.swap == swap;
    if let Some(same) = before.filter(is_same) {
        return Some(MemoryUsage {
            limit,
            ..same.clone()
        });
    }
    let stat = group.text("memory.stat").unwrap_or_default();
    Some(MemoryUsage {
        used,
        working_set: used.saturating_sub(count(stat, "inactive_file")),
        limit,
        swap,
        kills: kills(group, "memory.events", detail),
    })
}

fn kills(group: &mut Group<'_>, file: &'static str, detail: UsageDetail) -> Option<u64> {
    let is_wanted = detail == UsageDetail::All;
    is_wanted.then(|| group.text(file).and_then(parse_kills).unwrap_or(0))
}
