//! Processes as the kernel tells of them in `/proc`. Blocks for some fifty microseconds a process, or
//! for as long as the kernel keeps the memory of one locked.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::{Duration, SystemTime};

use procfs::ProcResult;
use procfs::process::Process;

/// Bytes of a command line that are shown.
const COMMAND_BYTES_MAX: u64 = 2000;

/// Process of a container, by numbers of the container's own where it has some.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ContainerProcess {
    /// Number in the container.
    pub(crate) pid: u32,
    /// Number on the node.
    pub(crate) host_pid: u32,
    /// Number of its parent in the container; 0: that is none of the container's.
    pub(crate) parent_pid: u32,
    /// User, by the container's own number; `None`: the container has none for it.
    pub(crate) user: Option<u32>,
    /// State, by the kernel's letter: `R`, `S`, `D`, `T`, `Z`.
    pub(crate) state: char,
    /// Time of its start.
    pub(crate) started: SystemTime,
    /// Time on processors.
    pub(crate) cpu: Duration,
    /// Memory in bytes, shared parts counted for each.
    pub(crate) resident_bytes: u64,
    /// Threads.
    pub(crate) threads: u64,
    /// Program and arguments, which may be cut; the name in brackets where the kernel has no others.
    pub(crate) command: Vec<String>,
}

/// Processes that are still there of these, in the order of their numbers in the container.
pub(crate) fn look(pids: &[u32]) -> Vec<ContainerProcess> {
    let seen = pids.iter().filter_map(|pid| Some((*pid, one(*pid).ok()?)));
    let seen: BTreeMap<u32, (ContainerProcess, u32)> = seen.collect();
    let own = |host: u32| seen.get(&host).map_or(0, |(process, _)| process.pid);
    let mut all: Vec<_> = seen
        .values()
        .map(|(process, parent)| ContainerProcess {
            parent_pid: own(*parent),
            ..process.clone()
        })
        .collect();
    all.sort_by_key(|process| process.pid);
    all
}

/// The process, and its parent's number on the node.
fn one(host_pid: u32) -> ProcResult<(ContainerProcess, u32)> {
    let process = Process::new(host_pid.cast_signed())?;
    let (stat, status) = (process.stat()?, process.status()?);
    let ticks = procfs::ticks_per_second().max(1);
    let time = |count: u64| Duration::from_millis(count.saturating_mul(1000) / ticks);
    let boot = SystemTime::UNIX_EPOCH + Duration::from_secs(procfs::boot_time_secs()?);
    // The innermost number is the container's own.
    let pid = status.nspid.as_ref().and_then(|pids| pids.last().copied());
    let number = |pid: i32| u32::try_from(pid).unwrap_or_default();
    let maps = std::fs::read_to_string(format!("/proc/{host_pid}/uid_map")).unwrap_or_default();
    let mut command = command(host_pid);
    if command.is_empty() {
        command.push(format!("[{}]", stat.comm));
    }
    let shown = ContainerProcess {
        pid: pid.map_or(host_pid, number),
        host_pid,
        parent_pid: 0,
        user: inside(&maps, status.euid),
        state: stat.state,
        started: boot + time(stat.starttime),
        cpu: time(stat.utime.saturating_add(stat.stime)),
        resident_bytes: stat.rss.saturating_mul(procfs::page_size()),
        threads: status.threads,
        command,
    };
    Ok((shown, number(stat.ppid)))
}

fn command(host_pid: u32) -> Vec<String> {
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(format!("/proc/{host_pid}/cmdline")) {
        let _what_came = file.take(COMMAND_BYTES_MAX).read_to_end(&mut bytes);
    }
    let words = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    let words = words.split(|byte| *byte == 0);
    let words = words.map(|word| String::from_utf8_lossy(word).into_owned());
    if bytes.is_empty() {
        Vec::new()
    } else {
        words.collect()
    }
}

/// The number that a user namespace with these maps has for a user of the node.
fn inside(maps: &str, user: u32) -> Option<u32> {
    maps.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let (inside, outside) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        let beyond = user.checked_sub(outside)?;
        (beyond < numbers.next()?.ok()?).then_some(inside + beyond)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_shown_by_the_number_that_the_container_has_for_it() {
        let own = "         0     231072      65536\n";
        let hosts = "0 0 4294967295\n";
        for (maps, user, shown) in [
            (own, 231_072, Some(0)),
            (own, 231_172, Some(100)),
            (own, 0, None),
            (own, 296_608, None),
            (hosts, 1000, Some(1000)),
            ("", 0, None),
        ] {
            assert_eq!(inside(maps, user), shown, "{maps} {user}");
        }
    }

    #[test]
    fn a_process_is_told_with_its_words_and_one_that_is_gone_is_left_out() {
        // It waits for its input before it looks for the other.
        let mut child = std::process::Command::new("cat")
            .args(["-", "a b"])
            .stdin(std::process::Stdio::piped())
            .spawn();
        let Ok(child) = &mut child else {
            panic!("no cat")
        };
        let pids = [std::process::id(), child.id(), 4_000_000];
        let seen = look(&pids);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(seen.len(), 2, "{seen:?}");
        let one = seen.iter().find(|one| one.host_pid == pids[1]).unwrap();
        assert_eq!(one.command.last().unwrap(), "a b");
        let parent = seen.iter().find(|one| one.host_pid == pids[0]).unwrap();
        assert_eq!(one.parent_pid, parent.pid);
        assert!(
            parent.threads > 1 && parent.resident_bytes > 0,
            "{parent:?}"
        );
        let age = SystemTime::now().duration_since(one.started).unwrap();
        assert!(age < Duration::from_mins(1), "{age:?}");
    }
}
