//! Removal of volumes from the disk.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use state::id::ContainerId;

use super::key::{OF_IMAGES, OF_IMAGES_NOTES, VolumeKey};
use super::mounted;
use super::shelf::{DATA, GONE, NEW, Shelf, sync};

impl Shelf {
    /// Containers for which volumes of images, or notes of such, are on the disk.
    pub(super) fn of_images(&self) -> BTreeSet<ContainerId> {
        let places = [OF_IMAGES, OF_IMAGES_NOTES];
        let entries = places.map(|place| fs::read_dir(self.state_dir.join(place)));
        let entries = entries.into_iter().flatten().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.collect()
    }

    /// Removes the volumes that its images gave a container. The notes go last: what is left of a
    /// removal that was cut off is found by them.
    pub(super) fn remove_of_images(&self, id: ContainerId) -> io::Result<()> {
        for place in [OF_IMAGES, OF_IMAGES_NOTES] {
            mounted::remove(&self.state_dir.join(place).join(id.to_string()))?;
        }
        Ok(())
    }

    /// Takes a volume out of its place. When this answers, no such volume was ever made; its content
    /// waits to be cleared.
    pub(super) fn take_away(&self, key: &VolumeKey) -> io::Result<()> {
        let place = self.place(key);
        mounted::is_free(&place)?;
        let (data, note) = (place.join(DATA), self.note_path(key));
        let gone = place.join(format!("{GONE}{:016x}", state::store::random()));
        let is_moved = match fs::rename(&data, &gone) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            moved => moved.is_ok(),
        };
        match fs::remove_file(&note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                if is_moved {
                    fs::rename(&gone, &data)?;
                }
                return Err(error);
            }
            Ok(()) | Err(_) => {}
        }
        for directory in [Some(&*place), note.parent()].into_iter().flatten() {
            match sync(directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Contents of removed volumes at the place of one.
    fn removed(&self, key: &VolumeKey) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.place(key))
            .into_iter()
            .flatten()
            .flatten();
        let gone = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(GONE));
        gone.map(|entry| entry.path()).collect()
    }

    pub(super) fn has_removed(&self, key: &VolumeKey) -> bool {
        !self.removed(key).is_empty()
    }

    /// Clears them. Their names are no other content's.
    pub(super) fn clear_removed(&self, key: &VolumeKey) -> io::Result<()> {
        let removed = self.removed(key);
        removed.iter().try_for_each(|gone| mounted::remove(gone))
    }

    /// Removes a content that never became a volume; false: there is none. Nobody else may make one
    /// meanwhile.
    pub(super) fn clear_new(&self, key: &VolumeKey) -> io::Result<bool> {
        let new = self.place(key).join(NEW);
        let is_there = new.exists();
        mounted::remove(&new)?;
        Ok(is_there)
    }

    /// Removes the place of a volume, if nothing is there. Nobody else may make one meanwhile.
    pub(super) fn leave(&self, key: &VolumeKey) {
        fs::remove_dir(self.place(key)).ok();
    }
}
