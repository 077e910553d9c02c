//! The agent as it is run on this node: by systemd, or by hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;
use tokio::process::Command;

use crate::agent::{RemovedNode, is_unit_of, unit_of, unit_property};
use crate::config::Config;

/// Units of the agent.
const UNITS: [&str; 2] = ["chas-node-agent.service", "chas-node-agent.socket"];
/// Directory of units that an administrator put there; those of packages are the packages' own.
const UNIT_DIRECTORY: &str = "/etc/systemd/system";
/// Name of the agent's program, as the kernel has it of a process (15 bytes).
const PROGRAM: &str = "chas-node-agent";
/// Time for systemd, and for an agent to end.
const END_MAX: Duration = Duration::from_secs(60);
const LOOK_EACH: Duration = Duration::from_millis(100);
/// Time after which an agent that something starts again is back.
const BACK_MAX: Duration = Duration::from_secs(3);

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
            Some(process) => unit_of(process.as_raw_nonzero()).await,
            None => None,
        };
        // A unit may be of another agent on this host, with a configuration of its own.
        let may_be_own = process.is_none() || running.as_deref() == Some(UNITS[0]);
        let text = |file: &PathBuf| fs::read_to_string(file).unwrap_or_default();
        let files = UNITS.map(|unit| Path::new(UNIT_DIRECTORY).join(unit));
        let is_own = |file: &PathBuf| may_be_own && is_unit_of(&text(file), &config.state.dir);
        let files: Vec<PathBuf> = files.into_iter().filter(is_own).collect();
        let mut units = Vec::new();
        if let Some(service) = running {
            let socket = service.replace(".service", ".socket");
            // Also one that is not active now, for it may be at the next boot.
            if unit_property(&socket, "LoadState").await.as_deref() == Some("loaded") {
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

    /// Files of its units that somebody wrote for this node, and that stay: directories with changes to
    /// them, and units of other names.
    pub(super) async fn kept_files(&self) -> Vec<PathBuf> {
        let mut kept = self.changes_in(Path::new(UNIT_DIRECTORY));
        for unit in &self.units {
            let file = unit_property(unit, "FragmentPath")
                .await
                .unwrap_or_default();
            let file = PathBuf::from(file);
            // One below /run is systemd's own, and gone with the unit.
            if file.starts_with("/etc") && !self.files.contains(&file) {
                kept.push(file);
            }
        }
        kept
    }

    fn changes_in(&self, directory: &Path) -> Vec<PathBuf> {
        let directories = self
            .units
            .iter()
            .map(|unit| directory.join(format!("{unit}.d")));
        directories.filter(|path| path.is_dir()).collect()
    }

    /// Ends the agent.
    pub(super) async fn end(&self, config: &Config) -> anyhow::Result<()> {
        for unit in &self.units {
            // One that systemd-run made cannot be disabled, and is gone once it is ended.
            let kind = unit_property(unit, "UnitFileState").await;
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
    fn changes_to_units_that_stay_are_named() {
        let directory = tempfile::tempdir().unwrap();
        for unit in ["chas-node-agent.service", "other.service"] {
            fs::create_dir(directory.path().join(format!("{unit}.d"))).unwrap();
        }
        let service = AgentService {
            files: Vec::new(),
            units: UNITS.map(str::to_owned).to_vec(),
            process: None,
        };
        let expected = directory.path().join("chas-node-agent.service.d");
        assert_eq!(service.changes_in(directory.path()), [expected]);
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
