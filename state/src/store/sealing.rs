//! Sealing at the store's door: no value of an environment passes it readable, and those that older
//! versions stored are sealed where they are, without a new generation.

use super::{Store, StoreError, copy, lock};
use crate::desired::Record;
use crate::desired::applied::Rejected;
use crate::desired::set::{Desired, DesiredChange};
use crate::failure::Failure;
use crate::ownership::ChasSet;
use crate::ownership::answers::Keyed;
use crate::reason::Reason;
use crate::seal::{KeyPlace, NodeKey};
use crate::spec::Content;
use crate::spec::parse::Deploy;

impl Store {
    /// Has values be sealed with this key from now on, and those that are stored readable. A key that
    /// is there stays; until one is set, missing or not, values are kept as they come. Answers how
    /// many containers had readable ones.
    ///
    /// # Errors
    /// [`StoreError::Disk`], [`StoreError::Unknown`]: they are sealed before the next change.
    pub fn set_key(&self, key: NodeKey) -> Result<usize, StoreError> {
        self.key.set(key);
        self.seal_stored()
    }

    /// Place of the node's key, for those who open values.
    #[must_use]
    pub fn key(&self) -> KeyPlace {
        self.key.clone()
    }

    /// The record with its variables and the contents of its files readable, as far as they can be
    /// opened. No secret is: its value is never shown.
    #[must_use]
    pub fn opened(&self, record: &Record) -> Record {
        let mut shown = record.clone();
        if let Some(key) = self.key.get()
            && let Ok(opened) = record.spec.opened_environment(&record.name, &key)
        {
            shown.spec.environment = Some(opened);
            shown.spec.sealed_environment.clear();
        }
        let key = self.key.node_key();
        let sealer = key.sealer().ok();
        for file in &mut shown.spec.files {
            if let (Some(sealer), Some(tag)) = (sealer, &file.tag)
                && let Ok(content) = self.blobs.read(sealer, tag)
            {
                file.content = Content::readable(content);
            }
        }
        shown
    }

    /// Whether all values of a container can be opened now.
    ///
    /// # Errors
    /// The failure of a start.
    pub fn openable(&self, record: &Record) -> Result<(), Failure> {
        if self.key.get().is_none() {
            return Ok(());
        }
        let (spec, key) = (&record.spec, self.key.node_key());
        let unavailable = |error: String| {
            let message = format!("a value of {} cannot be opened: {error}", record.name);
            Failure::new(Reason::SecretUnavailable, message)
        };
        spec.opened_environment(&record.name, &key)
            .map_err(|error| unavailable(error.to_string()))?;
        let files = spec.files.iter().map(|file| &file.tag);
        let uses = spec.secrets.iter().map(|using| &using.tag);
        for tag in files.chain(uses).flatten() {
            let sealer = key.sealer();
            let sealer = sealer.map_err(|error| unavailable(error.to_string()))?;
            let opened = self.blobs.read(sealer, tag);
            opened.map_err(|error| unavailable(error.to_string()))?;
        }
        Ok(())
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
                record.spec.seal_environment(&record.name, &sealer);
                if let Some(update) = &mut record.update {
                    let former = &mut update.former;
                    former.spec.seal_environment(&record.name, &sealer);
                }
                DesiredChange::Put(Box::new(record))
            };
            let changes: Vec<_> = readable(desired).map(seal).collect();
            let count = changes.len();
            Ok((changes, count))
        })?;
        // The older copy would hold them until it is written for another reason. Where it cannot be
        // now, both count as behind.
        let mut copied = lock(&self.copied);
        *copied = [None; 2];
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
        if deploy.spec.readable_environment().next().is_none() && deploy.spec.files.is_empty() {
            return Ok(deploy);
        }
        // They would differ from what is stored readable.
        self.seal_stored()?;
        let name = deploy.name.clone();
        let unsealed = |error| StoreError::Unsealed(name.clone(), error);
        let sealer = key.sealer().map_err(unsealed)?;
        deploy.spec.seal_environment(&name, sealer);
        // Whoever knows all else of the body could try values by it.
        deploy.body_hash = sealer.tag("body", deploy.body_hash.as_bytes());
        for file in &mut deploy.spec.files {
            if let Some(content) = file.content.bytes() {
                let kept = self.blobs.keep(sealer, content);
                let tag = kept.map_err(|error| StoreError::Unkept(name.clone(), error))?;
                (file.tag, file.content) = (Some(tag), Content::default());
            }
        }
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

    /// A request with its fingerprint under the node's key: values are in what it is made of.
    pub(super) fn sealed_request(&self, keyed: &Keyed) -> Keyed {
        let key = self.key.node_key();
        let request = key
            .sealer()
            .map(|sealer| sealer.tag("request", keyed.request.as_bytes()));
        Keyed {
            request: request.unwrap_or_else(|_| keyed.request.clone()),
            ..keyed.clone()
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
                    set.lacks_secrets = true;
                }
                // The disk may be full until what the set leaves out is gone.
                Err(StoreError::Unkept(name, error)) => {
                    let why = format!("its contents cannot be written below state.dir: {error}");
                    set.rejected.push(Rejected::because(&name, why));
                    set.lacks_secrets = true;
                }
                Err(error) => return Err(error),
            }
        }
        set.lacks_secrets |= !self.keep_secrets(&mut set);
        Ok(set)
    }

    /// Keeps the secrets of a set; those that cannot be kept are left out of it, as if it had none of
    /// the names: what uses them is rejected, or stays. Answers whether all were kept.
    fn keep_secrets(&self, set: &mut ChasSet) -> bool {
        let before = set.secrets.len();
        let key = self.key.node_key();
        let Ok(sealer) = key.sealer() else {
            set.secrets.clear();
            return before == 0;
        };
        set.secrets.retain(|name, secret| {
            let Some(value) = secret.value.bytes() else {
                return true;
            };
            match self.blobs.keep(sealer, value) {
                Ok(tag) => (secret.tag, secret.value) = (Some(tag), Content::default()),
                Err(error) => {
                    tracing::warn!(%name, %error, "secret of CHaS cannot be kept");
                    return false;
                }
            }
            true
        });
        before == set.secrets.len()
    }
}

/// Records with readable values.
fn readable(desired: &Desired) -> impl Iterator<Item = &Record> {
    let records = desired.records().map(AsRef::as_ref);
    let is_readable = |record: &Record| record.spec.readable_environment().next().is_some();
    records.filter(move |record: &&Record| record.with_former().any(is_readable))
}
