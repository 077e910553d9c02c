//! Confinement of a logger: a control group of its own, and a user who may do nothing but write one
//! log.
//!
//! A logger that cannot be confined writes all the same: without one its container would end.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::process::{Gid, Uid};
use rustix::thread;
use state::id::InstanceName;

use super::files::open_to_read;
use super::rules::{LoggerRules, LoggerUser};

/// Mount point of the control groups.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// Ending of the name of a logger's control group; its instance comes before it. It is beside the
/// container's own, whose end would kill what is below it.
const ENDING: &str = ".log";
/// Entries of a log directory that are given to a user; a log has at most 100 files and few marks.
const ENTRIES_MAX: usize = 1000;
/// Tries to enter a control group: whoever takes empty ones away may be faster.
const TRIES: u32 = 3;

/// Bounds of a logger's control group, by hierarchy: half of a CPU, which writes far more than most
/// disks take, and memory for what is not on the disk yet.
const BOUNDS_V1: [(&str, &str, &str); 3] = [
    ("cpu", "cpu.cfs_period_us", "100000"),
    ("cpu", "cpu.cfs_quota_us", "50000"),
    ("memory", "memory.limit_in_bytes", "67108864"),
];
const BOUNDS_V2: [(&str, &str); 2] = [("cpu.max", "50000 100000"), ("memory.max", "67108864")];

/// Confines this process, and answers the directory by which it reaches its log from then on.
///
/// It may have one thread only: of a process with more, the others would stay what they are.
pub(super) fn confine(dir: &Path, instance: InstanceName, rules: &LoggerRules) -> PathBuf {
    if let Some(group) = &rules.group {
        // Without it, it counts where it was started.
        let _ = (0..TRIES).find(|_| enter(Path::new(CGROUP_ROOT), group, instance).is_ok());
    }
    match rules.user {
        Some(user) if give(dir, user).is_ok() && std::env::set_current_dir(dir).is_ok() => {
            // The directory is this process's own place now: it needs no way that leads there.
            // Where the system refuses, root writes there as well.
            let _ = become_user(user);
            PathBuf::from(".")
        }
        _ => dir.to_owned(),
    }
}

/// Makes the control group of a logger, in every hierarchy that bounds it, and moves this process
/// there.
fn enter(root: &Path, group: &str, instance: InstanceName) -> io::Result<()> {
    let name = format!("{instance}{ENDING}");
    let join = |group: &Path, bounds: &mut dyn Iterator<Item = (&str, &str)>| -> io::Result<()> {
        match fs::create_dir(group) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        for (file, value) in bounds {
            // A bound that this kernel has not is none.
            let _ = fs::write(group.join(file), value);
        }
        fs::write(group.join("cgroup.procs"), "0")
    };
    let parent = root.join(group);
    if root.join("cgroup.controllers").exists() {
        fs::create_dir_all(&parent)?;
        for above in [root, &parent] {
            // As runc does for the container, which may be the first below it.
            let _ = fs::write(above.join("cgroup.subtree_control"), "+cpu +memory");
        }
        return join(&parent.join(name), &mut BOUNDS_V2.into_iter());
    }
    for hierarchy in ["cpu", "memory"] {
        let parent = root.join(hierarchy).join(group);
        fs::create_dir_all(&parent)?;
        let of_it = BOUNDS_V1.into_iter().filter(|bound| bound.0 == hierarchy);
        let mut bounds = of_it.map(|(_, file, value)| (file, value));
        join(&parent.join(&name), &mut bounds)?;
    }
    Ok(())
}

/// Takes away the control groups of loggers that have ended. Blocks.
pub(super) fn take_away_empty(group: &str) {
    let root = Path::new(CGROUP_ROOT);
    for hierarchy in ["", "cpu", "memory"] {
        let parent = root.join(hierarchy).join(group);
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

    use state::id::ContainerId;

    use super::*;

    #[test]
    fn a_directory_is_given_with_its_files_and_nothing_that_lies_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let (log, outside) = (dir.path().join("log"), dir.path().join("outside"));
        let own = rustix::process::getuid().as_raw();
        // Only root can give files away.
        if own != 0 {
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

    #[test]
    fn a_group_is_made_with_its_bounds_in_either_version() {
        let instance = InstanceName {
            id: ContainerId::from_bits(7),
            generation: 2,
        };
        let name = format!("{instance}.log");
        let dir = tempfile::tempdir().unwrap();
        for hierarchy in ["v1/cpu/chas", "v1/memory/chas", "v2/chas"] {
            fs::create_dir_all(dir.path().join(hierarchy)).unwrap();
        }
        fs::write(dir.path().join("v2/cgroup.controllers"), "cpu memory").unwrap();
        enter(&dir.path().join("v1"), "chas", instance).unwrap();
        enter(&dir.path().join("v2"), "chas", instance).unwrap();
        for (file, expected) in [
            ("v1/cpu/chas/{}/cpu.cfs_quota_us", "50000"),
            ("v1/cpu/chas/{}/cgroup.procs", "0"),
            ("v1/memory/chas/{}/memory.limit_in_bytes", "67108864"),
            ("v1/memory/chas/{}/cgroup.procs", "0"),
            ("v2/chas/{}/cpu.max", "50000 100000"),
            ("v2/chas/{}/cgroup.procs", "0"),
        ] {
            let path = dir.path().join(file.replace("{}", &name));
            assert_eq!(fs::read_to_string(&path).unwrap(), expected, "{path:?}");
        }
    }
}
