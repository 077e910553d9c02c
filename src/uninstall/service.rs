//! The agent as it is run on this node: by systemd, or by hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;
use tokio::process::Command;

use crate::agent::RemovedNode;
use crate::config::Config;

/// Units of the agent.
const UNITS: [&str; 2] = ["chas-node-agent.service", "chas-node-agent.socket"];
/// Directory of units that an administrator put there; those of packages are the packages' own.
const UNIT_DIRECTORY: &str = "/etc/systemd/system";
/// Directory of the state of systemd's services, and that of the agent in it.
const STATE_DIRECTORIES: &str = "/var/lib";
const STATE_DIRECTORY: &str = "chas/node-agent";
/// Text of every unit of the agent.
const MARK: &str = "chas-node-agent";
/// Name of the agent's program, as the kernel has it of a process (15 bytes).
const PROGRAM: &str = "chas-node-agent";
/// Time for systemd, and for an agent to end.
const END_MAX: Duration = Duration::from_secs(60);
const LOOK_EACH: Duration = Duration::from_millis(100);

/// The agent's service.
#[derive(Clone, Debug)]
pub(super) struct AgentService {
    /// Files of units that are the agent's.
    files: Vec<PathBuf>,
    /// Process that answers at the socket, where it is an agent.
    process: Option<Pid>,
}

impl AgentService {
    pub(super) async fn of(config: &Config) -> Self {
        let files = UNITS.map(|unit| Path::new(UNIT_DIRECTORY).join(unit));
        let process = process_of(&config.state.socket()).await;
        Self {
            // A unit may be of another agent on this host, with a configuration of its own.
            files: match is_of_unit(process) {
                true => {
                    let text = |file: &PathBuf| fs::read_to_string(file).unwrap_or_default();
                    let is_own = |file: &PathBuf| is_of(&text(file), &config.state.dir);
                    files.into_iter().filter(is_own).collect()
                }
                false => Vec::new(),
            },
            process,
        }
    }

    /// Lines about what is to be ended and removed.
    pub(super) fn plan(&self) -> Vec<String> {
        let files = self
            .files
            .iter()
            .map(|file| format!("  {};", file.display()));
        let process = self.process.filter(|_| self.files.is_empty());
        let process = process.map(|pid| {
            let pid = pid.as_raw_nonzero();
            format!("  the agent that runs (process {pid}) is ended;")
        });
        files.chain(process).collect()
    }

    /// Ends the agent.
    pub(super) async fn end(&self, config: &Config) -> anyhow::Result<()> {
        for file in &self.files {
            let unit = file.file_name().unwrap_or_default();
            let mut command = Command::new("systemctl");
            command
                .args(["disable", "--now"])
                .arg(unit)
                .kill_on_drop(true);
            match tokio::time::timeout(END_MAX, command.status()).await {
                Ok(Ok(status)) if status.success() => {}
                Ok(Ok(status)) => bail!("systemctl disable --now {}: {status}", unit.display()),
                Ok(Err(error)) => bail!("systemctl: {error}"),
                Err(_) => bail!("{} is not ended within {END_MAX:?}", unit.display()),
            }
        }
        let socket = config.state.socket();
        let Some(process) = process_of(&socket).await else {
            return Ok(());
        };
        kill_process(process, Signal::TERM)?;
        let ended = async {
            while process_of(&socket).await.is_some() {
                tokio::time::sleep(LOOK_EACH).await;
            }
        };
        if tokio::time::timeout(END_MAX, ended).await.is_err() {
            bail!(
                "the agent (process {}) does not end: if something starts it again and again, end \
                 that first",
                process.as_raw_nonzero()
            );
        }
        Ok(())
    }

    /// Removes its units.
    pub(super) async fn remove(&self, done: &mut RemovedNode) {
        for file in &self.files {
            match fs::remove_file(file) {
                Ok(()) => done.removed.push(file.display().to_string()),
                Err(error) => done.faults.push(format!("{}: {error}", file.display())),
            }
        }
        if !self.files.is_empty() {
            let mut command = Command::new("systemctl");
            let reloading = command.arg("daemon-reload").kill_on_drop(true).status();
            // systemd reads them again at its next start at the latest.
            let _told = tokio::time::timeout(END_MAX, reloading).await;
        }
    }
}

/// Whether a unit is that of the agent with this state directory. A unit for a socket names none, and goes
/// with the service.
fn is_of(unit: &str, state_dir: &Path) -> bool {
    let lines = || {
        unit.lines()
            .map(str::trim)
            .filter(|line| !line.starts_with('#'))
    };
    if !unit.contains(MARK) {
        return false;
    }
    if lines().any(|line| line == "[Socket]") {
        return state_dir == Path::new(STATE_DIRECTORIES).join(STATE_DIRECTORY);
    }
    let named = lines().filter_map(|line| line.strip_prefix("StateDirectory="));
    let mut named = named.map(|name| Path::new(STATE_DIRECTORIES).join(name));
    let shown = state_dir.display().to_string();
    named.any(|named| named == state_dir) || lines().any(|line| line.contains(&shown))
}

/// Whether the agent that runs is the unit's, or none runs.
fn is_of_unit(process: Option<Pid>) -> bool {
    let Some(process) = process else {
        return true;
    };
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", process.as_raw_nonzero()));
    groups.is_ok_and(|groups| groups.contains(UNITS[0]))
}

/// The agent that has this socket. `None`: nobody answers there, or somebody else does, such as systemd in
/// place of an agent that is to be started.
async fn process_of(socket: &Path) -> Option<Pid> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let pid = stream.peer_cred().ok()?.pid()?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim() == PROGRAM)
        .then(|| Pid::from_raw(pid))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_the_agent_s_by_its_state_directory() {
        let service = include_str!("../../contrib/chas-node-agent.service");
        let socket = include_str!("../../contrib/chas-node-agent.socket");
        let own = Path::new("/var/lib/chas/node-agent");
        let other = Path::new("/srv/other/state");
        for unit in [service, socket] {
            assert!(is_of(unit, own) && !is_of(unit, other));
        }
        let by_hand = "[Service]\nExecStart=/opt/chas-node-agent --state-dir /srv/other/state\n";
        assert!(is_of(by_hand, other) && !is_of(by_hand, own));
        assert!(
            !is_of("[Service]\nStateDirectory=chas/node-agent\n", own),
            "no agent"
        );
    }

    #[tokio::test]
    async fn a_socket_of_another_program_is_no_agent_to_be_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        assert_eq!(process_of(&path).await, None);
        let _listener = tokio::net::UnixListener::bind(&path).unwrap();
        assert_eq!(process_of(&path).await, None, "it is this test");
    }
}
