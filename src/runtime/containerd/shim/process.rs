//! Facts about processes of the host, from `/proc`.

use std::time::Duration;

use state::time::BootTime;

/// Time at which a process began, from the 22nd field of `/proc/<pid>/stat`: clock ticks since boot
/// (proc(5)).
pub(crate) fn began(pid: u32) -> Option<BootTime> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may hold anything.
    let ticks: u64 = stat
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()?;
    let per_second = rustix::param::clock_ticks_per_second();
    Some(BootTime(Duration::from_millis(
        ticks.checked_mul(1000)? / per_second,
    )))
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
}
