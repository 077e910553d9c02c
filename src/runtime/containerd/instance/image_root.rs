//! Root directory of an image that no container has mounted, opened for a look. Of its snapshot's
//! mounts nothing depends on how many layers there are, nor on how long their paths.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use containerd_client::types::Mount;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, OpenTreeFlags, UnmountFlags};

use crate::oci::volumes::FoundDirectory;
use crate::within;

/// Names of the directories that views are mounted on for a moment.
const PREFIX: &str = "chas-view-";

/// Root directory of an image. Nothing is mounted where it could be left behind.
#[derive(Debug)]
pub(super) struct ImageRoot(OwnedFd);

/// Failure to read a file of an image, cut by who can mend it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageReadError {
    /// The host failed; the image may be sound.
    #[error(transparent)]
    Host(#[from] io::Error),
    /// The image has something else at that path than a file of a usual size.
    #[error("{0}")]
    Image(String),
}

impl ImageRoot {
    /// Root directory of the read-only snapshot with these mounts. An overlay is mounted on a new
    /// directory `chas-view-<name>` in `run_dir`, and taken away before this answers: from then on
    /// only an open copy of the mount holds it.
    pub(super) fn open(mounts: &[Mount], run_dir: &Path, name: &str) -> io::Result<Self> {
        let [mount] = mounts else {
            return Err(io::Error::other("the snapshot has not exactly one mount"));
        };
        match mount.r#type.as_str() {
            "bind" => directory(&mount.source).map(Self),
            "overlay" => {
                let target = run_dir.join(format!("{PREFIX}{name}"));
                overlay(&mount.options, &target, MountFlags::RDONLY)
            }
            other => Err(io::Error::other(format!(
                "the snapshot has a mount of type {other:?}, which is not known"
            ))),
        }
    }

    /// Root directory of the container whose first process this is.
    pub(super) fn of_process(pid: u32) -> io::Result<Self> {
        directory(format!("/proc/{pid}/root")).map(Self)
    }

    /// Root directory of the writable snapshot with these mounts, which no container has mounted;
    /// else as [`Self::open`].
    pub(super) fn open_writable(mounts: &[Mount], run_dir: &Path, name: &str) -> io::Result<Self> {
        match mounts {
            [mount] if mount.r#type == "overlay" => {
                let target = run_dir.join(format!("{PREFIX}{name}"));
                overlay(&mount.options, &target, MountFlags::empty())
            }
            other => Self::open(other, run_dir, name),
        }
    }

    /// The root directory itself.
    pub(super) const fn directory_itself(&self) -> &OwnedFd {
        &self.0
    }

    /// Directory at `path`, links followed within the image; `None`: there is nothing.
    pub(super) fn directory(&self, path: &str) -> io::Result<Option<FoundDirectory>> {
        match within::open(&self.0, path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(directory) => {
                let stat = rustix::fs::fstat(directory)?;
                Ok(Some(FoundDirectory {
                    uid: stat.st_uid,
                    gid: stat.st_gid,
                }))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Contents of a file of at most `bytes_max`; `None`: the image has none at `path`.
    ///
    /// The image's author may have made it a link to anywhere: it is followed as the container
    /// would, never out of the image.
    pub(super) fn read(
        &self,
        path: &str,
        bytes_max: u64,
    ) -> Result<Option<Vec<u8>>, ImageReadError> {
        let place = match within::open(&self.0, path, OFlags::PATH) {
            Ok(place) => File::from(place),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(Errno::LOOP) => {
                return Err(ImageReadError::Image("is a link to itself".to_owned()));
            }
            Err(error) => return Err(io::Error::from(error).into()),
        };
        let metadata = place.metadata()?;
        // Opened only then: a device, a socket or a pipe has its own ways to refuse, or to wait.
        if !metadata.is_file() {
            return Err(ImageReadError::Image("is no file".to_owned()));
        }
        let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))?;
        let mut bytes = Vec::new();
        file.take(bytes_max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > bytes_max {
            return Err(ImageReadError::Image(format!(
                "has {} bytes, more than {bytes_max}",
                metadata.len()
            )));
        }
        Ok(Some(bytes))
    }
}

/// Takes away what an agent that was killed in the middle of a look left in `run_dir`.
pub(super) fn clear_left(run_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(run_dir) else {
        return;
    };
    for entry in entries.flatten() {
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes())
        {
            rustix::mount::unmount(entry.path(), UnmountFlags::DETACH).ok();
            match std::fs::remove_dir(entry.path()) {
                Ok(()) => tracing::info!(path = %entry.path().display(), "leftover view swept"),
                Err(error) => {
                    tracing::warn!(path = %entry.path().display(), %error, "leftover view not swept");
                }
            }
        }
    }
}

