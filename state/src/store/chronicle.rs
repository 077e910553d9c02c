//! Chronicles of containers, written with the change that begins a generation: beside the desired
//! state, which is whole without them.

use std::collections::BTreeSet;
use std::io::Error;

use super::disk::{ChapterChange, Disk};
use super::files::StoreFiles;
use super::{ChangeCall, Store, StoreError, lock};
use crate::blobs::BlobTag;
use crate::chronicle::{GENERATIONS_MAX, begun, ended, past};
use crate::desired::Record;
use crate::desired::chronicle::Chapter;
use crate::desired::set::{Desired, DesiredChange};
use crate::history::{History, StoredHistory};
use crate::id::ContainerId;

/// Bytes of files that past generations of a container keep, beside those that it has now: as many as
/// one body may have, so that the last one is always kept.
const CONTENTS_BYTES_MAX: usize = 1 << 20;

impl Store {
    /// Chapters of a container, the newest first: the present generation, and those before it. One that
    /// was never noted is missing, as those of an older version of the agent.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Disk`].
    pub fn chronicle(&self, id: ContainerId) -> Result<Vec<Chapter>, StoreError> {
        let files = lock(&self.files);
        let desired = self.desired();
        let record = desired.get(id).ok_or(StoreError::NotFound(id))?;
        Ok(chapters_of(opened(&files)?, record))
    }

    /// The chapters that are written with a change.
    pub(super) fn chapters(
        &self,
        disk: Option<&Disk>,
        (before, after): (&Desired, &Desired),
        changes: &[DesiredChange],
    ) -> Vec<ChapterChange> {
        let Some(disk) = disk else {
            return Vec::new();
        };
        let ids: BTreeSet<_> = changes.iter().filter_map(changed).collect();
        // Whoever made what is adopted is not who adopts it.
        let is_adoption = |change: &DesiredChange| matches!(change, DesiredChange::Adopt(_));
        let is_told = !changes.iter().any(is_adoption);
        let witness = self.witness.get().filter(|_| is_told);
        let call = witness.and_then(|witness| witness.call());
        let of = |id: ContainerId| {
            let (before, after) = (before.get(id), after.get(id));
            let records = (before.map(AsRef::as_ref), after.map(AsRef::as_ref));
            written(disk, id, records, call.as_ref())
        };
        let chapters: Vec<_> = ids.into_iter().flat_map(of).collect();
        if !chapters.is_empty() {
            *lock(&self.past_blobs) = None;
        }
        chapters
    }

    /// Fingerprints of the contents that past generations use. `None`: they cannot be read now.
    pub(super) fn blobs_of_chronicles(&self) -> Option<BTreeSet<BlobTag>> {
        let files = lock(&self.files);
        let mut known = lock(&self.past_blobs);
        if let Some(known) = &*known {
            return Some(known.clone());
        }
        let (disk, mut used) = (files.disk()?, BTreeSet::new());
        let desired = self.desired();
        let is_gone = |id| !desired.may_lack_records() && is_gone(&desired, id);
        for (id, generation) in disk.chronicled(None) {
            if is_gone(id) {
                continue;
            }
            let chapter = disk.chapter(id, generation);
            let record = chapter.as_ref().and_then(past).map(|(_, record)| record);
            let files = record.into_iter().flat_map(|record| &record.spec.files);
            used.extend(files.filter_map(|file| file.tag.clone()));
        }
        *known = Some(used.clone());
        Some(used)
    }

    /// Removes chronicles of containers that are gone: a kill, or a full disk, may have left them.
    pub(super) fn sweep_chronicles(&self) {
        self.sweep_chronicles_in(&lock(&self.files));
    }

    /// The same, where the files are held.
    pub(super) fn sweep_chronicles_in(&self, files: &StoreFiles) {
        let desired = self.desired();
        let Some(disk) = files.disk().filter(|_| !desired.may_lack_records()) else {
            return;
        };
        let kept = disk.chronicled(None).into_iter();
        let gone = kept.filter(|(id, _)| is_gone(&desired, *id));
        let removed: Vec<_> = gone
            .map(|(id, generation)| (id, generation, None))
            .collect();
        if removed.is_empty() {
            return;
        }
        *lock(&self.past_blobs) = None;
        if let Err(error) = disk.write_chapters(&files.dir, &removed) {
            tracing::debug!(%error, "chronicles of removed containers left");
        }
    }
}

fn is_gone(desired: &Desired, id: ContainerId) -> bool {
    desired.get(id).is_none() && !desired.is_unreadable(id)
}

/// The files, if they are open.
pub(super) fn opened(files: &StoreFiles) -> Result<&Disk, StoreError> {
    let closed = || StoreError::Disk(Error::other("its files are not open now"));
    files.disk().ok_or_else(closed)
}

