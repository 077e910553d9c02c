//! Mount points in the file system of a container, which are made before the container has it.
//!
//! A path is followed within the container, whatever links its image has.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::image_root::ImageRoot;
use crate::oci::host_ids::HostIds;
use crate::oci::volumes::MountPoint;
use crate::within;

/// Permissions of a directory that is made.
const MODE: Mode = Mode::from_raw_mode(0o755);

/// Permissions of a file that is made.
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);

/// Device and number of a file.
type Identity = (u64, u64);

/// Directories in which a container finds the kernel's file systems.
const KERNELS: [&str; 3] = ["/proc", "/sys", "/dev"];

impl ImageRoot {
    /// Makes each of these points, of which no two may be one.
    pub(super) fn make_points(
        &self,
        points: &[MountPoint],
        ids: Option<HostIds>,
    ) -> io::Result<()> {
        let mut made = BTreeMap::new();
        for point in points {
            let found = match point.is_file {
                false => self.make_directory(point, ids).map(|made| (made, "")),
                // Of a file there may be several names, of which each is covered by itself.
                true => self.make_file(&point.path, ids),
            };
            let told =
                |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", point.path));
            let found = found.map_err(told)?;
            if let Some(other) = made.insert(found, &point.path) {
                let message = format!("links make it one with {other}, where another volume is");
                return Err(told(io::Error::other(message)));
            }
        }
        Ok(())
    }

