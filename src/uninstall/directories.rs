//! The agent's directories on this node, of which only what the agent makes is removed.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

use crate::agent::RemovedNode;
use crate::config::Config;
use crate::mountinfo::MountLine;
use crate::mounts::on_host;

/// Entries of the state directory, besides volumes.
const STATE: [&str; 19] = [
    "admin-token",
    "audit",
    "blobs",
    "defaults",
    "desired.json.a",
    "desired.json.b",
    "events",
    "last-change",
    "log-level",
    "logs",
    "opening",
    "policy.last",
    "quarantine",
    "reserve",
    "secrets.key",
    "state",
    "subnet",
    "subnet6",
    "token",
];
/// Entries with volumes and what is known of them.
const VOLUMES: [&str; 4] = [
    "image-volume-notes",
    "image-volumes",
    "volume-notes",
    "volumes",
];
/// Entries of the directory for what a reboot ends.
const RUN: [&str; 10] = [
    "agent.sock",
    "chas-logger",
    "exec",
    "files",
    "host-paths",
    "ipv6-switches",
    "netns",
    "rules",
    "secrets",
    "unrouted",
];

/// The agent's directories.
#[derive(Clone, Debug)]
pub(super) struct AgentDirectories {
    state: PathBuf,
    run: PathBuf,
    keeps_volumes: bool,
}

impl AgentDirectories {
    pub(super) fn of(config: &Config, keeps_volumes: bool) -> Self {
        Self {
            state: config.state.dir.clone(),
            run: config.state.run_dir.clone(),
            keeps_volumes,
        }
    }

    /// The place of the volumes.
    pub(super) fn volumes(&self) -> String {
        self.state.join("volumes").display().to_string()
    }

    /// Lines about what is to be removed.
    pub(super) fn plan(&self) -> [String; 2] {
        let [state, run] = [&self.state, &self.run].map(|path| path.display());
        [
            format!("  the agent's state in {state}: records, keys, tokens, logs, audit;"),
            format!("  {run};"),
        ]
    }

    /// Removes what the agent made in its directories, and these once they are empty.
    pub(super) fn remove(&self, done: &mut RemovedNode) {
        unmount_below(&self.run, done);
        let volumes: &[&str] = if self.keeps_volumes { &[] } else { &VOLUMES };
        let state: Vec<&str> = STATE.iter().chain(volumes).copied().collect();
        remove_entries(&self.state, &state, done);
        remove_entries(&self.run, &RUN, done);
    }
}

/// Takes away mounts of the agent that are left: none may be below what is removed.
fn unmount_below(directory: &Path, done: &mut RemovedNode) {
    for mount in mounts_below(directory).into_iter().rev() {
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        match on_host(|| Ok(unmount(Path::new(&mount), flags)?)) {
            Ok(()) => done.removed.push(format!("mount {mount}")),
            Err(error) => done.faults.push(format!("mount {mount}: {error}")),
        }
    }
}

fn mounts_below(directory: &Path) -> Vec<String> {
    let list = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = MountLine::all(&list).map(|mount| mount.point);
    let below = |point: &String| {
        let point = Path::new(point);
        point.starts_with(directory) && point != directory
    };
    points.filter(below).collect()
}

/// Removes entries of a directory, with the files that were to replace them, and then itself if it is
/// empty.
fn remove_entries(directory: &Path, names: &[&str], done: &mut RemovedNode) {
    let new = names.iter().map(|name| format!("{name}.new"));
    let names = names.iter().map(ToString::to_string).chain(new);
    for name in names {
        let path = directory.join(&name);
        // A mount below is somebody's files.
        if let Some(mount) = mounts_below(&path).first() {
            done.faults
                .push(format!("{}: {mount} is mounted there", path.display()));
            continue;
        }
        let removed = match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => done.removed.push(path.display().to_string()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => done.faults.push(format!("{}: {error}", path.display())),
        }
    }
    // With other things in it, or as a mount, it stays.
    if fs::remove_dir(directory).is_ok() {
        done.removed.push(directory.display().to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_agent_makes_is_removed_and_volumes_stay_unless_they_are_to_go() {
        let directory = tempfile::tempdir().unwrap();
        let [state, run] = ["state", "run"].map(|name| directory.path().join(name));
        let of = |keeps_volumes| AgentDirectories {
            state: state.clone(),
            run: run.clone(),
            keeps_volumes,
        };
        let make = || {
            for path in ["state/volumes/data", "state/logs/a", "run/netns"] {
                fs::create_dir_all(directory.path().join(path)).unwrap();
            }
            fs::write(state.join("defaults.new"), "").unwrap();
            fs::write(state.join("others"), "").unwrap();
            std::os::unix::fs::symlink("/etc", run.join("chas-logger")).unwrap();
        };
        for keeps in [true, false] {
            make();
            let mut done = RemovedNode::default();
            of(keeps).remove(&mut done);
            assert!(done.faults.is_empty(), "{done:?}");
            assert_eq!(state.join("volumes/data").exists(), keeps);
            assert!(state.join("others").exists(), "it is not the agent's");
            assert!(!state.join("logs").exists() && !state.join("defaults.new").exists());
            assert!(!run.exists() && Path::new("/etc").exists());
        }
        fs::remove_file(state.join("others")).unwrap();
        of(false).remove(&mut RemovedNode::default());
        assert!(!state.exists());
    }
}