/// The container that a change is about.
fn changed(change: &DesiredChange) -> Option<ContainerId> {
    match change {
        DesiredChange::Put(record) => Some(record.id),
        DesiredChange::RemoveRecord(id) => Some(*id),
        DesiredChange::KeepUnreadable(..)
        | DesiredChange::Adopt(_)
        | DesiredChange::Lose(_)
        | DesiredChange::Mark(_) => None,
    }
}

/// Chapters of a record, the newest first, without those of a change that was refused after all.
pub(super) fn chapters_of(disk: &Disk, record: &Record) -> Vec<Chapter> {
    let mut chapters = disk.chapters(record.id);
    chapters.retain(|chapter| chapter.generation <= record.generation);
    for chapter in &mut chapters {
        if chapter.generation == record.generation {
            chapter.end = None;
        }
    }
    chapters.reverse();
    chapters
}

/// Removals of all chapters of a container.
fn all_of(disk: &Disk, id: ContainerId) -> Vec<ChapterChange> {
    let chapters = disk.chronicled(Some(id)).into_iter();
    chapters
        .map(|(id, generation)| (id, generation, None))
        .collect()
}

fn written(
    disk: &Disk,
    id: ContainerId,
    (before, after): (Option<&Record>, Option<&Record>),
    call: Option<&ChangeCall>,
) -> Vec<ChapterChange> {
    let Some(after) = after else {
        return all_of(disk, id);
    };
    if before.is_some_and(|before| before.generation == after.generation) {
        return Vec::new();
    }
    let told = |chapter: Chapter| Chapter {
        by: call.map(|call| call.by.clone()),
        at_ms: call.map(|call| call.at_ms),
        ..chapter
    };
    // A removal ends the chronicle, also where the name is deployed again before all is gone.
    let Some(before) = before.filter(|before| !before.removing) else {
        let first = (id, after.generation, Some(told(begun(None, after))));
        return all_of(disk, id).into_iter().chain([first]).collect();
    };
    let own = disk.chapter(id, before.generation);
    let mut own = own.unwrap_or_else(|| Chapter {
        generation: before.generation,
        ..Chapter::default()
    });
    let at_ms = call.map(|call| call.at_ms);
    own.end = Some(Box::new(ended(
        before,
        after,
        history(disk, id).as_ref(),
        at_ms,
    )));
    let next = told(begun(Some(before), after));
    let stripped = without_contents(disk, &own, after);
    let kept = disk.chronicled(Some(id)).into_iter().rev();
    let kept = kept.filter(|(_, generation)| *generation < before.generation);
    let oldest = kept.skip(GENERATIONS_MAX - 2);
    let dropped = oldest.map(|(id, generation)| (id, generation, None));
    let new = [own, next].map(|chapter| (id, chapter.generation, Some(chapter)));
    // Those that are dropped come last, whatever else is to become of them.
    let new = stripped.into_iter().chain(new);
    new.chain(dropped).collect()
}

/// Chapters before `own` whose records are given up: with the contents of files in later ones there
/// would be more of them than a container may have. What `after` has is kept anyway.
fn without_contents(disk: &Disk, own: &Chapter, after: &Record) -> Vec<ChapterChange> {
    let tags = |record: &Record| -> Vec<_> {
        let files = record.spec.files.iter();
        let kept = files.filter_map(|file| Some((file.tag.clone()?, file.size_bytes)));
        kept.collect()
    };
    let mut counted: BTreeSet<BlobTag> = tags(after).into_iter().map(|(tag, _)| tag).collect();
    let mut total = 0_usize;
    let mut fits = |chapter: &Chapter| {
        let record = past(chapter).map(|(_, record)| record);
        let contents = record.map(tags).unwrap_or_default();
        let new = contents
            .into_iter()
            .filter(|(tag, _)| counted.insert(tag.clone()));
        total = new.fold(total, |total, (_, bytes)| total.saturating_add(bytes));
        total <= CONTENTS_BYTES_MAX
    };
    fits(own);
    let earlier = disk.chapters(after.id).into_iter().rev();
    let earlier = earlier.filter(|chapter| chapter.generation < own.generation);
    let too_much = earlier.filter(|chapter| past(chapter).is_some() && !fits(chapter));
    let stripped = too_much.map(|mut chapter| {
        if let Some(end) = &mut chapter.end {
            end.record = None;
        }
        (after.id, chapter.generation, Some(chapter))
    });
    stripped.collect()
}

/// History of a container as it was saved last.
fn history(disk: &Disk, id: ContainerId) -> Option<History> {
    let saved = disk.history(&id.to_string())?;
    let stored: StoredHistory = serde_json::from_slice(&saved).ok()?;
    Some(stored.history)
}
