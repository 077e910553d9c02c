//! Checks of containerd, and of the programs below it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;

use super::check::{CheckAnswer, DoctorCheck};
use crate::agent;
use crate::config::Config;
use crate::mountinfo::MountLine;
use crate::runtime::containerd::{ContainerdLook, runc_version};

/// Shim of the containers.
const SHIM: &str = "containerd-shim-runc-v2";
/// First containerd that has all of the calls that the agent makes.
const OLDEST: [u32; 2] = [1, 6];
/// containerd namespaces of other programs.
const OTHERS: [&str; 4] = ["buildkit", "default", "k8s.io", "moby"];
/// File systems that the kernel's overlay does not stand on.
const UNFIT: [&str; 4] = ["9p", "fuse", "nfs", "overlay"];

/// containerd as one look found it.
#[derive(Clone, Debug)]
pub(super) struct SeenEngine {
    pub(super) socket: String,
    pub(super) namespace: String,
    pub(super) look: Result<ContainerdLook, String>,
    /// File systems of its directories.
    pub(super) file_systems: BTreeMap<PathBuf, String>,
    /// Programs below it. `None`: only root may look.
    pub(super) programs: Option<SeenPrograms>,
}

/// Programs below containerd.
#[derive(Clone, Debug)]
pub(super) struct SeenPrograms {
    /// Place of the shim; `None`: it is not there.
    pub(super) shim: Option<PathBuf>,
    /// Version of runc and its known faults, or the fault for which it cannot be asked.
    pub(super) runc: Result<(String, Option<String>), String>,
}

impl SeenEngine {
    /// Looks.
    pub(super) async fn read(config: &Config) -> Self {
        let client = agent::containerd_of(config);
        let (look, programs) = tokio::join!(
            ContainerdLook::at(&client),
            SeenPrograms::of(&config.containerd.socket)
        );
        let look = look.map_err(|error| error.to_string());
        let list = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let directories = look.iter().flat_map(|look| look.directories.iter());
        let file_systems = directories.filter_map(|directory| {
            let kind = file_system(&list, directory)?;
            Some((directory.clone(), kind))
        });
        Self {
            socket: config.containerd.socket.display().to_string(),
            namespace: config.containerd.namespace.clone(),
            file_systems: file_systems.collect(),
            look,
            programs,
        }
    }

    /// Judges.
    pub(super) fn judge(&self) -> Vec<CheckAnswer> {
        let mut answers = match &self.look {
            Ok(look) => vec![
                DoctorCheck::Reachable.ok(format!("{} answers", self.socket)),
                version(look),
                self.snapshotter(look),
                self.namespace(look),
            ],
            Err(fault) => {
                let rest = [
                    DoctorCheck::ContainerdVersion,
                    DoctorCheck::Snapshotter,
                    DoctorCheck::Namespace,
                ];
                let rest = rest.map(|check| check.skipped("containerd does not answer"));
                let first = DoctorCheck::Reachable.fail(format!("{}: {fault}", self.socket));
                [vec![first], rest.into()].concat()
            }
        };
        answers.extend(self.programs());
        answers
    }

    fn snapshotter(&self, look: &ContainerdLook) -> CheckAnswer {
        let check = DoctorCheck::Snapshotter;
        if let Some(fault) = &look.snapshotter {
            return check.fail(fault.clone());
        }
        let is_unfit = |kind: &str| UNFIT.iter().any(|unfit| kind.starts_with(unfit));
        let unfit = self.file_systems.iter().find(|(_, kind)| is_unfit(kind));
        match unfit {
            Some((directory, kind)) => check.fail(format!(
                "{} lies on {kind}, on which overlay mounts nothing",
                directory.display()
            )),
            None => check.ok("overlayfs"),
        }
    }

    fn namespace(&self, look: &ContainerdLook) -> CheckAnswer {
        let (check, name) = (DoctorCheck::Namespace, &self.namespace);
        if OTHERS.contains(&name.as_str()) {
            return check.warn(format!("{name} is used by other programs"));
        }
        match look.unmanaged {
            0 => check.ok(format!("{name} has {} of the agent", look.managed.len())),
            count => check.warn(format!(
                "{name} has {count} containers that are not managed"
            )),
        }
    }

    fn programs(&self) -> Vec<CheckAnswer> {
        let (found, version) = (DoctorCheck::RuntimePrograms, DoctorCheck::RuncVersion);
        let Some(programs) = &self.programs else {
            let told = "only root may look at containerd's process, and it must run";
            return vec![found.skipped(told), version.skipped(told)];
        };
        let Some(shim) = &programs.shim else {
            let told = format!("{SHIM} is neither beside containerd nor on its PATH");
            return vec![found.fail(told), programs.runc_version()];
        };
        let place = match &programs.runc {
            Ok(_) => found.ok(format!("{}, runc", shim.display())),
            Err(fault) => found.fail(format!("runc, on containerd's PATH: {fault}")),
        };
        vec![place, programs.runc_version()]
    }
}

