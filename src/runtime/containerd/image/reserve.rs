//! Part of a disk that pulls leave free, in bytes and in inodes.

use std::path::Path;
use std::time::Duration;

use super::share::DiskLack;

const GIB: u64 = 1 << 30;

/// Bytes that may come to a disk in a second: the faster it nears its reserve, the sooner is the
/// next look.
const BYTES_PER_S: u64 = 2 * GIB;

/// Files that may come to a disk in a second.
const INODES_PER_S: u64 = 200_000;

/// Part of a disk that pulls leave free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskReserve {
    /// A twentieth of the disk, at most 2 GiB and 50 000 inodes.
    Usual,
    /// A hundredth of the disk, at most 256 MiB and 10 000 inodes: for a node that had none, and may
    /// be full.
    Small,
    /// Number of bytes, and the usual inodes; with 0 neither.
    Bytes(u64),
}

/// Room on a disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskRoom {
    pub(crate) free_bytes: u64,
    /// Number of the disk, by which it is told from others.
    id: u64,
    all_bytes: u64,
    free_inodes: u64,
    /// 0: the file system does not count them.
    all_inodes: u64,
}

impl DiskRoom {
    /// Room on the disk of `dir`; `None`: it cannot be asked. Blocks, on a lost disk for ever.
    pub(crate) fn of(dir: &Path) -> Option<Self> {
        let disk = rustix::fs::statvfs(dir).ok()?;
        Some(Self {
            free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
            id: disk.f_fsid,
            all_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
            free_inodes: disk.f_favail,
            all_inodes: disk.f_files,
        })
    }

    /// Whether it is the same disk.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        self.id == other.id && self.all_bytes == other.all_bytes
    }
}

impl DiskReserve {
    /// Longest time between two looks at a disk.
    pub(crate) const PAUSE_MAX: Duration = Duration::from_millis(500);

    const PAUSE_MIN: Duration = Duration::from_millis(5);

    fn bytes(self, disk: DiskRoom) -> u64 {
        match self {
            Self::Usual => (disk.all_bytes / 20).min(2 * GIB),
            Self::Small => (disk.all_bytes / 100).min(GIB / 4),
            Self::Bytes(bytes) => bytes,
        }
    }

    fn inodes(self, disk: DiskRoom) -> u64 {
        match self {
            Self::Bytes(0) => 0,
            Self::Usual | Self::Bytes(_) => (disk.all_inodes / 20).min(50_000),
            Self::Small => (disk.all_inodes / 100).min(10_000),
        }
    }

    /// Lack of room for `more` bytes beside the reserve; `None`: there is room.
    pub(crate) fn lack(self, dir: &Path, disk: DiskRoom, more: u64) -> Option<DiskLack> {
        let text = self.lack_in_words(dir, disk, more)?;
        let is_grave =
            disk.free_bytes < self.bytes(disk) / 2 || disk.free_inodes < self.inodes(disk) / 2;
        Some(DiskLack { text, is_grave })
    }

    fn lack_in_words(self, dir: &Path, disk: DiskRoom, more: u64) -> Option<String> {
        let (dir, reserve) = (dir.display(), self.bytes(disk));
        let remedy = "remove files, images or containers from it; pulls go on by themselves once it has room";
        if disk.free_bytes < reserve.saturating_add(more) {
            let (free, reserve) = (rounded(disk.free_bytes), rounded(reserve));
            let more = if more > 0 {
                format!(", and the image needs {} more", rounded(more))
            } else {
                String::new()
            };
            return Some(format!(
                "the disk of {dir} has {free} free, of which image.disk_reserve keeps {reserve}{more}; {remedy}"
            ));
        }
        let reserve = self.inodes(disk);
        (disk.free_inodes < reserve).then(|| {
            format!(
                "the disk of {dir} has {} inodes free, and image.disk_reserve keeps {reserve}; {remedy}",
                disk.free_inodes
            )
        })
    }

    /// Time in which the reserve is not reached, however fast the writer.
    pub(crate) fn pause(self, disk: DiskRoom) -> Duration {
        let bytes = disk.free_bytes.saturating_sub(self.bytes(disk));
        let by_bytes = Duration::from_millis(bytes.saturating_mul(1000) / BYTES_PER_S);
        let inodes = disk.free_inodes.saturating_sub(self.inodes(disk));
        let by_inodes = if disk.all_inodes == 0 {
            Self::PAUSE_MAX
        } else {
            Duration::from_millis(inodes.saturating_mul(1000) / INODES_PER_S)
        };
        by_bytes
            .min(by_inodes)
            .clamp(Self::PAUSE_MIN, Self::PAUSE_MAX)
    }
}

