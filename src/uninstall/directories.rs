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

/// Source of the mounts below which launches hold paths of the host.
const PATHS: &str = "chas-host-paths";

/// The agent's directories.
#[derive(Clone, Debug)]
pub(super) struct AgentDirectories {
    state: PathBuf,
    run: PathBuf,
    keeps_volumes: bool,
}

impl AgentDirectories {
    pub(super) fn of(config: &Config, keeps_volumes: bool) -> Self {
        // The kernel's list of mounts names no links.
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        Self {
            state: real(&config.state.dir),
            run: real(&config.state.run_dir),
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

    /// Mounts of somebody else at or below what is to be removed: what is in them would go, too.
    pub(super) fn mounts_of_others(&self) -> Vec<String> {
        let list = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        self.others(&list)
    }

    fn others(&self, list: &str) -> Vec<String> {
        let state: Vec<_> = names(&self.state_entries()).collect();
        let is_removed = |point: &Path| {
            let entry = |directory: &Path| {
                let rest = point.strip_prefix(directory).ok()?;
                let first = rest.components().next()?;
                first.as_os_str().to_str().map(ToOwned::to_owned)
            };
            entry(&self.run).is_some() || entry(&self.state).is_some_and(|it| state.contains(&it))
        };
        let mounts: Vec<_> = MountLine::all(list).collect();
        let launches = mounts.iter().filter(|mount| mount.source == PATHS);
        let launches: Vec<_> = launches.map(|mount| Path::new(&mount.point)).collect();
        let others = mounts.iter().filter(|mount| {
            let point = Path::new(&mount.point);
            let is_launch = launches.iter().any(|launch| point.starts_with(launch));
            is_removed(point) && !self.is_own(mount) && !is_launch
        });
        others.map(|mount| mount.point.clone()).collect()
    }

    /// Whether the agent made a mount, and takes it away by itself.
    fn is_own(&self, mount: &MountLine<'_>) -> bool {
        let Ok(rest) = Path::new(&mount.point).strip_prefix(&self.run) else {
            return false;
        };
        let mut parts = rest
            .components()
            .filter_map(|part| part.as_os_str().to_str());
        match (parts.next(), mount.kind) {
            (Some("netns"), "nsfs") | (Some("files"), "sysfs") => true,
            (Some("files"), "tmpfs") => mount.source == "chas-hosts",
            (Some("secrets"), "tmpfs") => mount.source == "chas-secrets",
            (Some(name), "overlay") => name.starts_with("chas-view-"),
            (Some(_) | None, _) => false,
        }
    }

    fn state_entries(&self) -> Vec<&'static str> {
        let volumes: &[&str] = if self.keeps_volumes { &[] } else { &VOLUMES };
        STATE.iter().chain(volumes).copied().collect()
    }

    /// Removes what the agent made in its directories, and these once they are empty.
    pub(super) fn remove(&self, done: &mut RemovedNode) {
        self.unmount_own(done);
        remove_entries(&self.state, &self.state_entries(), done);
        remove_entries(&self.run, &RUN, done);
    }

    /// Takes away mounts of the agent that are left: none may be below what is removed. Those by which
    /// launches hold paths of the host are the runtime's to take away, for the host may share them.
    fn unmount_own(&self, done: &mut RemovedNode) {
        let list = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mounts: Vec<_> = MountLine::all(&list).collect();
        for mount in mounts.iter().rev().filter(|mount| self.is_own(mount)) {
            let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            let point = &mount.point;
            match on_host(|| Ok(unmount(Path::new(point), flags)?)) {
                Ok(()) => done.removed.push(format!("mount {point}")),
                Err(error) => done.faults.push(format!("mount {point}: {error}")),
            }
        }
    }
}

fn mounts_below(directory: &Path) -> Vec<String> {
    let list = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = MountLine::all(&list).map(|mount| mount.point);
    let below = |point: &String| Path::new(point).starts_with(directory);
    points.filter(below).collect()
}

/// Names of entries, and of the files that were to replace them.
fn names(entries: &[&str]) -> impl Iterator<Item = String> {
    let both = |name: &&str| [(*name).to_owned(), format!("{name}.new")];
    entries
        .iter()
        .flat_map(both)
        .collect::<Vec<_>>()
        .into_iter()
}

/// Removes entries of a directory, with the files that were to replace them, and then itself if it is
/// empty.
fn remove_entries(directory: &Path, entries: &[&str], done: &mut RemovedNode) {
    for name in names(entries) {
        let path = directory.join(&name);
        let shown = path.display().to_string();
        // A mount below is somebody's files.
        if let Some(mount) = mounts_below(&path).first() {
            done.faults
                .push(format!("{shown}: {mount} is mounted there"));
            continue;
        }
        let removed = match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(&path).map(|()| shown.clone()),
            Ok(found) if found.is_symlink() => unlink(&path),
            Ok(_) => fs::remove_file(&path).map(|()| shown.clone()),
            Err(error) => Err(error),
        };
        match removed {
            Ok(line) => done.removed.push(line),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => done.faults.push(format!("{shown}: {error}")),
        }
    }
    // With other things in it, or as a mount, it stays.
    if fs::remove_dir(directory).is_ok() {
        done.removed.push(directory.display().to_string());
    }
}

