//! Everything desired, as one value: what the store keeps, and what every decision is made on.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Record;
use super::marks::{Mark, Marks};
use crate::id::{ContainerId, ContainerName};

/// What is on disk, as names and JSON: what every copy of the desired state holds, whatever its form.
pub type Entries = BTreeMap<String, Value>;

/// The version of the entries. An entry that is not understood is kept as it is; so a newer number is no reason to stop.
pub const FORMAT: u64 = 1;

const SEQ: &str = "seq";
const FORMAT_KEY: &str = "format";
const ADOPTION: &str = "adoption";
const RECORD: &str = "record/";

/// Everything desired, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    records: BTreeMap<ContainerId, Arc<Record>>,
    names: BTreeMap<ContainerName, ContainerId>,
    seq: u64,
    adoption: Option<Adoption>,
    marks: Marks,
    opaque: Entries,
}

/// The state was begun or rebuilt from something that may be older than what ran: the runtime's own copies of records are
/// still to be taken in, and until then nothing is known to be unwanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// Only what was accepted after this change.
    pub above: u64,
    /// The state directory was empty: most likely a new node, with nothing to take in.
    pub is_new: bool,
}

/// One change of what is desired.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The record is new, or replaces the one with its id.
    Put(Box<Record>),
    /// There is no record with this id any more.
    Forget(ContainerId),
    /// A record that is not understood, as it was found.
    Hold(ContainerId, Value),
    /// The runtime's copies are to be taken in; `None`: they have been.
    Adopt(Option<Adoption>),
    /// Something is noted beside the records.
    Mark(Mark),
}

impl Change {
    /// The entry that it changes, and what it is then.
    #[must_use]
    pub fn entry(&self) -> (String, Option<Value>) {
        match self {
            Self::Put(record) => (record_key(record.id), Some(record_value(record))),
            Self::Forget(id) => (record_key(*id), None),
            Self::Hold(id, value) => (record_key(*id), Some(value.clone())),
            Self::Adopt(adoption) => (ADOPTION.to_owned(), adoption.map(adoption_value)),
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

/// A record is made of texts, numbers and lists of them, which JSON always takes.
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

    /// Counts accepted changes, over restarts.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// What of the runtime's copies is still to be taken in; `None`: nothing is missing.
    #[must_use]
    pub const fn adoption(&self) -> Option<Adoption> {
        self.adoption
    }

    /// What is noted beside the records.
    #[must_use]
    pub const fn marks(&self) -> &Marks {
        &self.marks
    }

    /// There is a record with this id that this version does not understand. Its container is to be left alone.
    #[must_use]
    pub fn holds(&self, id: ContainerId) -> bool {
        self.opaque.contains_key(&record_key(id))
    }

    /// A record that this version does not understand has this name.
    #[must_use]
    pub fn holds_name(&self, name: &ContainerName) -> bool {
        self.opaque
            .iter()
            .any(|(key, value)| key.starts_with(RECORD) && value["name"] == name.as_str())
    }

    /// How many entries are not understood.
    #[must_use]
    pub fn opaque_count(&self) -> usize {
        self.opaque.len()
    }

    /// What it is after these changes, which are one: [`seq`](Self::seq) counts them once.
    #[must_use]
    pub fn with(&self, changes: &[Change]) -> Self {
        let mut next = self.clone();
        next.seq += 1;
        changes.iter().for_each(|change| next.apply(change));
        next
    }

    /// One part of a change.
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Put(record) => self.put(Record::clone(record)),
            Change::Forget(id) => self.forget(*id),
            Change::Hold(id, value) => drop(self.opaque.insert(record_key(*id), value.clone())),
            Change::Adopt(adoption) => self.adoption = *adoption,
            Change::Mark(mark) => self.marks.apply(mark),
        }
    }

    fn put(&mut self, record: Record) {
        self.seq = self.seq.max(record.seq);
        self.names.insert(record.name.clone(), record.id);
        self.records.insert(record.id, Arc::new(record));
    }

    fn forget(&mut self, id: ContainerId) {
        if let Some(record) = self.records.remove(&id)
            && self.names.get(&record.name) == Some(&id)
        {
            self.names.remove(&record.name);
        }
    }

