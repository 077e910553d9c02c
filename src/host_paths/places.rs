//! Places of host paths on their way into containers: `host-paths/<instance>/<number>` in the run
//! directory, each with the path mounted on it.
//!
//! The directory of an instance is a small file system in memory. It goes as a whole with all that is
//! mounted in it: nothing behind a mount is walked to, or removed, and where a place was is nothing.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change,
    unmount,
};
use state::id::InstanceName;

use super::host_mounts::PLACES;
use super::opened::OpenedPath;

/// Most mounts on top of each other at one directory. One is the rule.
const LAYERS_MAX: usize = 16;
/// Options of an instance's file system, which holds a name for each volume that it may have.
const OPTIONS: &std::ffi::CStr = c"size=64k,nr_inodes=128,mode=0700";

/// Directory of all places, which stays: another instance may be about to get its own in it. What one
/// instance has is changed by one at a time.
#[derive(Debug)]
pub(super) struct PathPlaces {
    directory: PathBuf,
}

impl PathPlaces {
    pub(super) fn new(run_dir: &Path) -> Self {
        Self {
            directory: run_dir.join(PLACES),
        }
    }

    pub(super) fn of(&self, instance: InstanceName, number: usize) -> PathBuf {
        self.of_instance(instance).join(number.to_string())
    }

    fn of_instance(&self, instance: InstanceName) -> PathBuf {
        self.directory.join(instance.to_string())
    }

    /// Mounts opened paths at the places of an instance that has none. Called in the mount namespace
    /// of the host.
    pub(super) fn put(&self, instance: InstanceName, paths: &[OpenedPath]) -> io::Result<()> {
        let directory = self.of_instance(instance);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("chas-host-paths", &directory, "tmpfs", flags, Some(OPTIONS))?;
        // Else what is mounted below would be so in all mount namespaces that follow the host's.
        cut_off(&directory)?;
        let numbered = || paths.iter().enumerate();
        for (number, path) in numbered().filter(|(_, path)| !path.propagation.follows_host()) {
            bind(path, &self.of(instance, number))?;
        }
        // From here, for a walk onto a place may wait for its file system.
        cut_off(&directory)?;
        for (number, path) in numbered().filter(|(_, path)| path.propagation.follows_host()) {
            bind(path, &self.of(instance, number))?;
        }
        Ok(())
    }

    /// Takes the places of an instance away. Called in the mount namespace of the host.
    pub(super) fn take_away(&self, instance: InstanceName) -> io::Result<()> {
        let directory = self.of_instance(instance);
        for _ in 0..LAYERS_MAX {
            // Without that the end of what is mounted below would be passed on to the host's own.
            match cut_off(&directory) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
                    // No mount is there.
                    return fs::remove_dir(&directory);
                }
                done => done?,
            }
            unmount(&directory, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
        }
        Err(io::Error::other("more is mounted there than was put"))
    }

    /// Instances with places.
    pub(super) fn listed(&self) -> io::Result<Vec<InstanceName>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?.collect::<io::Result<Vec<_>>>()?,
        };
        let names = entries
            .iter()
            .filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.parse().ok()).collect())
    }
}

fn bind(path: &OpenedPath, place: &Path) -> io::Result<()> {
    if path.is_directory {
        fs::create_dir(place)?;
    } else {
        File::create_new(place)?;
    }
    Ok(mount_bind_recursive(path.by_number(), place)?)
}

/// Lets a mount, and those below it, pass nothing on and take nothing.
fn cut_off(directory: &Path) -> io::Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(mount_change(directory, private)?)
}
