//! Histories of containers, saved beside the desired state over restarts of the agent.

use std::collections::BTreeMap;

use super::{Store, lock};
use crate::contact::StoredContact;
use crate::history::{History, StoredHistory};
use crate::id::ContainerId;

/// Key of the contact with CHaS beside the histories; no id of a container is so.
const CONTACT: &str = "contact";

impl Store {
    /// Syncs the [saved histories](Self::save_history) to the disk. An orderly end of the agent
    /// does so by itself.
    pub fn flush(&self) {
        if let Some(disk) = lock(&self.files).disk() {
            disk.flush();
        }
    }

    /// Saves the history of a container over a restart of the agent. `None`: deletes it.
    ///
    /// A history is no promise: it reaches the disk within half a second, and is lost with the
    /// files.
    pub fn save_history(&self, id: ContainerId, history: Option<&StoredHistory>) {
        let value = history.map(serde_json::to_vec).and_then(Result::ok);
        if let Some(disk) = lock(&self.files).disk()
            && let Err(error) = disk.save_history(&id.to_string(), value)
        {
            tracing::debug!(%id, %error, "history not saved");
        }
    }

    /// Saves the history of a desired container, as `newest` has it once nobody else writes. It writes
    /// nothing to this store.
    pub fn save_newest_history(
        &self,
        id: ContainerId,
        newest: impl FnOnce() -> Option<StoredHistory>,
    ) {
        let is_desired = self.desired().get(id).is_some();
        let files = lock(&self.files);
        let value = newest().filter(|_| is_desired);
        let value = value.and_then(|history| serde_json::to_vec(&history).ok());
        if let (Some(disk), Some(value)) = (files.disk(), value)
            && let Err(error) = disk.save_history(&id.to_string(), Some(value))
        {
            tracing::debug!(%id, %error, "history not saved");
        }
    }

    /// Saves the contact with CHaS over a restart of the agent; as a history it is no promise. `None`:
    /// deletes it.
    pub fn save_contact(&self, contact: Option<&StoredContact>) {
        let value = contact.map(serde_json::to_vec).and_then(Result::ok);
        if let Some(disk) = lock(&self.files).disk()
            && let Err(error) = disk.save_history(CONTACT, value)
        {
            tracing::debug!(%error, "contact with CHaS not saved");
        }
    }

    /// The saved contact with CHaS. `None`: there is none, or it cannot be read.
    #[must_use]
    pub fn contact(&self) -> Option<StoredContact> {
        let files = lock(&self.files);
        let mut saved = files.disk()?.histories().into_iter();
        let (_, value) = saved.find(|(key, _)| key == CONTACT)?;
        serde_json::from_slice(&value).ok()
    }

    /// Saved histories of the desired containers, with times as they are in the boot with this id.
    #[must_use]
    pub fn histories(&self, boot_id: &str) -> BTreeMap<ContainerId, History> {
        let files = lock(&self.files);
        let Some(disk) = files.disk() else {
            return BTreeMap::new();
        };
        let read = |(key, value): (String, Vec<u8>)| {
            let stored: StoredHistory = serde_json::from_slice(&value).ok()?;
            Some((key.parse().ok()?, stored.in_boot(boot_id)))
        };
        // A kill may have come between the end of a record and that of its history.
        let desired = self.desired();
        disk.histories()
            .into_iter()
            .filter_map(read)
            .filter(|(id, _)| desired.get(*id).is_some())
            .collect()
    }
}
