//! Confinement of a logger: a control group of its own, and a user who may do nothing but write one
//! log.
//!
//! A logger that cannot be confined writes all the same: without one its container would end.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::process::{Gid, Uid, getgid, getuid};
use rustix::thread;
use state::id::InstanceName;

use super::files::open_to_read;
use super::rules::{LoggerRules, LoggerUser};
use crate::cgroup::CGROUP_ROOT;
use crate::mounts::on_host;

/// Ending of the name of a logger's control group; its instance comes before it. It is beside the
/// container's own, whose end would kill what is below it.
const ENDING: &str = ".log";
/// Entries of a log directory that are given to a user; a log has at most 100 files and few marks.
const ENTRIES_MAX: usize = 1000;
/// Tries to enter a control group: whoever takes empty ones away may be faster.
const TRIES: u32 = 3;

/// Bounds of a logger's control group: half of a CPU, which writes far more than most disks take,
/// and memory for what is not on the disk yet. On version 1 by hierarchy.
const BOUNDS_V1: [(&str, &[(&str, &str)]); 2] = [
    (
        "cpu",
        &[
            ("cpu.cfs_period_us", "100000"),
            ("cpu.cfs_quota_us", "50000"),
        ],
    ),
    ("memory", &[("memory.limit_in_bytes", "67108864")]),
];
const BOUNDS_V2: &[(&str, &str)] = &[("cpu.max", "50000 100000"), ("memory.max", "67108864")];

/// Confines this process, and answers the directory by which it reaches its log from then on.
/// `namespace` is that of containerd, where its containers' control groups are.
///
/// It may have one thread only: of a process with more, the others would stay what they are.
pub(super) fn confine(
    dir: &Path,
    instance: InstanceName,
    namespace: Option<&OsStr>,
    rules: &LoggerRules,
) -> PathBuf {
    let group = namespace.filter(|name| !name.is_empty() && !name.as_bytes().contains(&b'/'));
    if let Some(group) = group {
        // Without it, it counts where it was started.
        let _ = (0..TRIES).find(|_| {
            let entered = on_host(|| enter(Path::new(CGROUP_ROOT), group, instance));
            entered.is_ok()
        });
    }
    match rules.user.map(|user| become_in(dir, user)) {
        // The directory is this process's own place now: it needs no way that leads there.
        Some(Ok(())) => PathBuf::from("."),
        // What an earlier logger was given is root's again: another user would lead it by links.
        Some(Err(_)) | None => {
            let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
            let _ = give(dir, LoggerUser { uid, gid });
            dir.to_owned()
        }
    }
}

/// Becomes a user in a log directory, which is given to it.
fn become_in(dir: &Path, user: LoggerUser) -> io::Result<()> {
    give(dir, user)?;
    std::env::set_current_dir(dir)?;
    become_user(user)
}

/// Makes the control group of a logger, in every hierarchy that bounds it, and moves this process
/// there.
fn enter(root: &Path, group: &OsStr, instance: InstanceName) -> io::Result<()> {
    let name = format!("{instance}{ENDING}");
    let parent = root.join(group);
    if root.join("cgroup.controllers").exists() {
        make(&parent)?;
        for above in [root, &parent] {
            for controller in ["+cpu", "+memory"] {
                // As runc does for the container, which may be the first below it.
                let _ = set(&above.join("cgroup.subtree_control"), controller);
            }
        }
        return join(&parent.join(name), BOUNDS_V2);
    }
    for (hierarchy, bounds) in BOUNDS_V1 {
        let parent = root.join(hierarchy).join(group);
        // One that is not mounted is no hierarchy.
        if root.join(hierarchy).join("cgroup.procs").exists() {
            make(&parent)?;
            join(&parent.join(&name), bounds)?;
        }
    }
    Ok(())
}

fn join(group: &Path, bounds: &[(&str, &str)]) -> io::Result<()> {
    make(group)?;
    for (file, value) in bounds {
        // A bound that this kernel has not is none.
        let _ = set(&group.join(file), value);
    }
    set(&group.join("cgroup.procs"), "0")
}

fn make(group: &Path) -> io::Result<()> {
    match fs::create_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Writes to a file of the kernel, which is there or is none.
fn set(file: &Path, value: &str) -> io::Result<()> {
    File::options()
        .write(true)
        .open(file)?
        .write_all(value.as_bytes())
}

/// Takes away the control groups of loggers that have ended, as far as it can. Blocks.
pub(super) fn take_away_empty(group: &str) {
    let _ = on_host(|| {
        for hierarchy in ["", "cpu", "memory"] {
            take_away_in(hierarchy, group);
        }
        Ok(())
    });
}

fn take_away_in(hierarchy: &str, group: &str) {
    let parent = Path::new(CGROUP_ROOT).join(hierarchy).join(group);
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let is_loggers = name.to_str().and_then(|name| name.strip_suffix(ENDING));
        if is_loggers.is_some_and(|name| name.parse::<InstanceName>().is_ok()) {
            // The kernel refuses as long as a process is in it.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Gives a log directory, and the files in it, to a user.
fn give(dir: &Path, user: LoggerUser) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
    for entry in fs::read_dir(dir)?.take(ENTRIES_MAX) {
        let file = open_to_read(&entry?.path());
        // Another name of the same file may lie anywhere, and be of somebody else.
        let own = file.and_then(|file| {
            let found = file.metadata()?;
            Ok((found.is_file() && found.nlink() == 1).then_some(file))
        });
        if let Ok(Some(file)) = own {
            fchown(&file, Some(user.uid), Some(user.gid))?;
        }
    }
    fchown(open_to_read(dir)?, Some(user.uid), Some(user.gid))
}

/// Becomes a user, with no rights of root and no way back to them.
fn become_user(user: LoggerUser) -> io::Result<()> {
    thread::set_no_new_privs(true)?;
    thread::set_thread_groups(&[])?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    thread::set_thread_res_gid(gid, gid, gid)?;
    // With the last of the three the kernel takes all capabilities away.
    Ok(thread::set_thread_res_uid(uid, uid, uid)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_directory_is_given_with_its_files_and_nothing_that_lies_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let (log, outside) = (dir.path().join("log"), dir.path().join("outside"));
        // Only root can give files away.
        if getuid().as_raw() != 0 {
            return;
        }
        fs::create_dir(&log).unwrap();
        fs::write(log.join("0000000001.log"), "x").unwrap();
        fs::write(&outside, "x").unwrap();
        symlink(&outside, log.join("0000000002.log")).unwrap();
        fs::hard_link(&outside, log.join("0000000003.log")).unwrap();
        give(&log, LoggerUser { uid: 7, gid: 8 }).unwrap();
        for (path, expected) in [
            (log.clone(), (7, 8)),
            (log.join("0000000001.log"), (7, 8)),
            (outside, (0, 0)),
        ] {
            let found = fs::metadata(&path).unwrap();
            assert_eq!((found.uid(), found.gid()), expected, "{path:?}");
        }
    }
}
