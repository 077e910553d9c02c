//! What is noted beside the records: which set was pulled last, which of its containers an operator keeps otherwise, what
//! was deleted, and which requests were answered. What follows from it is [`crate::ownership`]'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::RunState;
use super::pulled::{Pulled, Version};
use super::set::Entries;
use crate::id::{ContainerId, ContainerName};
use crate::ownership::answers::Answer;

const PULLED: &str = "pulled";
const CORDONED: &str = "cordoned";
const LINK: &str = "link";
const SUPPRESSED: &str = "suppressed/";
const TOMBSTONE: &str = "tombstone/";
const ANSWERED: &str = "answered/";

/// What this node is to CHaS, over restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Made once, with the state directory: tells two nodes of one name apart.
    pub instance_uuid: String,
    /// The node's name to CHaS, by which its sets are counted.
    #[serde(default)]
    pub node_id: String,
    /// The boot in which CHaS answered last.
    pub boot_id: String,
    /// Nodes of the cluster, as CHaS said last. 0: it has not.
    pub cluster_size: u64,
}

/// An operator stopped, started or deleted what CHaS owns: it stays so until a newer set lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppressed {
    /// The set that was in force. `None`: not known any more; the next one is taken for it.
    pub at: Option<Version>,
    /// Whether CHaS lists it as running.
    pub listed: RunState,
}

/// What was pushed has been deleted, and CHaS may not know yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// What it was.
    pub id: ContainerId,
    /// The change that deleted it.
    pub seq: u64,
}

/// One change of the marks. `None`: there is no such mark any more.
#[derive(Clone, Debug, PartialEq)]
pub enum Mark {
    /// The set pulled last.
    Pulled(Pulled),
    /// The node takes nothing new (any more).
    Cordoned(bool),
    /// What this node is to CHaS.
    Link(Link),
    /// A name that an operator keeps otherwise than CHaS lists it.
    Suppressed(ContainerName, Option<Suppressed>),
    /// A name that was deleted.
    Tombstone(ContainerName, Option<Tombstone>),
    /// What a request with this `Idempotency-Key` was answered.
    Answer(String, Option<Arc<Answer>>),
}

impl Mark {
    /// The entry that it changes, and what it is then.
    pub(super) fn entry(&self) -> (String, Option<Value>) {
        match self {
            Self::Pulled(pulled) => (PULLED.to_owned(), Some(value(pulled))),
            Self::Cordoned(cordoned) => {
                (CORDONED.to_owned(), cordoned.then_some(Value::Bool(true)))
            }
            Self::Link(link) => (LINK.to_owned(), Some(value(link))),
            Self::Suppressed(name, mark) => {
                (format!("{SUPPRESSED}{name}"), mark.as_ref().map(value))
            }
            Self::Tombstone(name, mark) => (format!("{TOMBSTONE}{name}"), mark.as_ref().map(value)),
            Self::Answer(key, mark) => (
                format!("{ANSWERED}{key}"),
                mark.as_ref().map(|mark| value(&**mark)),
            ),
        }
    }
}

/// Marks are made of texts and numbers, which JSON always takes.
fn value(mark: &impl Serialize) -> Value {
    serde_json::to_value(mark).unwrap_or_default()
}

/// All marks, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Marks {
    pulled: Option<Pulled>,
    cordoned: bool,
    link: Option<Link>,
    suppressed: BTreeMap<ContainerName, Suppressed>,
    tombstones: BTreeMap<ContainerName, Tombstone>,
    // Shared, for there may be thousands, and most changes leave them as they are.
    answers: Arc<BTreeMap<String, Arc<Answer>>>,
}

impl Marks {
    /// The set pulled last; `None`: there was none.
    #[must_use]
    pub const fn pulled(&self) -> Option<&Pulled> {
        self.pulled.as_ref()
    }

    /// The node takes nothing new.
    #[must_use]
    pub const fn cordoned(&self) -> bool {
        self.cordoned
    }

    /// What this node is to CHaS. `None`: it never asked.
    #[must_use]
    pub const fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    /// Names that an operator keeps otherwise than CHaS lists them.
    #[must_use]
    pub const fn suppressed(&self) -> &BTreeMap<ContainerName, Suppressed> {
        &self.suppressed
    }

    /// Names of what was pushed and deleted, until CHaS knows.
    #[must_use]
    pub const fn tombstones(&self) -> &BTreeMap<ContainerName, Tombstone> {
        &self.tombstones
    }

    /// What requests were answered, by `Idempotency-Key`.
    #[must_use]
    pub fn answers(&self) -> &BTreeMap<String, Arc<Answer>> {
        &self.answers
    }

    pub(super) fn apply(&mut self, mark: &Mark) {
        match mark {
            Mark::Pulled(pulled) => self.pulled = Some(pulled.clone()),
            Mark::Cordoned(cordoned) => self.cordoned = *cordoned,
            Mark::Link(link) => self.link = Some(link.clone()),
            Mark::Suppressed(name, mark) => set(&mut self.suppressed, name, mark.as_ref()),
            Mark::Tombstone(name, mark) => set(&mut self.tombstones, name, mark.as_ref()),
            Mark::Answer(key, mark) => set(Arc::make_mut(&mut self.answers), key, mark.as_ref()),
        }
    }

    pub(super) fn entries(&self) -> Entries {
        let pulled = self.pulled.iter().cloned().map(Mark::Pulled);
        let link = self.link.iter().cloned().map(Mark::Link);
        let single = pulled.chain(link).chain([Mark::Cordoned(self.cordoned)]);
        let suppressed = self
            .suppressed
            .iter()
            .map(|(name, mark)| Mark::Suppressed(name.clone(), Some(mark.clone())));
        let tombstones = self
            .tombstones
            .iter()
            .map(|(name, mark)| Mark::Tombstone(name.clone(), Some(*mark)));
        let answers = self
            .answers
            .iter()
            .map(|(key, mark)| Mark::Answer(key.clone(), Some(Arc::clone(mark))));
        let entries = single
            .chain(suppressed)
            .chain(tombstones)
            .chain(answers)
            .map(|mark| mark.entry());
        entries
            .filter_map(|(key, value)| Some((key, value?)))
            .collect()
    }

    /// The mark that an entry is; `None`: it is none, or not understood.
    pub(super) fn read(key: &str, value: &Value) -> Option<Mark> {
        let value = value.clone();
        if key == PULLED {
            return serde_json::from_value(value).ok().map(Mark::Pulled);
        }
        if key == LINK {
            return serde_json::from_value(value).ok().map(Mark::Link);
        }
        if key == CORDONED {
            return value.as_bool().map(Mark::Cordoned);
        }
        if let Some(name) = key.strip_prefix(SUPPRESSED) {
            return Some(Mark::Suppressed(
                name.parse().ok()?,
                Some(serde_json::from_value(value).ok()?),
            ));
        }
        if let Some(name) = key.strip_prefix(TOMBSTONE) {
            return Some(Mark::Tombstone(
                name.parse().ok()?,
                Some(serde_json::from_value(value).ok()?),
            ));
        }
        let key = key.strip_prefix(ANSWERED)?;
        Some(Mark::Answer(
            key.to_owned(),
            Some(Arc::new(serde_json::from_value(value).ok()?)),
        ))
    }
}

fn set<K: Clone + Ord, V: Clone>(map: &mut BTreeMap<K, V>, key: &K, value: Option<&V>) {
    match value {
        Some(value) => drop(map.insert(key.clone(), value.clone())),
        None => drop(map.remove(key)),
    }
}
