//! Secrets of the node: kept by their names, and found by the containers that name them. A record has
//! the fingerprint of the value that its instance is to have.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::batch::Batch;
use super::{Store, StoreError};
use crate::blobs::BlobTag;
use crate::desired::Record;
use crate::desired::marks::{Mark, StoredSecret};
use crate::desired::set::{Desired, DesiredChange};
use crate::id::ContainerName;
use crate::ownership::ChasSet;
use crate::spec::SecretName;
use crate::spec::parse::{Deploy, FieldError};

/// Bytes of a secret's value: keys, certificates and passwords have far fewer.
pub const SECRET_BYTES_MAX: usize = 64 << 10;
/// Secrets of a node.
const SECRETS_MAX: usize = 1000;
/// Time for which a content stays that nothing uses: a change that is about to use it may still
/// come.
const BLOB_GRACE: Duration = Duration::from_hours(1);

/// Secret of the node, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretEntry {
    /// Name.
    pub name: SecretName,
    /// First value of the name, milliseconds since 1970.
    pub created_ms: u64,
    /// Present value, milliseconds since 1970.
    pub changed_ms: u64,
    /// Containers that use it, by name.
    pub used_by: Vec<ContainerName>,
}

/// Outcome of putting a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretChange {
    /// The secret as it is then.
    pub secret: SecretEntry,
    /// Whether the node had none of this name before.
    pub is_new: bool,
    /// Whether the value is another than before.
    pub is_changed: bool,
    /// Records that are to have the new value.
    pub records: Vec<Arc<Record>>,
}

impl Store {
    /// Every secret of the node, by name.
    #[must_use]
    pub fn secrets(&self) -> Vec<SecretEntry> {
        let desired = self.desired();
        let stored = desired.marks().secrets().iter();
        stored
            .map(|(name, stored)| entry(&desired, name, stored))
            .collect()
    }

    /// Gives a secret a value. Containers that use it get another generation with it, which for those
    /// that only have their file replaced is carried by the same instance. The same value again
    /// changes nothing but those that were left out before, since nobody knew what was asked of them
    /// last.
    ///
    /// # Errors
    /// [`StoreError::SecretUnsealed`], [`StoreError::SecretUnfit`], [`StoreError::TooManySecrets`],
    /// [`StoreError::Disk`].
    pub fn put_secret(
        &self,
        name: &SecretName,
        value: &[u8],
        now_ms: u64,
    ) -> Result<SecretChange, StoreError> {
        let key = self.key().node_key();
        let sealer = key.sealer();
        let sealer = sealer.map_err(|error| StoreError::SecretUnsealed(name.clone(), error))?;
        let tag = self.blobs.keep(sealer, value).map_err(StoreError::Disk)?;
        self.transact(|desired| {
            let before = desired.marks().secrets().get(name);
            let is_new = before.is_none();
            if is_new && desired.marks().secrets().len() >= SECRETS_MAX {
                return Err(StoreError::TooManySecrets(SECRETS_MAX));
            }
            let is_changed = before.is_none_or(|before| before.tag != tag);
            let mut batch = Batch::new(self, desired, now_ms)?;
            if is_changed {
                batch.note_secret(name, tag.clone());
            }
            let records = batch.give_secret(name, &tag)?;
            let now = batch.desired.marks().secrets();
            let secret = now.get(name).expect("it is there, or was put now");
            let change = SecretChange {
                secret: entry(&batch.desired, name, secret),
                is_new,
                is_changed,
                records,
            };
            Ok((batch.changes, change))
        })
    }

    /// Removes a secret that nothing uses.
    ///
    /// # Errors
    /// [`StoreError::UnknownSecret`], [`StoreError::SecretUsed`], [`StoreError::Disk`].
    pub fn remove_secret(&self, name: &SecretName) -> Result<(), StoreError> {
        self.transact(|desired| {
            if !desired.marks().secrets().contains_key(name) {
                return Err(StoreError::UnknownSecret(name.clone()));
            }
            let users = users(desired, name);
            if !users.is_empty() {
                return Err(StoreError::SecretUsed(name.clone(), users));
            }
            let removed = Mark::Secret(name.clone(), None);
            Ok((vec![DesiredChange::Mark(removed)], ()))
        })
    }

    /// Removes contents beside the records that nothing has used for an hour. Answers how many.
    /// Where not all records are known, none is removed.
    ///
    /// # Errors
    /// The disk's.
    pub fn sweep_blobs(&self, now: SystemTime) -> std::io::Result<usize> {
        let desired = self.desired();
        let is_whole = !desired.is_unknown()
            && desired.adoption().is_none()
            && desired.unreadable_contents() == 0;
        if !is_whole {
            return Ok(0);
        }
        let secrets = desired.marks().secrets().values();
        let mut used: BTreeSet<BlobTag> = secrets.map(|secret| secret.tag.clone()).collect();
        for record in desired.records().flat_map(|record| record.with_former()) {
            let files = record.spec.files.iter().map(|file| &file.tag);
            let uses = record.spec.secrets.iter().map(|using| &using.tag);
            used.extend(files.chain(uses).flatten().cloned());
        }
        let Some(past) = self.blobs_of_chronicles() else {
            return Ok(0);
        };
        used.extend(past);
        self.blobs.sweep(&used, now, BLOB_GRACE)
    }
}

