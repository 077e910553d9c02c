//! End of a session: every process of it is killed. The OCI runtime gives each program a session of
//! its own, which its children are in unless they make one themselves.

use std::thread;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::runtime::containerd::shim::process::session;

/// Rounds of looking and killing; a process may make others between the two.
const ROUNDS_MAX: u32 = 200;
/// Pause between two rounds.
const PAUSE: Duration = Duration::from_millis(5);

/// Kills every process of the session that `leader` leads, of those that `container` lists. False:
/// some do not end.
///
/// No process is killed that the container does not list: its number may be another's by now. The
/// number of a session is no other process's as long as the session has one. Where the leader
/// `has_ended` and a process has its number, the session is gone and the number another's.
pub(super) fn kill(leader: u32, has_ended: bool, container: impl Fn() -> Vec<u32>) -> bool {
    for round in 0..ROUNDS_MAX {
        if has_ended && session(leader).is_some() {
            return true;
        }
        let mut members = container();
        members.retain(|pid| session(*pid) == Some(leader));
        if members.is_empty() {
            // A leader that the container does not list is another's, or cannot be told to be its.
            return session(leader) != Some(leader);
        }
        for pid in members {
            kill_member(pid, leader);
        }
        if round > 0 {
            thread::sleep(PAUSE);
        }
    }
    false
}

/// Kills a process, if it is of that session.
fn kill_member(pid: u32, leader: u32) {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // Open, it stays the one that is looked at.
    if let Some(Ok(process)) = process.map(|pid| pidfd_open(pid, PidfdFlags::empty()))
        && session(pid) == Some(leader)
        && let Err(error) = pidfd_send_signal(&process, Signal::KILL)
    {
        tracing::debug!(pid, %error, "process of an exec not killed");
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn started(script: &str) -> Child {
        Command::new("setsid")
            .args(["sh", "-c", script])
            .spawn()
            .unwrap()
    }

    /// Processes whose session this is.
    fn members(leader: u32) -> Vec<u32> {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| session(*pid) == Some(leader)).collect()
    }

    fn until(is_so: impl Fn() -> bool) {
        while !is_so() {
            thread::sleep(PAUSE);
        }
    }

    #[test]
    fn a_session_ends_with_all_that_is_in_it_also_without_its_leader() {
        let mut whole = started("sleep 1000 & sleep 1000 & wait");
        let leader = whole.id();
        until(|| members(leader).len() == 3);
        assert!(kill(leader, false, || members(leader)));
        assert!(members(leader).is_empty());
        whole.wait().unwrap();

        let mut led = started("sleep 1000 & sleep 1000 &");
        let leader = led.id();
        until(|| members(leader).len() == 2);
        led.wait().unwrap();
        assert!(kill(leader, true, || members(leader)));
        assert!(members(leader).is_empty());
    }

    #[test]
    fn no_process_is_killed_that_the_container_does_not_list() {
        let mut other = started("exec sleep 1000");
        let leader = other.id();
        until(|| session(leader) == Some(leader));
        assert!(!kill(leader, false, Vec::new));
        assert_eq!(other.try_wait().unwrap(), None);
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_number_that_has_become_another_s_is_left_alone() {
        let mut other = started("exec sleep 1000");
        let leader = other.id();
        until(|| session(leader) == Some(leader));
        assert!(kill(leader, true, || vec![leader]));
        assert_eq!(other.try_wait().unwrap(), None);
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