impl SeenPrograms {
    /// Looks by way of the process that listens at containerd's socket: its program, and its `PATH`.
    async fn of(socket: &Path) -> Option<Self> {
        let stream = UnixStream::connect(socket).await.ok()?;
        let process = stream.peer_cred().ok()?.pid()?;
        let place = PathBuf::from(format!("/proc/{process}"));
        let beside = fs::read_link(place.join("exe")).ok()?;
        let environment = fs::read(place.join("environ")).ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        let path = variables.find_map(|variable| variable.strip_prefix(b"PATH="));
        let path = OsString::from_vec(path.unwrap_or_default().to_vec());
        let beside = beside.parent().map(|parent| parent.join(SHIM));
        let shim = beside.into_iter().chain(found_in(&path, SHIM));
        let runc = runc_version(&path).await;
        Some(Self {
            shim: shim.into_iter().find(|shim| shim.is_file()),
            runc: runc.map_err(|error| error.to_string()),
        })
    }

    fn runc_version(&self) -> CheckAnswer {
        let check = DoctorCheck::RuncVersion;
        match &self.runc {
            Ok((version, None)) => check.ok(version.clone()),
            Ok((_, Some(fault))) => check.warn(fault.clone()),
            Err(_) => check.skipped("runc cannot be asked"),
        }
    }
}

fn version(look: &ContainerdLook) -> CheckAnswer {
    let check = DoctorCheck::ContainerdVersion;
    let mut numbers = look.version.trim_start_matches('v').split('.');
    let mut number = || numbers.next()?.parse::<u32>().ok();
    let [oldest, oldest_minor] = OLDEST;
    match number().zip(number()) {
        Some(release) if release < (oldest, oldest_minor) => check.fail(format!(
            "{} is older than {oldest}.{oldest_minor}",
            look.version
        )),
        Some(_) | None => match &look.outdated {
            Some(fault) => check.warn(fault.clone()),
            None => check.ok(look.version.clone()),
        },
    }
}

/// Places of a program in a search path.
fn found_in<'a>(path: &'a OsStr, program: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    std::env::split_paths(path).map(move |directory| directory.join(program))
}

/// Type of the file system that a directory lies on.
fn file_system(list: &str, directory: &Path) -> Option<String> {
    let mounts = MountLine::all(list).filter(|mount| directory.starts_with(&mount.point));
    let nearest = mounts.max_by_key(|mount| mount.point.len())?;
    Some(nearest.kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::{Planted, check_rows};

    fn well() -> SeenEngine {
        SeenEngine {
            socket: "/s".to_owned(),
            namespace: "chas".to_owned(),
            look: Ok(ContainerdLook {
                version: "2.1.5".to_owned(),
                ..ContainerdLook::default()
            }),
            file_systems: [("/var/lib/containerd".into(), "ext4".to_owned())].into(),
            programs: Some(SeenPrograms {
                shim: Some("/usr/bin/containerd-shim-runc-v2".into()),
                runc: Ok(("runc version 1.4.0".to_owned(), None)),
            }),
        }
    }

    fn look(seen: &mut SeenEngine) -> &mut ContainerdLook {
        seen.look.as_mut().unwrap()
    }

    fn programs(seen: &mut SeenEngine) -> &mut SeenPrograms {
        seen.programs.as_mut().unwrap()
    }

    #[test]
    fn each_fault_of_containerd_is_found() {
        use DoctorCheck::{
            ContainerdVersion, Namespace, Reachable, RuncVersion, RuntimePrograms, Snapshotter,
        };
        let rows: &[Planted<SeenEngine>] = &[
            (Reachable, "FAIL", "/s: refused", |seen| {
                seen.look = Err("refused".to_owned());
            }),
            (Snapshotter, "skip", "does not answer", |seen| {
                seen.look = Err(String::new());
            }),
            (
                ContainerdVersion,
                "FAIL",
                "1.5.18 is older than 1.6",
                |seen| {
                    look(seen).version = "1.5.18~ds1".to_owned();
                    look(seen).version.truncate(6);
                },
            ),
            (ContainerdVersion, "warn", "CVE", |seen| {
                look(seen).outdated = Some("has CVE".to_owned());
            }),
            (Snapshotter, "FAIL", "disabled", |seen| {
                look(seen).snapshotter = Some("its plugin is disabled".to_owned());
            }),
            (Snapshotter, "FAIL", "lies on overlay", |seen| {
                seen.file_systems = [("/root".into(), "overlay".to_owned())].into();
            }),
            (Snapshotter, "FAIL", "lies on nfs4", |seen| {
                seen.file_systems = [("/root".into(), "nfs4".to_owned())].into();
            }),
            (Namespace, "warn", "other programs", |seen| {
                seen.namespace = "k8s.io".to_owned();
            }),
            (Namespace, "warn", "2 containers", |seen| {
                look(seen).unmanaged = 2;
            }),
            (RuntimePrograms, "FAIL", "neither beside", |seen| {
                programs(seen).shim = None;
            }),
            (RuntimePrograms, "FAIL", "not found", |seen| {
                programs(seen).runc = Err("not found".to_owned());
            }),
            (RuntimePrograms, "skip", "only root", |seen| {
                seen.programs = None;
            }),
            (RuncVersion, "skip", "only root", |seen| {
                seen.programs = None;
            }),
            (RuncVersion, "warn", "CVE", |seen| {
                programs(seen).runc = Ok((String::new(), Some("CVE".to_owned())));
            }),
        ];
        check_rows(&well(), SeenEngine::judge, rows);
    }

    #[test]
    fn the_nearest_mount_is_that_of_a_directory() {
        let list = "1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / /var rw - overlay o rw\n";
        let kind = |path: &str| file_system(list, Path::new(path));
        assert_eq!(kind("/var/lib").as_deref(), Some("overlay"));
        assert_eq!(kind("/variable").as_deref(), Some("ext4"));
    }
}
