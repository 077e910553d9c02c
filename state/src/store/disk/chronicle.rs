//! Chronicles in sled's files: a tree of their own, without which the desired state is whole. They are
//! in no copy, and lost with the files.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Disk, DiskError, panicked};
use crate::desired::chronicle::Chapter;
use crate::id::ContainerId;
use crate::store::state_dir::StateDir;

/// Room that the disk must have for a chapter to be written: what sled may rewrite for one, of nodes
/// with 17 chapters of the largest size, fits in more than twice.
const ROOM_BYTES: u64 = 8 << 20;
const ROOM_INODES: u64 = 64;

/// Chapter to be written, or (`None`) to be removed: container and generation.
pub(in crate::store) type ChapterChange = (ContainerId, u64, Option<Chapter>);

fn key(id: ContainerId, generation: u64) -> String {
    format!("{}{generation:020}", prefix(id))
}

fn prefix(id: ContainerId) -> String {
    format!("{id}/")
}

impl Disk {
    /// Chapters of a container, the oldest first; those that cannot be read are left out.
    pub(in crate::store) fn chapters(&self, id: ContainerId) -> Vec<Chapter> {
        let read = catch_unwind(AssertUnwindSafe(|| {
            let found = self.chronicle.scan_prefix(prefix(id));
            let found = found.map_while(Result::ok);
            found
                .filter_map(|(_, value)| serde_json::from_slice(&value).ok())
                .collect()
        }));
        read.unwrap_or_default()
    }

    /// Chapter of a generation.
    pub(in crate::store) fn chapter(&self, id: ContainerId, generation: u64) -> Option<Chapter> {
        let key = key(id, generation);
        let read = catch_unwind(AssertUnwindSafe(|| self.chronicle.get(key).ok().flatten()));
        serde_json::from_slice(&read.ok().flatten()?).ok()
    }

    /// Containers and generations that have chapters, in order: of one container, or of all.
    pub(in crate::store) fn chronicled(&self, of: Option<ContainerId>) -> Vec<(ContainerId, u64)> {
        let read = catch_unwind(AssertUnwindSafe(|| {
            let found = self
                .chronicle
                .scan_prefix(of.map(prefix).unwrap_or_default());
            let keys = found.keys().map_while(Result::ok);
            let parsed = keys.filter_map(|key| {
                let text = String::from_utf8_lossy(&key).into_owned();
                let (id, generation) = text.split_once('/')?;
                Some((id.parse().ok()?, generation.parse().ok()?))
            });
            parsed.collect()
        }));
        read.unwrap_or_default()
    }

    /// Writes chapters, which are on the disk with the next sync. Where the disk has little room
    /// nothing is written but removals, which make room: a gap in a chronicle is no reason to refuse a
    /// change.
    pub(in crate::store) fn write_chapters(
        &self,
        dir: &StateDir,
        changes: &[ChapterChange],
    ) -> Result<(), DiskError> {
        let is_removal = |(_, _, chapter): &&ChapterChange| chapter.is_none();
        let writes_all = changes.iter().all(|change| is_removal(&change)) || has_room(dir);
        let written = changes
            .iter()
            .filter(|change| writes_all || is_removal(change));
        let written: Vec<_> = written.collect();
        if written.is_empty() {
            return Ok(());
        }
        let mut batch = sled::Batch::default();
        for (id, generation, chapter) in written {
            let key = key(*id, *generation);
            // A chapter is made of texts and numbers, which JSON always takes.
            match chapter.as_ref().and_then(|of| serde_json::to_vec(of).ok()) {
                Some(bytes) => batch.insert(key.as_bytes(), bytes),
                None => batch.remove(key.as_bytes()),
            }
        }
        let written = catch_unwind(AssertUnwindSafe(|| self.chronicle.apply_batch(batch)));
        written.map_or_else(|panic| Err(panicked(&*panic)), |written| Ok(written?))
    }
}

fn has_room(dir: &StateDir) -> bool {
    let room = rustix::fs::statvfs(dir.path());
    room.is_ok_and(|room| {
        // Where a file system counts no inodes it has none in all.
        let has_inodes = room.f_files == 0 || room.f_favail >= ROOM_INODES;
        has_inodes && room.f_bavail.saturating_mul(room.f_frsize) >= ROOM_BYTES
    })
}
