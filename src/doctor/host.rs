//! Checks of clock, disks and files.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::check::{CheckAnswer, DoctorCheck};
use crate::config::{Config, private};
use crate::{agent, node};

/// Free parts of a disk, in percent, below which it is told of.
const FREE_PERCENT_MIN: u64 = 5;
/// Difference of two clocks that matters to tokens and certificates, in seconds.
const OFFSET_MAX: u64 = 60;

/// Disk of a directory.
#[derive(Clone, Debug)]
pub(super) struct SeenDisk {
    pub(super) directory: PathBuf,
    pub(super) bytes: (u64, u64),
    /// Free and all; without any in all, it counts none.
    pub(super) inodes: (u64, u64),
}

/// Clock, disks and files as one look found them.
#[derive(Clone, Debug)]
pub(super) struct SeenHost {
    pub(super) now: SystemTime,
    /// Whether a time service keeps the clock; `None`: nobody tells.
    pub(super) is_kept: Option<bool>,
    /// Seconds by which CHaS's clock is another; `None`: it was not asked.
    pub(super) offset: Option<u64>,
    pub(super) disks: Vec<Result<SeenDisk, String>>,
    /// Owner and mode of the agent's directories that are there.
    pub(super) directories: Vec<(PathBuf, u32, u32)>,
    /// Faults of files with secrets.
    pub(super) readable: Vec<String>,
}

impl SeenHost {
    /// Looks, also at the disks of these directories. Blocks.
    pub(super) fn read(config: &Config, more: &[PathBuf], is_kept: Option<bool>) -> Self {
        let own = [&config.state.dir, &config.state.run_dir];
        let directories = own.iter().filter_map(|directory| {
            let found = std::fs::metadata(directory).ok()?;
            Some(((*directory).clone(), found.uid(), found.mode() & 0o7777))
        });
        let disks = std::iter::once(&config.state.dir).chain(more);
        Self {
            now: SystemTime::now(),
            is_kept,
            offset: None,
            disks: disks.map(|directory| disk_of(directory)).collect(),
            directories: directories.collect(),
            readable: agent::readable_secrets(config),
        }
    }

    /// Judges.
    pub(super) fn judge(&self) -> Vec<CheckAnswer> {
        let mut answers = vec![self.clock()];
        answers.extend(self.space());
        answers.extend(self.inodes());
        answers.extend(self.modes());
        answers
    }

    fn clock(&self) -> CheckAnswer {
        let check = DoctorCheck::Clock;
        let shown = humantime::format_rfc3339_seconds(self.now);
        if node::is_before_this_agent(self.now) {
            return check.fail(format!("not set: it shows {shown}"));
        }
        if let Some(seconds) = self.offset.filter(|seconds| *seconds > OFFSET_MAX) {
            return check.fail(format!(
                "it shows {shown}, and CHaS's another by {seconds} s"
            ));
        }
        match self.is_kept {
            Some(true) => check.ok(format!("{shown}, kept by a time service")),
            Some(false) => check.warn(format!("it shows {shown}, and no time service keeps it")),
            None => check.ok(format!("it shows {shown}; no time service tells of itself")),
        }
    }

    fn space(&self) -> Vec<CheckAnswer> {
        let of = |disk: &SeenDisk| (disk.bytes, "bytes");
        self.each_disk(DoctorCheck::DiskSpace, of)
    }

    fn inodes(&self) -> Vec<CheckAnswer> {
        let of = |disk: &SeenDisk| (disk.inodes, "inodes");
        self.each_disk(DoctorCheck::Inodes, of)
    }

