//! The desired state as one value: the store keeps it, and every decision is made on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::marks::{Mark, Marks};
use super::uncertain::LostChanges;
use super::{Assignment, Entries, Record};
use crate::id::{ContainerId, ContainerName};

/// Version of the stored entries. An entry that is not understood is kept as it is, so a higher
/// number is no reason to stop.
pub const FORMAT: u64 = 1;

const SEQ: &str = "seq";
const FORMAT_KEY: &str = "format";
const ADOPTION: &str = "adoption";
const LOST: &str = "lost";
const RECORD: &str = "record/";

/// The desired state at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    records: BTreeMap<ContainerId, Arc<Record>>,
    names: BTreeMap<ContainerName, ContainerId>,
    seq: u64,
    adoption: Option<Adoption>,
    lost: Option<LostChanges>,
    marks: Marks,
    unreadable: Entries,
    /// Not stored.
    is_unknown: bool,
}

/// Mark of a state that was begun or rebuilt from something that may be older than what ran.
///
/// The records in the runtime's labels are still to be adopted; until then no container counts as a
/// leftover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// Only records accepted after this change are adopted.
    pub above: u64,
    /// Whether the state directory was empty: most likely a new node, with nothing to adopt.
    pub is_new: bool,
}

/// A change of the desired state.
#[derive(Clone, Debug, PartialEq)]
pub enum DesiredChange {
    /// The record is new, or replaces the one with its id.
    Put(Box<Record>),
    /// The record with this id is dropped.
    RemoveRecord(ContainerId),
    /// A record that this version cannot read is kept as it was found.
    KeepUnreadable(ContainerId, Value),
    /// Records in the runtime's labels are to be adopted. `None`: they have been.
    Adopt(Option<Adoption>),
    /// Changes are known to be lost.
    Lose(LostChanges),
    /// A mark changes.
    Mark(Mark),
}

impl DesiredChange {
    /// The stored entry that changes, and its new value; `None` removes it.
    #[must_use]
    pub fn entry(&self) -> (String, Option<Value>) {
        match self {
            Self::Put(record) => (record_key(record.id), Some(record_value(record))),
            Self::RemoveRecord(id) => (record_key(*id), None),
            Self::KeepUnreadable(id, value) => (record_key(*id), Some(value.clone())),
            Self::Adopt(adoption) => (ADOPTION.to_owned(), adoption.map(adoption_value)),
            Self::Lose(lost) => (LOST.to_owned(), Some(lost_value(lost))),
            Self::Mark(mark) => mark.entry(),
        }
    }
}

fn record_key(id: ContainerId) -> String {
    format!("{RECORD}{id}")
}

fn adoption_value(adoption: Adoption) -> Value {
    serde_json::to_value(adoption).unwrap_or_default()
}

fn lost_value(lost: &LostChanges) -> Value {
    serde_json::to_value(lost).unwrap_or_default()
}

/// JSON of a record. A record is made of texts, numbers and lists of them, which JSON always takes.
fn record_value(record: &Record) -> Value {
    serde_json::to_value(record).unwrap_or_default()
}

impl Desired {
    /// The record with this id.
    #[must_use]
    pub fn get(&self, id: ContainerId) -> Option<&Arc<Record>> {
        self.records.get(&id)
    }

    /// The record with this name.
    #[must_use]
    pub fn named(&self, name: &ContainerName) -> Option<&Arc<Record>> {
        self.names.get(name).and_then(|id| self.records.get(id))
    }

    /// Every record, by id.
    pub fn records(&self) -> impl Iterator<Item = &Arc<Record>> + Clone {
        self.records.values()
    }

    /// Number of accepted changes, counted over restarts.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// Adoption that is still to be done. `None`: nothing is missing.
    #[must_use]
    pub const fn adoption(&self) -> Option<Adoption> {
        self.adoption
    }

    /// Changes that were acknowledged, and are lost. `None`: none is known to be.
    #[must_use]
    pub const fn lost(&self) -> Option<&LostChanges> {
        self.lost.as_ref()
    }

