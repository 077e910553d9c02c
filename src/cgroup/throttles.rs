//! The most that a control group may ask of a disk, as the kernel takes it. An OCI runtime sets it with a container's creation
//! and never again, by numbers that a disk has until the next boot: so it is set here, for each start and each change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{CGROUP_ROOT, Cgroup};

/// Kinds of a limit: its file on version 1, and its word on version 2.
const KINDS: [(&str, &str); 4] = [
    ("blkio.throttle.read_bps_device", "rbps"),
    ("blkio.throttle.write_bps_device", "wbps"),
    ("blkio.throttle.read_iops_device", "riops"),
    ("blkio.throttle.write_iops_device", "wiops"),
];

/// The limits of one disk: bytes read, bytes written, reads and writes in a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Throttle {
    /// The disk's number, as in `8:0`.
    pub(crate) disk: String,
    /// `None`: there is no such limit.
    pub(crate) rates: [Option<u64>; 4],
}

impl Cgroup {
    /// Gives the control group at `path` (absolute, as in the OCI spec) these limits, and no others.
    ///
    /// # Errors
    /// The kernel refuses one; those before it are set. That there is no such group is none: its processes have ended.
    pub(crate) fn throttle(self, path: &str, wanted: &[Throttle]) -> io::Result<()> {
        let group = match self {
            Self::V1 { .. } => Path::new(CGROUP_ROOT).join("blkio"),
            Self::V2 => PathBuf::from(CGROUP_ROOT),
        };
        self.throttle_in(&group.join(path.trim_start_matches('/')), wanted)
    }

    fn throttle_in(self, group: &Path, wanted: &[Throttle]) -> io::Result<()> {
        if !group.exists() {
            return Ok(());
        }
        for line in self.lines(group, wanted) {
            let (file, text) = line;
            let write = fs::write(group.join(file), &text);
            write.map_err(|error| {
                io::Error::new(error.kind(), format!("{file}: {text}: {error}"))
            })?;
        }
        Ok(())
    }

    /// Lines to be written, each with the file that takes it: what is not wanted any more is released.
    fn lines(self, group: &Path, wanted: &[Throttle]) -> Vec<(&'static str, String)> {
        let read = |file| fs::read_to_string(group.join(file)).unwrap_or_default();
        let disks = |text: &str| -> Vec<String> {
            let words = text.lines().filter_map(|line| line.split(' ').next());
            words.map(str::to_owned).collect()
        };
        let of = |disk: &str| wanted.iter().find(|throttle| throttle.disk == disk);
        let mut lines = Vec::new();
        match self {
            Self::V1 { .. } => {
                for (kind, (file, _)) in KINDS.into_iter().enumerate() {
                    let rate = |disk: &str| of(disk).and_then(|throttle| throttle.rates[kind]);
                    let held = disks(&read(file));
                    let gone = held.iter().filter(|disk| rate(disk).is_none());
                    lines.extend(gone.map(|disk| (file, format!("{disk} 0"))));
                    let asked = wanted.iter().filter_map(|throttle| {
                        let rate = throttle.rates[kind]?;
                        Some((file, format!("{} {rate}", throttle.disk)))
                    });
                    lines.extend(asked);
                }
            }
            Self::V2 => {
                let held = disks(&read("io.max"));
                let gone = held.iter().filter(|disk| of(disk).is_none());
                let released = gone.map(|disk| Throttle {
                    disk: disk.clone(),
                    ..Throttle::default()
                });
                let all = released.chain(wanted.iter().cloned());
                lines.extend(all.map(|throttle| ("io.max", throttle.max())));
            }
        }
        lines
    }
}

impl Throttle {
    /// The line of version 2.
    fn max(&self) -> String {
        let words = KINDS.iter().zip(self.rates).map(|((_, word), rate)| {
            let rate = rate.map_or_else(|| "max".to_owned(), |rate| rate.to_string());
            format!(" {word}={rate}")
        });
        words.fold(self.disk.clone(), |line, word| line + &word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle(disk: &str, rates: [Option<u64>; 4]) -> Throttle {
        let disk = disk.to_owned();
        Throttle { disk, rates }
    }

    #[test]
    fn what_is_asked_is_written_and_what_is_not_is_released_in_both_versions() {
        let group = tempfile::tempdir().unwrap();
        let wanted = [
            throttle("8:0", [Some(4096), None, None, Some(7)]),
            throttle("254:16", [None, Some(1 << 20), None, None]),
        ];
        let v1 = Cgroup::V1 { swap: true };
        let lines = |cgroup: Cgroup, wanted: &[Throttle]| cgroup.lines(group.path(), wanted);
        assert_eq!(lines(v1, &[]), []);
        assert_eq!(
            lines(v1, &wanted),
            [
                (KINDS[0].0, "8:0 4096".to_owned()),
                (KINDS[1].0, "254:16 1048576".to_owned()),
                (KINDS[3].0, "8:0 7".to_owned()),
            ]
        );
        fs::write(group.path().join(KINDS[0].0), "8:0 1\n7:1 2\n").unwrap();
        fs::write(group.path().join(KINDS[2].0), "8:0 5\n").unwrap();
        assert_eq!(
            lines(v1, &wanted[..1]),
            [
                (KINDS[0].0, "7:1 0".to_owned()),
                (KINDS[0].0, "8:0 4096".to_owned()),
                (KINDS[2].0, "8:0 0".to_owned()),
                (KINDS[3].0, "8:0 7".to_owned()),
            ]
        );
        fs::write(
            group.path().join("io.max"),
            "7:1 rbps=2 wbps=max riops=max wiops=max\n8:0 rbps=1 wbps=2 riops=3 wiops=4\n",
        )
        .unwrap();
        assert_eq!(
            lines(Cgroup::V2, &wanted[..1]),
            [
                (
                    "io.max",
                    "7:1 rbps=max wbps=max riops=max wiops=max".to_owned()
                ),
                (
                    "io.max",
                    "8:0 rbps=4096 wbps=max riops=max wiops=7".to_owned()
                ),
            ]
        );
        let gone = group.path().join("gone");
        v1.throttle_in(&gone, &wanted).unwrap();
    }
}