fn directory(path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn overlay(options: &[String], target: &Path, access: MountFlags) -> io::Result<ImageRoot> {
    let (data, _directories) = overlay_data(options)?;
    std::fs::create_dir_all(target)?;
    let flags = access | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mounted = rustix::mount::mount("overlay", target, "overlay", flags, Some(data.as_c_str()));
    let root = mounted.map_err(io::Error::from).and_then(|()| {
        // Not the mount itself: below one that was taken away the kernel answers EAGAIN to each `..`
        // behind a link, for every step there changes what it compares.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let root = rustix::mount::open_tree(CWD, target, flags);
        rustix::mount::unmount(target, UnmountFlags::DETACH)?;
        Ok(root?)
    });
    std::fs::remove_dir(target)?;
    root.map(ImageRoot)
}

/// Whether an option is none of mount(2)'s data: a flag, or the ids to which containerd's own mount
/// shows the files.
fn is_for_containerd(option: &str) -> bool {
    let maps = ["uidmap=", "gidmap="]
        .iter()
        .any(|key| option.starts_with(key));
    maps || matches!(option, "ro" | "rw")
}

/// Options of an overlay for mount(2), and the layers' directories, which they name by number.
///
/// The kernel reads one page of options, and **cuts what is longer without an error**: layers are
/// missing then, or it mounts nothing. Numbers are short, whatever containerd's directory is called.
fn overlay_data(options: &[String]) -> io::Result<(CString, Vec<OwnedFd>)> {
    let mut directories = Vec::new();
    let mut words = Vec::with_capacity(options.len());
    for option in options {
        let numbered = ["lowerdir", "upperdir", "workdir"].iter().find_map(|key| {
            let paths = option.strip_prefix(key)?.strip_prefix('=')?;
            Some((key, paths))
        });
        if let Some((key, paths)) = numbered {
            let mut numbers = Vec::new();
            for path in paths.split(':') {
                let opened = directory(path)?;
                numbers.push(format!("/proc/self/fd/{}", opened.as_raw_fd()));
                directories.push(opened);
            }
            words.push(format!("{key}={}", numbers.join(":")));
        } else if !is_for_containerd(option) {
            words.push(option.clone());
        }
    }
    let data = words.join(",");
    // The last byte of the page is the end of the text.
    let bytes_max = rustix::param::page_size() - 1;
    if data.len() > bytes_max {
        return Err(io::Error::other(format!(
            "its {} directories need {} bytes of mount options, and the kernel takes {bytes_max}",
            directories.len(),
            data.len()
        )));
    }
    Ok((CString::new(data).map_err(io::Error::other)?, directories))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &Path) -> Vec<Mount> {
        vec![Mount {
            r#type: "bind".to_owned(),
            source: source.display().to_string(),
            options: vec!["ro".to_owned(), "rbind".to_owned()],
            ..Mount::default()
        }]
    }

    fn of(mounts: &[Mount], path: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, ImageReadError> {
        let root = ImageRoot::open(mounts, Path::new("/nowhere"), "test").unwrap();
        root.read(path, bytes_max)
    }

    #[test]
    fn a_file_is_read_as_the_container_would_and_only_an_absent_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        std::fs::create_dir_all(image.join("etc/directory")).unwrap();
        std::fs::write(dir.path().join("outside"), "host").unwrap();
        std::fs::write(image.join("outside"), "image").unwrap();
        for (link, to) in [
            ("up", "../../outside"),
            ("loop", "loop"),
            ("dangling", "/none"),
        ] {
            std::os::unix::fs::symlink(to, image.join("etc").join(link)).unwrap();
        }
        let mounts = bind(&image);
        let read = |path: &str| of(&mounts, path, 5);
        assert_eq!(read("outside").unwrap().unwrap(), b"image");
        assert_eq!(read("etc/up").unwrap().unwrap(), b"image", "not the host's");
        for absent in ["none", "etc/dangling", "outside/below"] {
            assert!(read(absent).unwrap().is_none(), "{absent}");
        }
        for odd in ["etc/directory", "etc/loop"] {
            let error = read(odd).unwrap_err();
            assert!(matches!(error, ImageReadError::Image(_)), "{odd}: {error}");
        }
        let cut = of(&mounts, "outside", 4).unwrap_err().to_string();
        assert_eq!(cut, "has 5 bytes, more than 4");
    }

    #[test]
    fn the_options_of_an_overlay_do_not_grow_with_the_paths_of_its_layers() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("a".repeat(200));
        let layers: Vec<_> = (0..128).map(|n| long.join(n.to_string())).collect();
        layers
            .iter()
            .for_each(|layer| std::fs::create_dir_all(layer).unwrap());
        let paths: Vec<_> = layers
            .iter()
            .map(|layer| layer.display().to_string())
            .collect();
        let options = [
            "ro",
            "index=off",
            "uidmap=0:70000:65536",
            &format!("lowerdir={}", paths.join(":")),
        ];
        let (data, lower) = overlay_data(&options.map(str::to_owned)).unwrap();
        assert_eq!(lower.len(), 128);
        assert!(
            data.as_bytes()
                .starts_with(b"index=off,lowerdir=/proc/self/fd/")
        );
        assert!(data.as_bytes().len() < 4096, "{}", data.as_bytes().len());
        let gone = overlay_data(&["lowerdir=/no/such/layer".to_owned()]).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }
}
