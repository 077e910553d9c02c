//! Files of containers, as an engine opens them for an archive.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use futures_util::future::BoxFuture;
use rustix::fs::{AtFlags, FileType, OFlags};
use rustix::io::Errno;
use state::id::InstanceName;

use super::{ArchiveRefusal, OwnerShift, PackedFrom};
use crate::within;

/// File systems of the kernel: proc, sysfs, both of control groups, devpts, mqueue, securityfs.
const KERNELS: [u64; 7] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x1cd1,
    0x1980_0202,
    0x7363_6673,
];

/// Engine that opens containers for archives.
pub(crate) trait RootEngine: fmt::Debug + Send + Sync + 'static {
    /// Opens the file system of an instance: as its processes see it where it runs, else its own
    /// files over those of its image, to be read only.
    fn open_root<'a>(
        &'a self,
        instance: InstanceName,
    ) -> BoxFuture<'a, Result<ContainerRoot, ArchiveRefusal>>;
}

/// File system of a container, opened for one archive.
#[derive(Debug)]
pub(crate) struct ContainerRoot {
    pub(crate) directory: OwnedFd,
    /// Ids of the host that are its own. `None`: they are the host's.
    pub(crate) owners: Option<OwnerShift>,
    /// Whether it runs, so that what is mounted into it is seen.
    pub(crate) is_running: bool,
}

/// Thing in a container that is to be packed.
#[derive(Debug)]
pub(crate) struct FoundThing {
    opened: OwnedFd,
    /// Name of it in the directory that is opened; `None`: that is the thing.
    entry: Option<CString>,
    /// Name of the directory in the archive.
    name: Vec<u8>,
}

impl FoundThing {
    pub(crate) fn packed(&self) -> PackedFrom<'_> {
        match &self.entry {
            None => PackedFrom::Directory(self.opened.as_fd(), &self.name),
            Some(name) => PackedFrom::Entry(self.opened.as_fd(), name),
        }
    }
}

impl ContainerRoot {
    /// The thing at a path. A link at its end is the thing itself, as docker has it. Blocks.
    pub(crate) fn find(&self, path: &str) -> Result<FoundThing, ArchiveRefusal> {
        let parts = parts(path)?;
        let Some((last, above)) = parts.split_last() else {
            let opened = self.open("/").map_err(|error| told(path, error))?;
            return Ok(FoundThing {
                opened,
                entry: None,
                name: b"./".to_vec(),
            });
        };
        let parent = self.open(&format!("/{}", above.join("/")));
        let parent = parent.map_err(|error| told(path, error))?;
        let stat = rustix::fs::statat(&parent, *last, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|error| told(path, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            self.is_no_kernels(&parent, path)?;
            let entry = CString::new(*last).map_err(|_| told(path, Errno::NOENT))?;
            return Ok(FoundThing {
                opened: parent,
                entry: Some(entry),
                name: Vec::new(),
            });
        }
        let opened = self.open(&format!("/{}", parts.join("/")));
        let opened = opened.map_err(|error| told(path, error))?;
        self.is_no_kernels(&opened, path)?;
        Ok(FoundThing {
            opened,
            entry: None,
            name: format!("{last}/").into_bytes(),
        })
    }

    /// The directory at a path, links followed, into which an archive may go. Blocks.
    pub(crate) fn directory(&self, path: &str) -> Result<OwnedFd, ArchiveRefusal> {
        let parts = parts(path)?;
        let opened = self.open(&format!("/{}", parts.join("/")));
        let opened = opened.map_err(|error| told(path, error))?;
        self.is_no_kernels(&opened, path)?;
        Ok(opened)
    }

    fn open(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        within::open(&self.directory, path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Refuses what is the kernel's: its file systems, and the devices.
    fn is_no_kernels(&self, directory: &OwnedFd, path: &str) -> Result<(), ArchiveRefusal> {
        let failed = |error: Errno| ArchiveRefusal::Unavailable(format!("{path}: {error}"));
        let kind = rustix::fs::fstatfs(directory).map_err(failed)?.f_type;
        let is_kernels = u64::try_from(kind).is_ok_and(|kind| KERNELS.contains(&kind));
        let device = |directory: &OwnedFd| rustix::fs::fstat(directory).map(|stat| stat.st_dev);
        let of = device(directory).map_err(failed)?;
        let root = device(&self.directory).map_err(failed)?;
        let devices = self.open("/dev").and_then(|devices| device(&devices)).ok();
        if is_kernels || (of != root && devices == Some(of)) {
            let fault = format!("{path} is the kernel's: /proc, /sys and /dev are not archived");
            return Err(ArchiveRefusal::Conflict(fault));
        }
        Ok(())
    }
}

/// Parts of a path in a container, without those that can be left out.
fn parts(path: &str) -> Result<Vec<&str>, ArchiveRefusal> {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    let parts: Vec<_> = parts.collect();
    if parts.contains(&"..") || !path.starts_with('/') {
        let fault = format!("path={path} is not absolute and without \"..\"");
        return Err(ArchiveRefusal::Wrong(fault));
    }
    Ok(parts)
}

fn told(path: &str, error: Errno) -> ArchiveRefusal {
    match error {
        Errno::NOENT => ArchiveRefusal::Absent(format!("the container has no {path}")),
        Errno::NOTDIR => ArchiveRefusal::Wrong(format!("{path} in the container is no directory")),
        Errno::LOOP => {
            ArchiveRefusal::Wrong(format!("{path} in the container is a link to itself"))
        }
        error => {
            let error = io::Error::from(error);
            ArchiveRefusal::Unavailable(format!("{path} in the container: {error}"))
        }
    }
}
