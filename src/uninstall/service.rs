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
/// Time after which an agent that something starts again is back.
const BACK_MAX: Duration = Duration::from_secs(3);
/// Time for systemd to tell of a unit.
const TOLD_MAX: Duration = Duration::from_secs(5);

/// The agent's service.
#[derive(Clone, Debug)]
pub(super) struct AgentService {
    /// Files of units that are the agent's.
    files: Vec<PathBuf>,
    /// Units by which systemd starts the agent, its sockets first: each call of one would start it again.
    units: Vec<String>,
    /// Process that answers at the socket, where it is an agent.
    process: Option<Pid>,
}

impl AgentService {
    pub(super) async fn of(config: &Config) -> Self {
        let process = process_of(&config.state.socket()).await;
        let running = match process {
            Some(process) => unit_of(process).await,
            None => None,
        };
        // A unit may be of another agent on this host, with a configuration of its own.
        let may_be_own = process.is_none() || running.as_deref() == Some(UNITS[0]);
        let text = |file: &PathBuf| fs::read_to_string(file).unwrap_or_default();
        let files = UNITS.map(|unit| Path::new(UNIT_DIRECTORY).join(unit));
        let is_own = |file: &PathBuf| may_be_own && is_of(&text(file), &config.state.dir);
        let files: Vec<PathBuf> = files.into_iter().filter(is_own).collect();
        let mut units = Vec::new();
        if let Some(service) = running {
            let socket = service.replace(".service", ".socket");
            if property(&socket, "ActiveState").await.as_deref() == Some("active") {
                units.push(socket);
            }
            units.push(service);
        }
        let names = files.iter().rev().filter_map(|file| file.file_name());
        for name in names.map(|name| name.to_string_lossy().into_owned()) {
            if !units.contains(&name) {
                units.push(name);
            }
        }
        Self {
            files,
            units,
            process,
        }
    }

    /// Lines about what is to be ended and removed.
    pub(super) fn plan(&self) -> Vec<String> {
        let files = self
            .files
            .iter()
            .map(|file| format!("  {};", file.display()));
        let has_no_file = |unit: &&String| !self.files.iter().any(|file| file.ends_with(unit));
        let units = self.units.iter().filter(has_no_file);
        let units = units.map(|unit| format!("  the unit {unit} is ended and disabled;"));
        let process = self.process.filter(|_| self.units.is_empty());
        let process = process.map(|pid| {
            let pid = pid.as_raw_nonzero();
            format!("  the agent that runs (process {pid}) is ended;")
        });
        files.chain(units).chain(process).collect()
    }

    /// Ends the agent.
    pub(super) async fn end(&self, config: &Config) -> anyhow::Result<()> {
        for unit in &self.units {
            // One that systemd-run made cannot be disabled, and is gone once it is ended.
            let kind = property(unit, "UnitFileState").await;
            match kind.as_deref() == Some("transient") {
                true => systemctl(&["stop", unit.as_str()]).await?,
                false => systemctl(&["disable", "--now", unit.as_str()]).await?,
            }
        }
        let socket = config.state.socket();
        if let Some(process) = process_of(&socket).await {
            end_process(process, &socket).await?;
        }
        if self.process.is_none() && self.units.is_empty() {
            return Ok(());
        }
        // Whatever starts it again does so soon.
        tokio::time::sleep(BACK_MAX).await;
        match process_of(&socket).await {
            Some(process) => bail!(
                "the agent is back (process {}), and nothing was removed: end what starts it again, \
                 then run this again",
                process.as_raw_nonzero()
            ),
            None => Ok(()),
        }
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

async fn systemctl(words: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("systemctl");
    command.args(words).kill_on_drop(true);
    let shown = words.join(" ");
    match tokio::time::timeout(END_MAX, command.status()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => bail!("systemctl {shown}: {status}"),
        Ok(Err(error)) => bail!("systemctl: {error}"),
        Err(_) => bail!("systemctl {shown}: not done within {END_MAX:?}"),
    }
}

/// Ends an agent that no unit runs.
async fn end_process(process: Pid, socket: &Path) -> anyhow::Result<()> {
    kill_process(process, Signal::TERM)?;
    let ended = async {
        while process_of(socket).await.is_some() {
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
    let mut named = named.flat_map(str::split_whitespace);
    // Whole words: another agent's directory may begin with the name of this one's.
    let is_between = |c: char| c.is_whitespace() || "=\"'".contains(c);
    let mut words = lines().flat_map(|line| line.split(is_between));
    named.any(|name| Path::new(STATE_DIRECTORIES).join(name) == state_dir)
        || words.any(|word| Path::new(word) == state_dir)
}

/// The service of systemd that runs this process. `None`: none does, as where somebody started it by hand
/// in a session or another service.
async fn unit_of(process: Pid) -> Option<String> {
    let pid = process.as_raw_nonzero().to_string();
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let unit = service_in(&groups)?;
    (property(unit, "MainPID").await? == pid).then(|| unit.to_owned())
}

/// The service whose control group a process is in, by the list of its groups: that of systemd's own tree,
/// or of the only one.
fn service_in(groups: &str) -> Option<&str> {
    let mut paths = groups.lines().filter_map(|line| {
        let line = line.split_once(':')?.1;
        line.strip_prefix("name=systemd:")
            .or_else(|| line.strip_prefix(':'))
    });
    paths.find_map(|path| path.rsplit('/').find(|part| part.ends_with(".service")))
}

/// Properties of a unit as systemd tells them. `None`: it does not, or is not there.
async fn property(unit: &str, name: &str) -> Option<String> {
    let mut command = Command::new("systemctl");
    command
        .args(["show", "--value", "--property", name, "--", unit])
        .kill_on_drop(true);
    let output = tokio::time::timeout(TOLD_MAX, command.output()).await;
    let output = output.ok()?.ok()?;
    let told = String::from_utf8(output.stdout).ok()?;
    Some(told.trim().to_owned())
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
        let longer = "[Service]\nExecStart=/opt/chas-node-agent --state-dir=/srv/chas2\n";
        let [short, whole, below] = ["/srv/chas", "/srv/chas2/", "/srv/chas2/a"].map(Path::new);
        assert!(is_of(longer, whole) && !is_of(longer, short) && !is_of(longer, below));
    }

    #[test]
    fn the_service_of_a_process_is_that_of_its_control_group() {
        for (groups, expected) in [
            ("0::/system.slice/own.service\n", Some("own.service")),
            ("0::/system.slice/own.service/sub\n", Some("own.service")),
            (
                "5:memory:/a.service\n1:name=systemd:/system.slice/own.service\n0::/\n",
                Some("own.service"),
            ),
            ("0::/user.slice/user-0.slice/session-3.scope\n", None),
            ("0::/\n", None),
            ("", None),
        ] {
            assert_eq!(service_in(groups), expected, "{groups}");
        }
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
