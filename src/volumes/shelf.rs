//! Volumes on the disk: a directory each, and a note of each beside them, by which one that is lost is
//! told from one that never was.
//!
//! ```text
//! volumes/<name>/_data      what containers see
//! volumes/<name>/.new       content that is being copied or unpacked
//! volumes/<name>/.gone-…    content that is being removed
//! volume-notes/<name>.json  when and of what it was made
//! image-volumes/<id>/<path's hash>, image-volume-notes/<id>/…   the same, of a container's own
//! ```
//!
//! The notes are elsewhere than the volumes, of which all or some may be on disks of their own. While
//! such a disk is not mounted, a volume has a note and no content, and is not made anew: no database
//! may start on nothing.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use state::quantity::ByteCount;
use state::time::unix_ms;

use super::copy::{self, CopiedFiles};
use super::key::VolumeKey;
use super::quota;
use super::room::DiskBudget;
use crate::within;

pub(super) const DATA: &str = "_data";
pub(super) const NEW: &str = ".new";
/// Beginning of the names of contents that are being removed.
pub(super) const GONE: &str = ".gone-";
/// Directories from a volume's own to the state directory, at most.
const WAYS: usize = 4;

/// Places of the volumes on the disk.
#[derive(Clone, Debug)]
pub(super) struct Shelf {
    pub(super) state_dir: PathBuf,
}

/// Presence of a volume on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VolumePresence {
    /// The volume is there.
    Present,
    /// No such volume was ever made.
    Absent,
    /// The volume was made, and is not there: its disk is not mounted, or somebody removed it.
    Missing,
}

/// Note of a volume that was made. It is stored for ever: a new field has a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeNote {
    /// Time at which it was made, in milliseconds since 1970. `None`: it was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) made_ms: Option<u64>,
    /// Image whose files it began with; `None`: it began empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<String>,
    /// Whether another disk is mounted at its directory itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_mount: bool,
    /// Time since which no container uses it, in milliseconds since 1970. `None`: one does, or
    /// nobody has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unused_ms: Option<u64>,
}

impl Shelf {
    pub(super) const fn new(state_dir: PathBuf) -> Self {
        Self { state_dir }
    }

    /// Directory that containers see.
    pub(super) fn data(&self, key: &VolumeKey) -> PathBuf {
        self.place(key).join(DATA)
    }

    pub(super) fn place(&self, key: &VolumeKey) -> PathBuf {
        self.state_dir.join(key.directory())
    }

    pub(super) fn note_path(&self, key: &VolumeKey) -> PathBuf {
        self.state_dir.join(key.note())
    }

    /// State of a volume. One that is there without a note, or with one that tells another mount,
    /// gets one. Whoever does it holds its turn.
    pub(super) fn noted(&self, key: &VolumeKey) -> io::Result<VolumePresence> {
        let (presence, note) = self.look_for(key)?;
        if let Some(note) = note {
            self.write_note(key, &note)?;
        }
        Ok(presence)
    }

    /// State of a volume.
    pub(super) fn look(&self, key: &VolumeKey) -> io::Result<VolumePresence> {
        Ok(self.look_for(key)?.0)
    }

    /// State of a volume, and the note that it should have, if that is another one.
    fn look_for(&self, key: &VolumeKey) -> io::Result<(VolumePresence, Option<VolumeNote>)> {
        let (data, note) = (self.data(key), self.note(key)?);
        match fs::symlink_metadata(&data) {
            Ok(found) if !found.is_dir() => {
                let message = format!("{} is no directory", data.display());
                Err(io::Error::other(message))
            }
            Ok(found) => {
                let is_mount = found.dev() != fs::metadata(self.place(key))?.dev();
                match note {
                    // The directory is only what its disk is mounted on.
                    Some(note) if note.is_mount && !is_mount => Ok((VolumePresence::Missing, None)),
                    Some(note) if note.is_mount == is_mount => Ok((VolumePresence::Present, None)),
                    note => {
                        let note = note.unwrap_or_default();
                        let note = VolumeNote { is_mount, ..note };
                        Ok((VolumePresence::Present, Some(note)))
                    }
                }
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Err(_) if note.is_some() => Ok((VolumePresence::Missing, None)),
            Err(_) => Ok((VolumePresence::Absent, None)),
        }
    }

    /// Fills a volume that is absent with what an image has at `path`, and puts it in no place yet.
    /// `None`: the image has nothing there.
    pub(super) fn fill(
        &self,
        key: &VolumeKey,
        size: Option<ByteCount>,
        (image, path): (&OwnedFd, &str),
    ) -> io::Result<Option<CopiedFiles>> {
        self.make_new(key, size, |new| fill(new, image, path))
    }

    /// Makes the content of a volume that is absent, and puts it in no place yet. With a `size`, it is
    /// no larger.
    pub(super) fn make_new<T, E: From<io::Error>>(
        &self,
        key: &VolumeKey,
        size: Option<ByteCount>,
        make: impl FnOnce(&OwnedFd) -> Result<T, E>,
    ) -> Result<T, E> {
        let place = self.place(key);
        let is_own = !place.exists();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&place)?;
        let new = place.join(NEW);
        match fs::remove_dir_all(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        fs::create_dir(&new)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&new, flags, Mode::empty()).map_err(io::Error::from)?;
        // The umask may have taken something away.
        rustix::fs::fchmod(&opened, Mode::from_raw_mode(0o755)).map_err(io::Error::from)?;
        let bounded = match key {
            VolumeKey::Named(_) => quota::begin(&new, size).map_err(io::Error::other),
            VolumeKey::OfImage(..) => Ok(()),
        };
        let made = bounded.map_err(E::from).and_then(|()| make(&opened));
        if made.is_err() {
            // What a full disk has room for again is not left to the next try.
            fs::remove_dir_all(&new).ok();
            if is_own {
                self.leave(key);
            }
        }
        made
    }

    /// Puts a volume that was filled in its place: it is there whole, or not at all.
    pub(super) fn put(&self, key: &VolumeKey, image: Option<String>) -> io::Result<()> {
        let place = self.place(key);
        fs::rename(place.join(NEW), place.join(DATA))?;
        // The ways to it as well, which may be new.
        place.ancestors().take(WAYS).try_for_each(sync)?;
        let note = VolumeNote {
            made_ms: Some(unix_ms(SystemTime::now())),
            image,
            ..VolumeNote::default()
        };
        self.write_note(key, &note)
    }

    /// Note of a volume; `None`: there is none. One that cannot be read says nothing, and is one.
    pub(super) fn note(&self, key: &VolumeKey) -> io::Result<Option<VolumeNote>> {
        match fs::read(self.note_path(key)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).unwrap_or_default())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn write_note(&self, key: &VolumeKey, note: &VolumeNote) -> io::Result<()> {
        let path = self.note_path(key);
        let directory = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let new = path.with_extension(format!("{:016x}.new", state::store::random()));
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(note)?)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        directory.ancestors().take(WAYS - 1).try_for_each(sync)
    }
}

/// Copies the first content into a new directory, and syncs it.
fn fill(to: &OwnedFd, image: &OwnedFd, path: &str) -> io::Result<Option<CopiedFiles>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let from = match within::open(image, path, flags) {
        Ok(from) => from,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let copied = copy::copy(&from, to, &mut DiskBudget::of(to)?)?;
    rustix::fs::syncfs(to)?;
    Ok(Some(copied))
}

pub(super) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