    /// Makes the file at the absolute `path`, empty, and the directories above it. One that is there
    /// stays as it is, but for a link, of which nobody would know where it leads.
    fn make_file<'a>(
        &self,
        path: &'a str,
        ids: Option<HostIds>,
    ) -> io::Result<(Identity, &'a str)> {
        let (above, name) = path.rsplit_once('/').unwrap_or_default();
        let above = self.make_directories(above, ids)?;
        if self.is_kernels(&above)? {
            return Err(kernels());
        }
        match rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => Err(io::Error::other(
                    "it is a directory, and the host's is none",
                )),
                FileType::Symlink => Err(io::Error::other("it is a link")),
                FileType::RegularFile
                | FileType::Socket
                | FileType::Fifo
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => Ok((identity(&above)?, name)),
            },
            Err(Errno::NOENT) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let made = rustix::fs::openat(&above, name, flags, FILE_MODE)?;
                rustix::fs::fchmod(&made, FILE_MODE)?;
                let owner = ids.and_then(|ids| ids.on_host(0)).unwrap_or_default();
                let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
                rustix::fs::fchown(&made, Some(uid), Some(gid))?;
                Ok((identity(&above)?, name))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the directory at the absolute `path`, and those above it, of root and with mode 755.
    /// One that is there stays as it is.
    ///
    /// With a `mode` it gets that: some OCI runtimes give a file system in memory the permissions of
    /// what it covers, whatever was asked for.
    ///
    /// With `ids` all of them are the container's own: the snapshot is mounted here as it is on the
    /// disk, and a directory of the image would get into it with its owner of there.
    pub(super) fn make_directory(
        &self,
        MountPoint { path, mode, .. }: &MountPoint,
        ids: Option<HostIds>,
    ) -> io::Result<Identity> {
        let made = self.make_directories(path, ids)?;
        self.can_be_covered(&made)?;
        if let Some(mode) = mode {
            rustix::fs::fchmod(&made, Mode::from_raw_mode(*mode))?;
        }
        identity(&made)
    }

    fn make_directories(&self, path: &str, ids: Option<HostIds>) -> io::Result<OwnedFd> {
        let open = |path: &str| {
            within::open(
                self.directory_itself(),
                path,
                OFlags::RDONLY | OFlags::DIRECTORY,
            )
        };
        let mut above = open("/")?;
        let mut reached = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            reached = format!("{reached}/{name}");
            above = match open(&reached) {
                Ok(there) => there,
                Err(Errno::NOENT) => {
                    make(&above, name)?;
                    let made = open(&reached)?;
                    // The agent's umask has taken something away.
                    rustix::fs::fchmod(&made, MODE)?;
                    made
                }
                Err(error) => return Err(error.into()),
            };
            if let Some(ids) = ids {
                self.give(&above, ids)?;
            }
        }
        Ok(above)
    }

    /// Whether something can be mounted at the absolute `path`: on a directory that is there, or that
    /// can be made.
    pub(super) fn can_mount_at(&self, path: &str) -> io::Result<bool> {
        let mut above = within::open(self.directory_itself(), "/", OFlags::PATH)?;
        let mut reached = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            reached = format!("{reached}/{name}");
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            above = match within::open(self.directory_itself(), &reached, flags) {
                Ok(there) => there,
                Err(Errno::NOENT) => {
                    let link = rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW);
                    return Ok(link.is_err() && !self.is_kernels(&above)?);
                }
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
        }
        Ok(identity(&above)? != identity(self.directory_itself())? && !self.is_kernels(&above)?)
    }

    /// Whether a directory is one in which a container finds the kernel's file systems, or below.
    fn is_kernels(&self, directory: &OwnedFd) -> io::Result<bool> {
        let root = self.directory_itself();
        let of = |top| within::open(root, top, OFlags::PATH | OFlags::NOFOLLOW).ok();
        let tops = KERNELS.map(of);
        let tops: Vec<_> = tops
            .iter()
            .flatten()
            .map(identity)
            .collect::<Result<_, _>>()?;
        for (above, _) in self.chain(directory)? {
            if tops.contains(&identity(&above)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Refuses a directory on which nothing may be mounted: the root, and those in which a container
    /// finds the kernel's file systems.
    fn can_be_covered(&self, directory: &OwnedFd) -> io::Result<()> {
        let is_root = identity(directory)? == identity(self.directory_itself())?;
        if is_root || self.is_kernels(directory)? {
            return Err(kernels());
        }
        Ok(())
    }

    /// Gives a directory, and those above it, from the users of the image to those of a container.
    fn give(&self, directory: &OwnedFd, ids: HostIds) -> io::Result<()> {
        // The topmost first: a change copies what is above as it is.
        for (directory, stat) in self.chain(directory)?.into_iter().rev() {
            let of_image = !(ids.has(stat.st_uid) && ids.has(stat.st_gid));
            let owner = ids.on_host(stat.st_uid).zip(ids.on_host(stat.st_gid));
            if let (true, Some((uid, gid))) = (of_image, owner) {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                rustix::fs::fchown(&directory, Some(uid), Some(gid))?;
            }
        }
        Ok(())
    }

    /// A directory, and those above it up to the root, which is left out.
    fn chain(&self, directory: &OwnedFd) -> io::Result<Vec<(OwnedFd, Stat)>> {
        let root = identity(self.directory_itself())?;
        let mut chain = Vec::new();
        let mut at = directory.try_clone()?;
        while identity(&at)? != root {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let above = rustix::fs::openat(&at, "..", flags, Mode::empty())?;
            let stat = rustix::fs::fstat(&at)?;
            chain.push((std::mem::replace(&mut at, above), stat));
        }
        Ok(chain)
    }
}

fn kernels() -> io::Error {
    let message = "it is a link to the root directory, or to the kernel's";
    io::Error::new(io::ErrorKind::PermissionDenied, message)
}

fn make(above: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::mkdirat(above, name, MODE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(io::Error::other("it is a link to nothing")),
        Err(error) => Err(error.into()),
    }
}

/// Device and number by which a file or directory is told from others.
fn identity(directory: &OwnedFd) -> io::Result<Identity> {
    let stat = rustix::fs::fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use containerd_client::types::Mount;

    use super::*;

    fn point(path: &str, mode: Option<u32>) -> MountPoint {
        let path = path.to_owned();
        MountPoint {
            path,
            mode,
            is_file: false,
        }
    }

    #[test]
    fn a_directory_is_made_within_the_image_and_never_where_the_kernel_s_is() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        for made in ["real", "proc/sys", "dev"] {
            fs::create_dir_all(image.join(made)).unwrap();
        }
        for (link, to) in [
            ("link", "/real"),
            ("up", "../../../real"),
            ("top", "/"),
            ("kernel", "proc"),
            ("dangling", "/none"),
            ("loop", "/loop"),
        ] {
            symlink(to, image.join(link)).unwrap();
        }
        fs::write(image.join("file"), "").unwrap();
        let mounts = [Mount {
            r#type: "bind".to_owned(),
            source: image.display().to_string(),
            ..Mount::default()
        }];
        let root = ImageRoot::open_writable(&mounts, dir.path(), "test").unwrap();
        for path in ["/link/a/b", "/real", "/new", "/up/c"] {
            assert!(root.can_mount_at(path).unwrap(), "{path}");
            root.make_directory(&point(path, None), None).unwrap();
        }
        for path in ["a/b", "c"] {
            let made = fs::metadata(image.join("real").join(path)).unwrap();
            assert_eq!(made.permissions().mode() & 0o7777, 0o755, "{path}");
        }
        root.make_directory(&point("/real", Some(0o1777)), None)
            .unwrap();
        let real = fs::metadata(image.join("real")).unwrap().permissions();
        assert_eq!(real.mode() & 0o7777, 0o1777);
        for (path, part) in [
            ("/file", "Not a directory"),
            ("/file/a", "Not a directory"),
            ("/top", "root directory"),
            ("/kernel", "the kernel's"),
            ("/kernel/sys", "the kernel's"),
            ("/dev/new", "the kernel's"),
            ("/dangling", "link to nothing"),
            ("/dangling/a", "link to nothing"),
            ("/loop", "symbolic links"),
        ] {
            assert!(!root.can_mount_at(path).unwrap(), "{path}");
            let refused = root.make_directory(&point(path, None), None);
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains(part), "{path}: {refused}");
        }
        assert_eq!(root.directory("/none").unwrap(), None);
    }
}