    /// All of it, as it is written.
    #[must_use]
    pub fn entries(&self) -> Entries {
        let mut entries = self.opaque.clone();
        entries.extend(
            self.records
                .values()
                .map(|record| (record_key(record.id), record_value(record))),
        );
        entries.extend(self.marks.entries());
        entries.insert(SEQ.to_owned(), Value::from(self.seq));
        entries.extend(
            self.adoption
                .map(|adoption| (ADOPTION.to_owned(), adoption_value(adoption))),
        );
        entries
            .entry(FORMAT_KEY.to_owned())
            .or_insert(Value::from(FORMAT));
        entries
    }

    /// The entry that goes with every change.
    #[must_use]
    pub fn seq_entry(&self) -> (String, Option<Value>) {
        (SEQ.to_owned(), Some(Value::from(self.seq)))
    }

    /// What was written. It cannot fail: what is not understood is kept as it is.
    #[must_use]
    pub fn from_entries(entries: Entries) -> Self {
        let mut desired = Self::default();
        for (key, value) in entries {
            let record = key
                .strip_prefix(RECORD)
                .and_then(|_| serde_json::from_value::<Record>(value.clone()).ok());
            let adoption = || serde_json::from_value::<Adoption>(value.clone());
            match (key.as_str(), value.as_u64(), record) {
                (ADOPTION, ..) if adoption().is_ok() => desired.adoption = adoption().ok(),
                (SEQ, Some(seq), _) => desired.seq = desired.seq.max(seq),
                (FORMAT_KEY, Some(FORMAT), _) => {}
                (_, _, Some(record))
                    if record_key(record.id) == key
                        && !desired.names.contains_key(&record.name) =>
                {
                    desired.put(record);
                }
                _ => match Marks::read(&key, &value) {
                    Some(mark) => desired.marks.apply(&mark),
                    None => drop(desired.opaque.insert(key, value)),
                },
            }
        }
        desired
    }

    /// The version of the agent's entries that these were written by.
    #[must_use]
    pub fn format(entries: &Entries) -> u64 {
        entries
            .get(FORMAT_KEY)
            .and_then(Value::as_u64)
            .unwrap_or(FORMAT)
    }

    /// The counter in entries, without reading the rest of them.
    #[must_use]
    pub fn seq_of(entries: &Entries) -> u64 {
        entries.get(SEQ).and_then(Value::as_u64).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::desired::tests::record;

    #[test]
    fn what_is_written_is_read_again() {
        let desired = Desired::default().with(&[
            Change::Put(Box::new(record("a", 1))),
            Change::Adopt(Some(Adoption {
                above: 7,
                is_new: false,
            })),
        ]);
        let desired = desired.with(&[Change::Put(Box::new(record("b", 2)))]);
        assert_eq!(Desired::from_entries(desired.entries()), desired);
        let gone = desired.with(&[
            Change::Forget(ContainerId::from_bits(1)),
            Change::Adopt(None),
        ]);
        assert_eq!(
            (gone.records().count(), gone.seq(), gone.adoption()),
            (1, 3, None)
        );
        assert_eq!(Desired::from_entries(gone.entries()), gone);
    }

    #[test]
    fn what_a_newer_version_wrote_is_kept_and_held() {
        let mut entries = Desired::default()
            .with(&[Change::Put(Box::new(record("a", 1)))])
            .entries();
        let newer = json!({"id": "000000000002", "name": "b", "shape": "unheard of"});
        entries.insert("record/000000000002".to_owned(), newer);
        entries.insert("wish/9".to_owned(), json!([1]));
        entries.insert("format".to_owned(), json!(2));
        let desired = Desired::from_entries(entries.clone());
        assert_eq!((desired.records().count(), desired.opaque_count()), (1, 3));
        assert!(
            desired.holds(ContainerId::from_bits(2)) && desired.holds_name(&"b".parse().unwrap())
        );
        assert!(
            !desired.holds(ContainerId::from_bits(1)) && !desired.holds_name(&"a".parse().unwrap())
        );
        assert_eq!(desired.entries(), entries);
    }
}