impl Batch<'_> {
    /// Notes the value of a secret.
    fn note_secret(&mut self, name: &SecretName, tag: BlobTag) {
        let (before, now_ms) = (self.desired.marks().secrets().get(name), self.now_ms());
        let secret = StoredSecret {
            tag,
            created_ms: before.map_or(now_ms, |before| before.created_ms),
            changed_ms: now_ms,
        };
        self.apply([DesiredChange::Mark(Mark::Secret(
            name.clone(),
            Some(secret),
        ))]);
    }

    /// Gives the value of a secret to all that use it, but for those of which nobody knows what was
    /// asked last. What has ended and stays so has it with its next start.
    fn give_secret(
        &mut self,
        name: &SecretName,
        tag: &BlobTag,
    ) -> Result<Vec<Arc<Record>>, StoreError> {
        let records = self.desired.records();
        let is_meant = |record: &&Arc<Record>| !record.removing && !record.is_uncertain;
        let using = records.filter(|record| is_meant(record) && uses(record, name));
        let using: Vec<_> = using.cloned().collect();
        let (mut changed, mut unfit) = (Vec::new(), Vec::new());
        for record in using {
            let mut spec = record.spec.clone();
            let uses = spec.secrets.iter_mut();
            for using in uses.filter(|using| using.name == *name) {
                using.tag = Some(tag.clone());
            }
            if spec == record.spec {
                continue;
            }
            if !self.unfit(&record.name, &spec).is_empty()
                && self.unfit(&record.name, &record.spec).is_empty()
            {
                unfit.push(record.name.clone());
                continue;
            }
            let deploy = Deploy {
                name: record.name.clone(),
                spec,
                run: record.run,
                priority: record.priority,
                revision: record.revision,
                body_hash: record.listed_hash.clone().unwrap_or_default(),
            };
            changed.extend(self.renew(&record, deploy)?);
        }
        if unfit.is_empty() {
            return Ok(changed);
        }
        unfit.sort();
        Err(StoreError::SecretUnfit(name.clone(), unfit))
    }

    /// Notes the secrets of a set. The containers that it lists get them as it is applied, under the
    /// guard; a set changes nothing that was pushed, which has them with its next deploy. Answers
    /// whether there was room for all.
    pub(super) fn note_secrets(&mut self, set: &ChasSet) -> bool {
        let mut has_all = true;
        for (name, secret) in &set.secrets {
            let Some(tag) = secret.tag.clone() else {
                continue;
            };
            let before = self.desired.marks().secrets();
            let is_full = before.len() >= SECRETS_MAX && !before.contains_key(name);
            has_all &= !is_full;
            if !is_full && before.get(name).is_none_or(|before| before.tag != tag) {
                self.note_secret(name, tag);
            }
        }
        has_all
    }

    /// The deploy with the present values of the secrets that it uses.
    ///
    /// # Errors
    /// [`StoreError::NoSecret`], with every one that the node does not have, or that cannot be the
    /// variable that it is to be.
    pub(super) fn resolved(&self, mut deploy: Deploy) -> Result<Deploy, StoreError> {
        let known = self.desired.marks().secrets();
        let mut faults = Vec::new();
        for (index, using) in deploy.spec.secrets.iter_mut().enumerate() {
            using.tag = known.get(&using.name).map(|secret| secret.tag.clone());
            if using.tag.is_none() {
                let name = &using.name;
                faults.push(FieldError {
                    field: format!("secrets[{index}].name"),
                    message: format!(
                        "the node has no secret {name}; put it first (PUT /secrets/{name})"
                    ),
                });
            }
        }
        faults.extend(self.unfit(&deploy.name, &deploy.spec));
        if faults.is_empty() {
            deploy.spec.hide_from_older_versions();
            Ok(deploy)
        } else {
            Err(StoreError::NoSecret(deploy.name, faults))
        }
    }
}

fn uses(record: &Record, name: &SecretName) -> bool {
    record.spec.secrets.iter().any(|using| using.name == *name)
}

fn users(desired: &Desired, name: &SecretName) -> Vec<ContainerName> {
    let using = desired.records();
    let using = using.filter(|record| record.with_former().any(|record| uses(record, name)));
    let mut names: Vec<_> = using.map(|record| record.name.clone()).collect();
    names.sort();
    names
}

fn entry(desired: &Desired, name: &SecretName, stored: &StoredSecret) -> SecretEntry {
    SecretEntry {
        name: name.clone(),
        created_ms: stored.created_ms,
        changed_ms: stored.changed_ms,
        used_by: users(desired, name),
    }
}
