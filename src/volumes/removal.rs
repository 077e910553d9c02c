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

    /// Takes a volume out of its place, and answers where its content is until somebody removes it.
    /// An instant later, no such volume was ever made.
    pub(super) fn take_away(&self, key: &VolumeKey) -> io::Result<PathBuf> {
        let place = self.place(key);
        mounted::is_free(&place)?;
        let gone = place.join(GONE);
        match fs::rename(place.join(DATA), &gone) {
            // One of before is still on its way.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                mounted::remove(&gone)?;
                fs::rename(place.join(DATA), &gone)?;
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let note = self.note_path(key);
        match fs::remove_file(&note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        for directory in [Some(&*place), note.parent()].into_iter().flatten() {
            match sync(directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(place)
    }

    /// Removes what a removal, or a content that never became a volume, left at the place of one.
    /// Nobody else may make or remove it meanwhile.
    pub(super) fn clear(&self, key: &VolumeKey) -> io::Result<()> {
        let place = self.place(key);
        for left in [NEW, GONE] {
            mounted::remove(&place.join(left))?;
        }
        // It stays where it holds a volume.
        fs::remove_dir(place).ok();
        Ok(())
    }

    /// Whether something is left at the place of a volume that [`clear`](Self::clear) would remove.
    pub(super) fn is_cluttered(&self, key: &VolumeKey) -> bool {
        let place = self.place(key);
        [NEW, GONE].iter().any(|left| place.join(left).exists())
    }
}
