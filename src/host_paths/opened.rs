//! Opening of a path of the host: that path itself, with no link on the way, which a container that
//! writes there could have made.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, FsWord, OFlags, ResolveFlags};
use rustix::io::Errno;
use state::policy::host_paths::HostPathGrant;
use state::spec::Propagation;

use super::WantedPath;
use super::host_mounts::ListedMounts;
use crate::within;

/// Kind of a file system that has not been mounted yet, and is when somebody walks in (`statfs(2)`).
const AUTOFS_MAGIC: FsWord = 0x0187;

/// Path of the host that was opened and judged.
#[derive(Debug)]
pub(super) struct OpenedPath {
    opened: OwnedFd,
    /// Whether it is a directory.
    pub(super) is_directory: bool,
    /// Way in which later mounts are seen.
    pub(super) propagation: Propagation,
}

impl OpenedPath {
    /// Opens a path. Called in the mount namespace of the host.
    ///
    /// # Errors
    /// The fault, and what to do.
    pub(super) fn open(
        wanted: &WantedPath,
        grants: &[HostPathGrant],
        kept: &[PathBuf],
    ) -> Result<Self, String> {
        let path = Path::new(&wanted.path);
        if HostPathGrant::fault(grants, path, wanted.read_only).is_some() {
            return Err("this node does not give it so; see containers.host_paths".to_owned());
        }
        let opened = open(path).map_err(fault_of)?;
        let told = |error: Errno| error.to_string();
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&opened).map_err(told)?.st_mode);
        match kind {
            FileType::Directory | FileType::RegularFile | FileType::Socket | FileType::Fifo => {}
            FileType::CharacterDevice | FileType::BlockDevice => {
                return Err("is a device; ask for it by \"devices\"".to_owned());
            }
            FileType::Symlink | FileType::Unknown => return Err(fault_of(Errno::LOOP)),
        }
        if rustix::fs::fstatfs(&opened).map_err(told)?.f_type == AUTOFS_MAGIC {
            return Err("is not mounted yet; mount it".to_owned());
        }
        let opened = Self {
            opened,
            is_directory: kind == FileType::Directory,
            propagation: wanted.propagation,
        };
        opened.judge(kept)?;
        Ok(opened)
    }

    /// Path by which the kernel finds what was opened, and nothing else.
    pub(super) fn by_number(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.opened.as_raw_fd()).into()
    }

    /// Refuses what is the kernel's or the agent's, by whatever name, and a propagation that the
    /// host's own mount does not have: nothing would be passed on.
    fn judge(&self, kept: &[PathBuf]) -> Result<(), String> {
        let real = fs::read_link(self.by_number()).map_err(|error| error.to_string())?;
        if real == Path::new("/") {
            return Err("is all of the host, which nobody is given".to_owned());
        }
        let kept: Vec<_> = kept
            .iter()
            .map(|kept| fs::canonicalize(kept).unwrap_or_else(|_| kept.clone()))
            .collect();
        let mounts = ListedMounts::read();
        let mounts =
            mounts.map_err(|error| format!("the host's mounts cannot be read: {error}"))?;
        let by_name = kept.iter();
        let mut by_name = by_name.filter(|kept| real.starts_with(kept) || kept.starts_with(&real));
        let forbidden = by_name.next().cloned();
        if let Some(kept) = forbidden.or_else(|| mounts.forbidden(&real, &kept)) {
            return Err(format!(
                "is, holds or lies in {}, which nobody is given",
                kept.display()
            ));
        }
        let silent = mounts.silent(&real);
        match silent.filter(|_| self.propagation.follows_host()) {
            Some(point) => Err(format!(
                "is on {}, which is no shared mount, so that no later mount could reach the \
                 container: run mount --make-rshared {}, or leave propagation out",
                point.display(),
                point.display()
            )),
            None => Ok(()),
        }
    }
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let open = |more| {
        let resolve = ResolveFlags::NO_SYMLINKS;
        within::open_as(CWD, path, OFlags::PATH | more, resolve)
    };
    // Only as a directory is it mounted that waits for somebody to walk in.
    match open(OFlags::DIRECTORY) {
        Err(Errno::NOTDIR) => open(OFlags::empty()),
        opened => opened,
    }
}

fn fault_of(error: Errno) -> String {
    match error {
        Errno::NOENT => "is not there; make it on this host".to_owned(),
        Errno::NOTDIR => "is below something that is no directory".to_owned(),
        Errno::LOOP => "is a link, or below one, which is not followed: name the path that it \
                        leads to"
            .to_owned(),
        error => format!("cannot be opened: {error}"),
    }
}