    /// Whether a copy that may be newer cannot be opened now: this state is then to be shown, and
    /// not to be acted upon.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        self.is_unknown
    }

    /// The same state, to be shown only.
    #[must_use]
    pub fn unknown(self) -> Self {
        Self {
            is_unknown: true,
            ..self
        }
    }

    /// Whether what is missing here may be desired: then nothing counts as unwanted.
    #[must_use]
    pub const fn may_lack_records(&self) -> bool {
        self.is_unknown || self.adoption.is_some()
    }

    /// Facts stored beside the records.
    #[must_use]
    pub const fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Whether the record with this id cannot be read by this version. Its container is left alone.
    #[must_use]
    pub fn is_unreadable(&self, id: ContainerId) -> bool {
        self.unreadable.contains_key(&record_key(id))
    }

    /// Whether a record that cannot be read by this version has this name.
    #[must_use]
    pub fn is_unreadable_name(&self, name: &ContainerName) -> bool {
        let mut records = self
            .unreadable
            .iter()
            .filter(|(key, _)| key.starts_with(RECORD));
        records.any(|(_, value)| value["name"] == name.as_str())
    }

    /// Ids of the records that cannot be read by this version.
    #[must_use]
    pub fn unreadable_ids(&self) -> BTreeSet<ContainerId> {
        let ids = self
            .unreadable
            .keys()
            .filter_map(|key| key.strip_prefix(RECORD)?.parse().ok());
        ids.collect()
    }

    /// Assignments in records that cannot be read by this version, where they are understood.
    #[must_use]
    pub fn unreadable_assignments(&self) -> Vec<Assignment> {
        let records = self.unreadable.iter();
        let records = records.filter(|(key, _)| key.starts_with(RECORD));
        let places = records.flat_map(|(_, value)| {
            let former = &value["update"]["former"];
            [&value["assignment"], &former["assignment"]]
        });
        places
            .filter_map(|place| serde_json::from_value(place.clone()).ok())
            .collect()
    }

    /// Whether there is an adoption of which this version cannot tell what it waits for.
    #[must_use]
    pub fn is_adoption_unreadable(&self) -> bool {
        self.unreadable.contains_key(ADOPTION)
    }

    /// Number of entries that cannot be read by this version.
    #[must_use]
    pub fn unreadable_count(&self) -> usize {
        self.unreadable.len()
    }

    /// Number of those that hold something: the number of a newer format is such an entry too, and
    /// stands for nothing itself.
    #[must_use]
    pub fn unreadable_contents(&self) -> usize {
        let keys = self.unreadable.keys();
        keys.filter(|key| *key != FORMAT_KEY).count()
    }

    /// The state after these changes, which are one: [`seq`](Self::seq) counts them once.
    #[must_use]
    pub fn with(&self, changes: &[DesiredChange]) -> Self {
        let mut next = self.clone();
        next.seq += 1;
        changes.iter().for_each(|change| next.apply(change));
        next
    }

    /// Applies one part of a change.
    pub(crate) fn apply(&mut self, change: &DesiredChange) {
        match change {
            DesiredChange::Put(record) => self.put(Record::clone(record)),
            DesiredChange::RemoveRecord(id) => self.remove(*id),
            DesiredChange::KeepUnreadable(id, value) => {
                self.unreadable.insert(record_key(*id), value.clone());
            }
            DesiredChange::Adopt(adoption) => self.adoption = *adoption,
            DesiredChange::Lose(lost) => {
                self.seq = self.seq.max(lost.until);
                self.lost = Some(lost.clone());
                self.note_uncertain();
            }
            DesiredChange::Mark(mark) => self.marks.apply(mark),
        }
    }

    fn note_uncertain(&mut self) {
        let Some(lost) = &self.lost else { return };
        for record in self.records.values_mut() {
            Arc::make_mut(record).is_uncertain = lost.concern(record);
        }
    }

    fn put(&mut self, mut record: Record) {
        self.seq = self.seq.max(record.seq);
        let lost = self.lost.as_ref();
        record.is_uncertain = lost.is_some_and(|lost| lost.concern(&record));
        self.names.insert(record.name.clone(), record.id);
        self.records.insert(record.id, Arc::new(record));
    }

    fn remove(&mut self, id: ContainerId) {
        if let Some(record) = self.records.remove(&id)
            && self.names.get(&record.name) == Some(&id)
        {
            self.names.remove(&record.name);
        }
    }

    /// Every entry, as it is stored.
    #[must_use]
    pub fn entries(&self) -> Entries {
        let mut entries = self.unreadable.clone();
        let records = self.records.values();
        entries.extend(records.map(|record| (record_key(record.id), record_value(record))));
        entries.extend(self.marks.entries());
        entries.insert(SEQ.to_owned(), Value::from(self.seq));
        if let Some(adoption) = self.adoption {
            entries.insert(ADOPTION.to_owned(), adoption_value(adoption));
        }
        if let Some(lost) = &self.lost {
            entries.insert(LOST.to_owned(), lost_value(lost));
        }
        entries
            .entry(FORMAT_KEY.to_owned())
            .or_insert(Value::from(FORMAT));
        entries
    }

    /// The entry that is stored with every change.
    #[must_use]
    pub fn seq_entry(&self) -> (String, Option<Value>) {
        (SEQ.to_owned(), Some(Value::from(self.seq)))
    }

    /// The state that these entries are. It cannot fail: an entry that is not understood is kept as
    /// it is.
    #[must_use]
    pub fn from_entries(entries: Entries) -> Self {
        let mut desired = Self::default();
        for (key, value) in entries {
            if !desired.read(&key, &value) {
                desired.unreadable.insert(key, value);
            }
        }
        desired.note_uncertain();
        desired
    }

    /// Takes in one stored entry. False: it is not understood.
    fn read(&mut self, key: &str, value: &Value) -> bool {
        match key {
            SEQ => match value.as_u64() {
                Some(seq) => self.seq = self.seq.max(seq),
                None => return false,
            },
            FORMAT_KEY => return value.as_u64() == Some(FORMAT),
            ADOPTION => match serde_json::from_value(value.clone()) {
                Ok(adoption) => self.adoption = Some(adoption),
                Err(_) => return false,
            },
            LOST => match serde_json::from_value(value.clone()) {
                Ok(lost) => self.lost = Some(lost),
                Err(_) => return false,
            },
            _ if key.starts_with(RECORD) => match serde_json::from_value::<Record>(value.clone()) {
                Ok(record) if record_key(record.id) == key && self.is_free(&record) => {
                    self.put(record);
                }
                Ok(_) | Err(_) => return false,
            },
            _ => match Marks::read(key, value) {
                Some(mark) => self.marks.apply(&mark),
                None => return false,
            },
        }
        true
    }

    fn is_free(&self, record: &Record) -> bool {
        !self.names.contains_key(&record.name)
    }

    /// The format version that these entries were written in.
    #[must_use]
    pub fn format(entries: &Entries) -> u64 {
        entries
            .get(FORMAT_KEY)
            .and_then(Value::as_u64)
            .unwrap_or(FORMAT)
    }

    /// [`Self::seq`] of these entries, without reading the rest of them.
    #[must_use]
    pub fn seq_of(entries: &Entries) -> u64 {
        entries.get(SEQ).and_then(Value::as_u64).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