    fn each_disk(
        &self,
        check: DoctorCheck,
        of: impl Fn(&SeenDisk) -> ((u64, u64), &'static str),
    ) -> Vec<CheckAnswer> {
        let judged = self.disks.iter().map(|disk| {
            let disk = match disk {
                Ok(disk) => disk,
                Err(fault) => return check.warn(fault.clone()),
            };
            let ((free, all), what) = of(disk);
            let directory = disk.directory.display();
            if all == 0 {
                return check.ok(format!("{directory}: {what} are not counted"));
            }
            let told = format!("{directory}: {free} of {all} {what} are free");
            match free.saturating_mul(100) / all {
                0 => check.fail(told),
                percent if percent < FREE_PERCENT_MIN => check.warn(told),
                _ => check.ok(told),
            }
        });
        judged.collect()
    }

    fn modes(&self) -> Vec<CheckAnswer> {
        let check = DoctorCheck::FileModes;
        let open = self.directories.iter().filter_map(|(path, owner, mode)| {
            let path = path.display();
            if !private::is_own(*owner) {
                let told = format!("{path} belongs to user {owner}, who can change what it holds");
                return Some(check.fail(told).with_remedy(format!("chown root {path}")));
            }
            (mode & 0o077 != 0).then(|| {
                let told = format!("{path} is open to others than its owner (mode {mode:04o})");
                // The agent closes its state directory at its start, and what others may enter of the
                // other holds sockets.
                check.fail(told).with_remedy(format!("chmod 700 {path}"))
            })
        });
        let readable = self.readable.iter().map(|fault| check.fail(fault.clone()));
        let faults: Vec<_> = open.chain(readable).collect();
        match faults.is_empty() {
            true => vec![check.ok("all are their owner's alone")],
            false => faults,
        }
    }
}

/// Disk of a directory, or of the nearest above it that is there.
fn disk_of(directory: &Path) -> Result<SeenDisk, String> {
    let there = directory.ancestors().find(|path| path.is_dir());
    let found = rustix::fs::statvfs(there.unwrap_or(Path::new("/")));
    let found = found.map_err(|error| format!("{}: {error}", directory.display()))?;
    Ok(SeenDisk {
        directory: directory.to_owned(),
        bytes: (
            found.f_bavail.saturating_mul(found.f_frsize),
            found.f_blocks.saturating_mul(found.f_frsize),
        ),
        inodes: (found.f_favail, found.f_files),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::doctor::tests::{Planted, check_rows};

    fn well() -> SeenHost {
        SeenHost {
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            is_kept: Some(true),
            offset: Some(1),
            disks: vec![Ok(SeenDisk {
                directory: "/state".into(),
                bytes: (50, 100),
                inodes: (50, 100),
            })],
            directories: vec![("/state".into(), 0, 0o700)],
            readable: Vec::new(),
        }
    }

    fn disk(seen: &mut SeenHost) -> &mut SeenDisk {
        seen.disks[0].as_mut().unwrap()
    }

    #[test]
    fn each_fault_of_the_host_is_found() {
        use DoctorCheck::{Clock, DiskSpace, FileModes, Inodes};
        let rows: &[Planted<SeenHost>] = &[
            (Clock, "FAIL", "not set: it shows 1970", |seen| {
                seen.now = SystemTime::UNIX_EPOCH;
            }),
            (Clock, "FAIL", "by 61 s", |seen| seen.offset = Some(61)),
            (Clock, "warn", "no time service keeps", |seen| {
                seen.is_kept = Some(false);
            }),
            (Clock, "ok", "tells of itself", |seen| seen.is_kept = None),
            (DiskSpace, "FAIL", "0 of 100 bytes", |seen| {
                disk(seen).bytes.0 = 0;
            }),
            (DiskSpace, "warn", "/state: 4 of 100", |seen| {
                disk(seen).bytes.0 = 4;
            }),
            (DiskSpace, "warn", "gone", |seen| {
                seen.disks = vec![Err("gone".to_owned())];
            }),
            (Inodes, "FAIL", "0 of 100 inodes", |seen| {
                disk(seen).inodes.0 = 0;
            }),
            (Inodes, "ok", "not counted", |seen| {
                disk(seen).inodes = (0, 0);
            }),
            (FileModes, "FAIL", "(mode 0755)", |seen| {
                seen.directories[0].2 = 0o755;
            }),
            (FileModes, "FAIL", "belongs to user 65534", |seen| {
                seen.directories[0].1 = 65_534;
            }),
            (FileModes, "FAIL", "a secret", |seen| {
                seen.readable = vec!["a secret".to_owned()];
            }),
        ];
        check_rows(&well(), SeenHost::judge, rows);
    }

    #[test]
    fn a_directory_that_is_not_there_yet_lies_on_the_disk_above() {
        let disk = disk_of(Path::new("/nonexistent/state")).unwrap();
        assert!(disk.bytes.1 > 0, "{disk:?}");
    }
}