/// Bytes for people, in the largest unit that they fill, with one decimal.
fn rounded(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let Some((shift, unit)) = units.into_iter().find(|(shift, _)| bytes >> shift > 0) else {
        return format!("{bytes} bytes");
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    match (tenths / 10, tenths % 10) {
        (units, 0) => format!("{units} {unit}"),
        (units, tenth) => format!("{units}.{tenth} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn disk(all_bytes: u64, free_bytes: u64, all_inodes: u64, free_inodes: u64) -> DiskRoom {
        DiskRoom {
            free_bytes,
            id: 0,
            all_bytes,
            free_inodes,
            all_inodes,
        }
    }

    #[test]
    fn the_reserve_is_a_part_of_small_disks_and_little_of_large_ones() {
        use DiskReserve::{Bytes, Small, Usual};
        for (reserve, all, bytes) in [
            (Usual, GIB, GIB / 20),
            (Usual, 10 * GIB, GIB / 2),
            (Usual, 1024 * GIB, 2 * GIB),
            (Small, GIB, GIB / 100),
            (Small, 1024 * GIB, 256 * MIB),
            (Bytes(7), 1024 * GIB, 7),
            (Bytes(0), GIB, 0),
        ] {
            assert_eq!(
                reserve.bytes(disk(all, 0, 0, 0)),
                bytes,
                "{reserve:?} of {all}"
            );
        }
        for (reserve, all, inodes) in [
            (Usual, 65_536, 3276),
            (Usual, 16_000_000, 50_000),
            (Bytes(1), 65_536, 3276),
            (Bytes(0), 65_536, 0),
            (Small, 65_536, 655),
            (Usual, 0, 0),
        ] {
            assert_eq!(
                reserve.inodes(disk(GIB, GIB, all, 0)),
                inodes,
                "{reserve:?} of {all}"
            );
        }
    }

    #[test]
    fn what_is_lacking_is_told_and_what_is_not_counted_is_not() {
        let (dir, usual) = (Path::new("/var/lib/x"), DiskReserve::Usual);
        let lack = |disk, more| usual.lack(dir, disk, more).map(|lack| lack.text);
        let roomy = disk(10 * GIB, GIB, 65_536, 60_000);
        assert_eq!(lack(roomy, GIB / 2), None);
        let layer = lack(roomy, GIB / 2 + 1).unwrap();
        assert!(
            layer.contains("/var/lib/x") && layer.contains("the image needs 512 MiB more"),
            "{layer}"
        );
        let full = lack(disk(10 * GIB, GIB / 2 - 1, 0, 0), 0).unwrap();
        let part = "has 511.9 MiB free, of which image.disk_reserve keeps 512 MiB;";
        assert!(full.contains(part), "{full}");
        let inodes = lack(disk(10 * GIB, GIB, 65_536, 3275), 0).unwrap();
        assert!(inodes.contains("3275 inodes free"), "{inodes}");
        assert_eq!(
            lack(disk(10 * GIB, GIB, 0, 0), 0),
            None,
            "btrfs counts none"
        );
        let none = DiskReserve::Bytes(0);
        assert_eq!(none.lack(dir, disk(GIB, 0, 65_536, 0), 0), None);
    }

    #[test]
    fn a_lack_is_grave_when_half_of_the_reserve_is_gone() {
        let (dir, usual) = (Path::new("/"), DiskReserve::Usual);
        for (free_bytes, free_inodes, is_grave) in [
            (GIB / 4, 3276, false),
            (GIB / 4 - 1, 3276, true),
            (GIB, 1638, false),
            (GIB, 1637, true),
        ] {
            let disk = disk(10 * GIB, free_bytes, 65_536, free_inodes);
            let lack = usual.lack(dir, disk, 0).unwrap();
            assert_eq!(lack.is_grave, is_grave, "{disk:?}");
        }
    }

    #[test]
    fn bytes_are_told_with_their_unit() {
        for (bytes, told) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (1_234_567, "1.1 MiB"),
            (3 * GIB / 2, "1.5 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(rounded(bytes), told);
        }
    }

    #[test]
    fn the_nearer_the_reserve_the_sooner_is_the_next_look() {
        let usual = DiskReserve::Usual;
        let pause = |free, inodes| {
            usual
                .pause(disk(10 * GIB, free, 65_536, inodes))
                .as_millis()
        };
        assert_eq!(pause(8 * GIB, 65_536), 311, "by its inodes");
        assert_eq!(
            usual.pause(disk(100 * GIB, 50 * GIB, 0, 0)).as_millis(),
            500
        );
        assert_eq!(pause(GIB / 2 + 205 * MIB, 65_536), 100);
        assert_eq!(pause(GIB / 2, 65_536), 5);
        assert_eq!(pause(0, 0), 5);
    }
}
