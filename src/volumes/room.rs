//! Room on the disk of volumes: what contents that come in may take of it, and what they leave free.

use std::io;
use std::os::fd::OwnedFd;

/// Bytes that contents leave free, at most: a hundredth of the disk.
const BYTES_LEFT: u64 = 256 << 20;
/// Files that they leave room for, at most: a hundredth of those that the disk can hold.
const FILES_LEFT: u64 = 10_000;
/// Files that are made between two looks at the disk.
const FILES_A_LOOK: u64 = 1_024;

/// Budget of one copy: as much as its disk has beyond what is left free.
#[derive(Debug)]
pub(crate) struct DiskBudget {
    disk: OwnedFd,
    bytes: u64,
    files: u64,
}

impl DiskBudget {
    /// Budget of a copy to the disk of this directory.
    pub(crate) fn of(directory: &OwnedFd) -> io::Result<Self> {
        let mut budget = Self {
            disk: directory.try_clone()?,
            bytes: 0,
            files: 0,
        };
        budget.look(0)?;
        Ok(budget)
    }

    /// Takes a file with so many bytes of it from the budget.
    ///
    /// # Errors
    /// The disk has no more to give.
    pub(crate) fn take(&mut self, bytes: u64) -> io::Result<()> {
        if self.files == 0 || self.bytes < bytes {
            self.look(bytes)?;
        }
        self.files -= 1;
        self.bytes -= bytes;
        Ok(())
    }

    fn look(&mut self, bytes: u64) -> io::Result<()> {
        let disk = rustix::fs::fstatvfs(&self.disk)?;
        let all = disk.f_blocks.saturating_mul(disk.f_frsize);
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let spare = free.saturating_sub((all / 100).min(BYTES_LEFT));
        // 0: the file system does not count them.
        let files = match disk.f_files {
            0 => FILES_A_LOOK,
            all => disk.f_favail.saturating_sub((all / 100).min(FILES_LEFT)),
        };
        if spare == 0 || spare < bytes || files == 0 {
            let message = format!(
                "{} MiB and {} files are free, of which some are left for others",
                free >> 20,
                disk.f_favail
            );
            return Err(io::Error::new(io::ErrorKind::StorageFull, message));
        }
        self.files = files.min(FILES_A_LOOK);
        // Others write meanwhile: what is free now is not for this copy alone.
        self.bytes = bytes.saturating_add((spare - bytes) / 8);
        Ok(())
    }
}
