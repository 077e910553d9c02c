//! Facts that change no record, and are heard of all the same: signals, and images.

use super::super::{Store, StoreError};
use super::{AuditedChange, of_node};
use crate::id::{ContainerId, ContainerName};
use crate::spec::Signal;

impl Store {
    /// Has it be heard that a container's first process is sent a signal.
    ///
    /// # Errors
    /// [`StoreError::Audit`]: it must not be sent, since nobody would know of it later.
    pub fn note_signal(
        &self,
        name: ContainerName,
        id: ContainerId,
        signal: Signal,
    ) -> Result<(), StoreError> {
        let Some(witness) = self.witness.get() else {
            return Ok(());
        };
        let sent = AuditedChange {
            name: Some(name),
            id: Some(id),
            signal: Some(signal.into()),
            ..of_node("kill")
        };
        witness.hear(&[sent]).map_err(StoreError::Audit)
    }

    /// Has it be heard that an image is pulled for no container, or removed. `kind`: the word for that.
    ///
    /// # Errors
    /// [`StoreError::Audit`]: it must not be done, since nobody would know of it later.
    pub fn note_image(&self, kind: &'static str, image: String) -> Result<(), StoreError> {
        let Some(witness) = self.witness.get() else {
            return Ok(());
        };
        let done = AuditedChange {
            image: Some(image),
            ..of_node(kind)
        };
        witness.hear(&[done]).map_err(StoreError::Audit)
    }
}
