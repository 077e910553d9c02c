//! Checks of the kernel.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::check::{CheckAnswer, DoctorCheck};
use crate::cgroup::{CGROUP_ROOT, Cgroup};

/// Namespaces without which no container is started.
const NEEDED: [&str; 5] = ["ipc", "mnt", "net", "pid", "uts"];
/// Controllers by which containers are limited always, and those that only some limits need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
const MORE_CONTROLLERS: [&str; 2] = ["cpuset", "io"];
/// Files that the agent's unit lets it open; and so few that a hundred containers with callers reach
/// them.
const FILES_WANTED: u64 = 65_536;
const FILES_NEEDED: u64 = 1024;

/// Kernel as one look found it.
#[derive(Clone, Debug)]
pub(super) struct SeenKernel {
    /// Namespaces of this process, by the kernel's names.
    pub(super) namespaces: BTreeSet<String>,
    /// Most user namespaces; `None`: the kernel does not tell.
    pub(super) user_namespaces_max: Option<u64>,
    /// Whether overlay is there, or is a module that can be loaded.
    pub(super) has_overlay: bool,
    pub(super) has_seccomp: bool,
    /// Version of the control groups, and their controllers.
    pub(super) controllers: Result<(u8, BTreeSet<String>), String>,
    /// Files that the agent may open, or this process in its place.
    pub(super) open_files_max: Option<u64>,
    /// Files that are open on the machine, and the most that may be.
    pub(super) files: Option<(u64, u64)>,
}

impl SeenKernel {
    /// Looks. `agent`: the process of the agent that runs. Blocks.
    pub(super) fn read(agent: Option<u32>) -> Self {
        let entries = fs::read_dir("/proc/self/ns")
            .into_iter()
            .flatten()
            .flatten();
        let namespaces = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
        let file_systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let process = agent.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let limits = fs::read_to_string(format!("/proc/{process}/limits"));
        let files = fs::read_to_string("/proc/sys/fs/file-nr").unwrap_or_default();
        let files: Vec<u64> = files
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        Self {
            namespaces: namespaces.collect(),
            user_namespaces_max: number("/proc/sys/user/max_user_namespaces"),
            has_overlay: file_systems.lines().any(|line| line.ends_with("\toverlay"))
                || has_module("overlay"),
            has_seccomp: status.lines().any(|line| line.starts_with("Seccomp:")),
            controllers: controllers(),
            open_files_max: limits.ok().and_then(|text| open_files_max(&text)),
            files: files.first().copied().zip(files.get(2).copied()),
        }
    }

    /// Judges.
    pub(super) fn judge(&self) -> Vec<CheckAnswer> {
        vec![
            self.namespaces(),
            self.user_namespaces(),
            self.overlay(),
            self.seccomp(),
            self.control_groups(),
            self.open_files(),
        ]
    }

    fn namespaces(&self) -> CheckAnswer {
        let check = DoctorCheck::Namespaces;
        let missing: Vec<_> = NEEDED
            .into_iter()
            .filter(|name| !self.namespaces.contains(*name))
            .collect();
        match missing[..] {
            [] => check.ok(NEEDED.join(" ")),
            _ => check.fail(format!("the kernel has none of {}", missing.join(", "))),
        }
    }

    fn user_namespaces(&self) -> CheckAnswer {
        let check = DoctorCheck::UserNamespaces;
        if !self.namespaces.contains("user") {
            return check.warn("the kernel has none");
        }
        match self.user_namespaces_max {
            Some(0) => check.warn("the kernel makes none: user.max_user_namespaces is 0"),
            Some(max) => check.ok(format!("at most {max}")),
            None => check.ok("the kernel has them"),
        }
    }

    fn overlay(&self) -> CheckAnswer {
        let check = DoctorCheck::Overlay;
        match self.has_overlay {
            true => check.ok("there"),
            false => check.fail("neither in the kernel nor among its modules"),
        }
    }

    fn seccomp(&self) -> CheckAnswer {
        let check = DoctorCheck::Seccomp;
        match self.has_seccomp {
            true => check.ok("there"),
            false => check.fail("the kernel has none"),
        }
    }

    fn control_groups(&self) -> CheckAnswer {
        let check = DoctorCheck::ControlGroups;
        let (version, controllers) = match &self.controllers {
            Ok(found) => found,
            Err(fault) => return check.fail(format!("{CGROUP_ROOT}: {fault}")),
        };
        let missing = |names: &[&str]| {
            let missing = names.iter().filter(|name| !controllers.contains(**name));
            missing.copied().collect::<Vec<_>>().join(", ")
        };
        let (needed, more) = (missing(&CONTROLLERS), missing(&MORE_CONTROLLERS));
        if !needed.is_empty() {
            return check.fail(format!("version {version}, without {needed}"));
        }
        match more.is_empty() {
            true => check.ok(format!("version {version}, with all controllers")),
            false => check.warn(format!(
                "version {version}, without {more}: such limits of containers are refused"
            )),
        }
    }

