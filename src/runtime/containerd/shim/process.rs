//! Facts about processes of the host, from `/proc`.

use std::time::Duration;

use state::time::BootTime;

/// Flag of a process that has begun to exit (`PF_EXITING` in the kernel's `sched.h`).
const EXITING: u64 = 0x4;
/// SIGKILL in the masks of `/proc/<pid>/status`.
const SIGKILL_BIT: u64 = 1 << 8;

/// Time at which a process began, from the 22nd field of `/proc/<pid>/stat`: clock ticks since boot
/// (proc(5)).
pub(crate) fn began(pid: u32) -> Option<BootTime> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks: u64 = field(&stat, 22)?.parse().ok()?;
    let per_second = rustix::param::clock_ticks_per_second();
    Some(BootTime(Duration::from_millis(
        ticks.checked_mul(1000)? / per_second,
    )))
}

/// Parent of a process.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    field(&stat, 4)?.parse().ok()
}

/// Session of a process that runs. `None`: it has ended.
pub(crate) fn session(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Where its first thread alone has ended, the others run on.
    let has_threads = || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
        threads.is_ok_and(|threads| threads.count() > 1)
    };
    let runs = !matches!(field(&stat, 3), Some("Z" | "X")) || has_threads();
    field(&stat, 6)?.parse().ok().filter(|_| runs)
}

/// Whether a process has ended, or SIGKILL was sent to it.
pub(crate) fn is_ending(pid: u32) -> bool {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    let (Ok(stat), Ok(status)) = (read("stat"), read("status")) else {
        return true;
    };
    has_begun_to_exit(&stat) || is_kill_pending(&status)
}

fn has_begun_to_exit(stat: &str) -> bool {
    let flags = field(stat, 9).and_then(|flags| flags.parse::<u64>().ok());
    matches!(field(stat, 3), Some("Z" | "X")) || flags.is_some_and(|flags| flags & EXITING != 0)
}

fn is_kill_pending(status: &str) -> bool {
    let masks = status.lines().filter_map(|line| {
        let mask = line
            .strip_prefix("SigPnd:")
            .or_else(|| line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    masks.into_iter().any(|mask| mask & SIGKILL_BIT != 0)
}

/// Field of `/proc/<pid>/stat` by its number in proc(5), from the third on: the second is the
/// program's name in parentheses, and may hold anything.
fn field(stat: &str, number: usize) -> Option<&str> {
    let rest = stat.rsplit_once(')')?.1;
    rest.split_whitespace().nth(number.checked_sub(3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_s_beginning_is_read_from_the_kernel() {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let now = BootTime(Duration::try_from(now).unwrap());
        let own = began(std::process::id()).unwrap();
        assert!(
            own <= now && now.since(own) < Duration::from_secs(3600),
            "{own:?} {now:?}"
        );
        assert_eq!(began(u32::MAX), None);
    }

    #[test]
    fn a_process_ends_from_the_moment_that_it_is_killed() {
        let (idle, status) = (
            "7 (a) b) S 1 7 7 0 -1 4194560 1",
            "SigPnd:\t0000000000000000\n",
        );
        assert!(!has_begun_to_exit(idle) && !is_kill_pending(status));
        assert!(has_begun_to_exit("7 (a) Z 1 7 7 0 -1 4194560 1"));
        assert!(has_begun_to_exit("7 (a) R 1 7 7 0 -1 4194564 1"));
        for line in [
            "SigPnd:\t0000000000000100",
            "Name:\tx\nShdPnd:\t0000000000004100\n",
        ] {
            assert!(is_kill_pending(line), "{line}");
        }
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let alive = is_ending(child.id());
        child.kill().unwrap();
        let killed = is_ending(child.id());
        child.wait().unwrap();
        assert_eq!((alive, killed), (false, true));
        assert!(is_ending(u32::MAX));
    }
}
