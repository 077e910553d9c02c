//! Sealing at the store's door: no value of an environment passes it readable, and those that older
//! versions stored are sealed where they are, without a new generation.

use super::{Store, StoreError, copy, lock};
use crate::desired::Record;
use crate::desired::applied::Rejected;
use crate::desired::set::{Desired, DesiredChange};
use crate::ownership::ChasSet;
use crate::seal::{NodeKey, SealError};
use crate::spec::parse::Deploy;

impl Store {
    /// Has values be sealed with this key from now on, and those that are stored readable. Only the
    /// first key counts; until there is one, values are kept as they come. Answers how many
    /// containers had readable ones.
    ///
    /// # Errors
    /// [`StoreError::Disk`], [`StoreError::Unknown`]: they are sealed before the next change.
    pub fn set_key(&self, key: NodeKey) -> Result<usize, StoreError> {
        let _first_counts = self.key.set(key);
        self.seal_stored()
    }

    /// Key of the node. `None`: none was set.
    #[must_use]
    pub fn key(&self) -> Option<&NodeKey> {
        self.key.get()
    }

    /// The record with the values of its environment readable, as far as they can be opened.
    #[must_use]
    pub fn opened(&self, record: &Record) -> Record {
        let mut shown = record.clone();
        if let Some(key) = self.key.get()
            && let Ok(opened) = record.spec.opened_environment(&record.name, key)
        {
            shown.spec.environment = opened;
            shown.spec.sealed_environment.clear();
        }
        shown
    }

    /// Seals the values that are stored readable: in memory, in sled and in both copies.
    pub(super) fn seal_stored(&self) -> Result<usize, StoreError> {
        let Some(NodeKey::Present(sealer)) = self.key.get() else {
            return Ok(0);
        };
        if readable(&self.desired()).next().is_none() {
            return Ok(0);
        }
        let count = self.transact(|desired| {
            let seal = |record: &Record| {
                let mut record = record.clone();
                record.spec.seal_environment(&record.name, sealer);
                DesiredChange::Put(Box::new(record))
            };
            let changes: Vec<_> = readable(desired).map(seal).collect();
            let count = changes.len();
            Ok((changes, count))
        })?;
        // The older copy would hold them until it is written for another reason.
        let mut copied = lock(&self.copied);
        let desired = self.desired();
        for (name, copied) in copy::NAMES.iter().zip(copied.iter_mut()) {
            copy::write(&self.dir, name, &desired).map_err(StoreError::Disk)?;
            *copied = Some(desired.seq());
        }
        Ok(count)
    }

    /// A deploy with its values sealed.
    ///
    /// # Errors
    /// [`StoreError::Unsealed`], and those of [`seal_stored`](Self::seal_stored).
    pub(super) fn sealed(&self, mut deploy: Deploy) -> Result<Deploy, StoreError> {
        let Some(key) = self.key.get() else {
            return Ok(deploy);
        };
        self.seal_stored()?;
        seal(key, &mut deploy).map_err(|error| StoreError::Unsealed(deploy.name.clone(), error))?;
        Ok(deploy)
    }

    /// Deploys with their values sealed.
    ///
    /// # Errors
    /// [`StoreError::Several`] with every one that is refused; those of [`sealed`](Self::sealed).
    pub(super) fn sealed_all(&self, wanted: Vec<Deploy>) -> Result<Vec<Deploy>, StoreError> {
        let (mut sealed, mut refused) = (Vec::new(), Vec::new());
        for deploy in wanted {
            match self.sealed(deploy) {
                Ok(deploy) => sealed.push(deploy),
                Err(StoreError::Unsealed(name, error)) => {
                    refused.push((name.clone(), StoreError::Unsealed(name, error)));
                }
                Err(error) => return Err(error),
            }
        }
        if refused.is_empty() {
            Ok(sealed)
        } else {
            Err(StoreError::Several(refused))
        }
    }

    /// A set of CHaS with its values sealed. A container whose values cannot be is rejected, and
    /// stays as it is.
    pub(super) fn sealed_set(&self, set: &ChasSet) -> Result<ChasSet, StoreError> {
        let mut set = set.clone();
        for deploy in std::mem::take(&mut set.containers) {
            match self.sealed(deploy) {
                Ok(deploy) => set.containers.push(deploy),
                Err(StoreError::Unsealed(name, error)) => {
                    let rejected = Rejected::because(&name, error.to_string());
                    set.rejected.push(rejected);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(set)
    }
}

fn seal(key: &NodeKey, deploy: &mut Deploy) -> Result<(), SealError> {
    if !deploy.spec.environment.is_empty() {
        deploy.spec.seal_environment(&deploy.name, key.sealer()?);
    }
    Ok(())
}

/// Records with readable values.
fn readable(desired: &Desired) -> impl Iterator<Item = &Record> {
    let records = desired.records().map(AsRef::as_ref);
    records.filter(|record: &&Record| !record.spec.environment.is_empty())
}