    fn open_files(&self) -> CheckAnswer {
        let check = DoctorCheck::OpenFiles;
        if let Some((open, max)) = self.files
            && open >= max / 10 * 9
        {
            return check.fail(format!("{open} of the machine's {max} files are open"));
        }
        match self.open_files_max {
            None => check.ok("the machine has some left"),
            Some(max) if max <= FILES_NEEDED => check.fail(format!("at most {max}")),
            Some(max) if max < FILES_WANTED => check.warn(format!("at most {max}")),
            Some(max) => check.ok(format!("at most {max}")),
        }
    }
}

/// Whether the kernel has a module that can be loaded.
fn has_module(name: &str) -> bool {
    let release = rustix::system::uname();
    let directory = Path::new("/lib/modules").join(release.release().to_string_lossy().as_ref());
    let file = format!("/{name}.ko");
    ["modules.dep", "modules.builtin"].iter().any(|list| {
        let text = fs::read_to_string(directory.join(list)).unwrap_or_default();
        text.lines().any(|line| line.contains(&file))
    })
}

/// Version of the control groups, and controllers by the names of version 2.
fn controllers() -> Result<(u8, BTreeSet<String>), String> {
    let read = Cgroup::read().map_err(|error| error.to_string())?;
    let root = Path::new(CGROUP_ROOT);
    if read == Cgroup::V2 {
        let text = fs::read_to_string(root.join("cgroup.controllers"));
        let text = text.map_err(|error| error.to_string())?;
        return Ok((2, text.split_whitespace().map(ToOwned::to_owned).collect()));
    }
    let names = CONTROLLERS.into_iter().chain(MORE_CONTROLLERS);
    let of_version_1 = |name: &&str| match *name {
        "io" => root.join("blkio").is_dir(),
        name => root.join(name).is_dir(),
    };
    Ok((
        1,
        names.filter(of_version_1).map(ToOwned::to_owned).collect(),
    ))
}

/// Hard limit on open files in a process's `limits` (proc(5)).
fn open_files_max(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::{Planted, check_rows};

    fn well() -> SeenKernel {
        let set = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        SeenKernel {
            namespaces: set(&["ipc", "mnt", "net", "pid", "uts", "user", "cgroup"]),
            user_namespaces_max: Some(1000),
            has_overlay: true,
            has_seccomp: true,
            controllers: Ok((2, set(&["cpu", "cpuset", "io", "memory", "pids"]))),
            open_files_max: Some(65_536),
            files: Some((10, 1000)),
        }
    }

    fn without(seen: &mut SeenKernel, controller: &str) {
        seen.controllers.as_mut().unwrap().1.remove(controller);
    }

    #[test]
    fn each_fault_of_the_kernel_is_found() {
        use DoctorCheck::{ControlGroups, Namespaces, OpenFiles, Overlay, Seccomp, UserNamespaces};
        let rows: &[Planted<SeenKernel>] = &[
            (Namespaces, "FAIL", "net", |seen| {
                seen.namespaces.remove("net");
            }),
            (UserNamespaces, "warn", "none", |seen| {
                seen.namespaces.remove("user");
            }),
            (UserNamespaces, "warn", "is 0", |seen| {
                seen.user_namespaces_max = Some(0);
            }),
            (Overlay, "FAIL", "neither", |seen| seen.has_overlay = false),
            (Seccomp, "FAIL", "none", |seen| seen.has_seccomp = false),
            (ControlGroups, "FAIL", "without memory", |seen| {
                without(seen, "memory");
            }),
            (ControlGroups, "warn", "without cpuset", |seen| {
                without(seen, "cpuset");
            }),
            (ControlGroups, "FAIL", "not mounted", |seen| {
                seen.controllers = Err("not mounted".to_owned());
            }),
            (OpenFiles, "FAIL", "at most 1024", |seen| {
                seen.open_files_max = Some(1024);
            }),
            (OpenFiles, "warn", "at most 4096", |seen| {
                seen.open_files_max = Some(4096);
            }),
            (OpenFiles, "FAIL", "900 of the machine's 1000", |seen| {
                seen.files = Some((900, 1000));
            }),
        ];
        check_rows(&well(), SeenKernel::judge, rows);
    }

    #[test]
    fn limits_of_a_process_are_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max open files            1024                 524288               files\n";
        assert_eq!(open_files_max(text), Some(524_288));
        assert_eq!(
            open_files_max("Max open files  1 unlimited files"),
            Some(u64::MAX)
        );
        assert_eq!(open_files_max(""), None);
    }

    #[test]
    fn this_kernel_can_be_read() {
        let seen = SeenKernel::read(None);
        assert!(seen.namespaces.contains("mnt") && seen.open_files_max.is_some());
    }
}