/// Removes a link that somebody put in the place of an entry, without what it leads to.
fn unlink(path: &Path) -> std::io::Result<String> {
    let to = fs::read_link(path)?;
    fs::remove_file(path)?;
    let [path, to] = [path, &*to].map(Path::display);
    Ok(format!("{path}, a link: what is in {to} stays"))
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

    #[test]
    fn a_link_in_the_place_of_an_entry_is_not_followed_and_what_it_led_to_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let [state, run, elsewhere] =
            ["state", "run", "elsewhere"].map(|name| directory.path().join(name));
        fs::create_dir_all(&state).unwrap();
        fs::create_dir_all(elsewhere.join("data")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, state.join("volumes")).unwrap();
        let mut done = RemovedNode::default();
        let directories = AgentDirectories {
            state,
            run,
            keeps_volumes: false,
        };
        directories.remove(&mut done);
        assert!(elsewhere.join("data").exists() && done.faults.is_empty());
        let told = format!("what is in {} stays", elsewhere.display());
        assert!(
            done.removed.iter().any(|line| line.contains(&told)),
            "{done:?}"
        );
    }

    #[test]
    fn mounts_that_the_agent_did_not_make_are_somebody_s() {
        let list = [
            "/run/chas/netns/0123456789ab-1 rw - nsfs nsfs rw",
            "/run/chas/files/.memory/0123456789ab-1 rw - tmpfs chas-hosts rw",
            "/run/chas/secrets rw - tmpfs chas-secrets rw",
            "/run/chas/chas-view-a rw - overlay overlay rw",
            "/run/chas/host-paths/0123456789ab-1 rw - tmpfs chas-host-paths rw",
            "/run/chas/host-paths/0123456789ab-1/0 rw - ext4 /dev/vda rw",
            "/run rw - tmpfs tmpfs rw",
            "/run/chas rw - tmpfs tmpfs rw",
            "/srv/state rw - ext4 /dev/vdb rw",
            "/srv/state/others rw - ext4 /dev/vdb rw",
            "/run/chas/netns/0123456789ab-2 rw - ext4 /dev/vda rw",
            "/run/chas/secrets/mine rw - tmpfs tmpfs rw",
            "/run/chas/host-paths/x rw - ext4 /dev/vda rw",
            "/run/chas/mine rw - tmpfs chas-secrets rw",
            "/srv/state/logs rw - ext4 /dev/vdc rw",
            "/srv/state/volumes/data rw - ext4 /dev/vdd rw",
        ];
        let list: Vec<_> = list
            .map(|line| format!("1 0 0:1 / {line}"))
            .into_iter()
            .collect();
        let [state, run] = ["/srv/state", "/run/chas"].map(PathBuf::from);
        for (keeps_volumes, count) in [(true, 5), (false, 6)] {
            let directories = AgentDirectories {
                state: state.clone(),
                run: run.clone(),
                keeps_volumes,
            };
            let expected: Vec<_> = list[10..10 + count]
                .iter()
                .map(|line| line.split(' ').nth(4).unwrap())
                .collect();
            assert_eq!(directories.others(&list.join("\n")), expected);
        }
    }
}
