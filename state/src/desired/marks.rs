//! Marks: facts stored beside the records. The set of CHaS that was applied last, containers that
//! an operator keeps otherwise, deleted names, answered requests. The rules that follow from them
//! are [`crate::ownership`]'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::Answer;
use super::applied::{AppliedSet, SetVersion};
use super::{Entries, RunState};
use crate::blobs::BlobTag;
use crate::cordon::{CordonedBy, OperatorCordon};
use crate::id::{ContainerId, ContainerName};
use crate::spec::SecretName;

const APPLIED_SET: &str = "pulled";
const CORDONED: &str = "cordoned";
const OPERATOR_CORDON: &str = "operator_cordon";
const IDENTITY: &str = "link";
const SUPPRESSED: &str = "suppressed/";
const TOMBSTONE: &str = "tombstone/";
const SECRET: &str = "secret/";
const ANSWERED: &str = "answered/";

/// Identity of this node towards CHaS, kept over restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// Random id, made once with the state directory: tells two nodes of one name apart.
    pub instance_uuid: String,
    /// Name of the node at CHaS, whose sets are counted by it.
    #[serde(default)]
    pub node_id: String,
    /// Boot in which CHaS answered last.
    pub boot_id: String,
    /// Nodes in the cluster, as CHaS said last. 0: unknown.
    pub cluster_size: u64,
}

/// Mark of a container of CHaS that an operator stopped, started or deleted: it stays so until a
/// newer set lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppressed {
    /// The set in force at that time. `None`: unknown by now; the next set counts as that one.
    pub at: Option<SetVersion>,
    /// State that CHaS lists.
    pub listed: RunState,
}

/// Mark of a pushed container that was deleted, of which CHaS may not know yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Id of the container.
    pub id: ContainerId,
    /// [`Desired::seq`](super::set::Desired::seq) of the change that deleted it.
    pub seq: u64,
}

/// Secret of the node: which value it has, and since when. The value itself is a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSecret {
    /// Value, by its fingerprint.
    pub tag: BlobTag,
    /// First value of the name, milliseconds since 1970. For showing.
    pub created_ms: u64,
    /// Present value, milliseconds since 1970. For showing.
    pub changed_ms: u64,
}

/// A change of the marks. `None` removes the mark.
#[derive(Clone, Debug, PartialEq)]
pub enum Mark {
    /// The set of CHaS that was applied last.
    AppliedSet(Box<AppliedSet>),
    /// Whether the node starts nothing new, by CHaS's word.
    Cordoned(bool),
    /// Cordon by an operator.
    OperatorCordon(Option<OperatorCordon>),
    /// Identity of this node towards CHaS.
    Identity(NodeIdentity),
    /// Container that an operator keeps otherwise than CHaS lists it.
    Suppressed(ContainerName, Option<Suppressed>),
    /// Deleted container.
    Tombstone(ContainerName, Option<Tombstone>),
    /// Secret of the node.
    Secret(SecretName, Option<StoredSecret>),
    /// Answer to the request with this `Idempotency-Key`.
    Answer(String, Option<Arc<Answer>>),
}

impl Mark {
    /// The stored entry that the mark is, and its new value; `None` removes it.
    pub(super) fn entry(&self) -> (String, Option<Value>) {
        match self {
            Self::AppliedSet(applied) => (APPLIED_SET.to_owned(), Some(value(applied))),
            Self::Cordoned(cordoned) => {
                (CORDONED.to_owned(), cordoned.then_some(Value::Bool(true)))
            }
            Self::OperatorCordon(cordon) => {
                (OPERATOR_CORDON.to_owned(), cordon.as_ref().map(value))
            }
            Self::Identity(identity) => (IDENTITY.to_owned(), Some(value(identity))),
            Self::Suppressed(name, mark) => {
                (format!("{SUPPRESSED}{name}"), mark.as_ref().map(value))
            }
            Self::Tombstone(name, mark) => (format!("{TOMBSTONE}{name}"), mark.as_ref().map(value)),
            Self::Secret(name, mark) => (format!("{SECRET}{name}"), mark.as_ref().map(value)),
            Self::Answer(key, mark) => (
                format!("{ANSWERED}{key}"),
                mark.as_ref().map(|mark| value(&**mark)),
            ),
        }
    }
}

/// JSON of a mark. Marks are made of texts and numbers, which JSON always takes.
fn value(mark: &impl Serialize) -> Value {
    serde_json::to_value(mark).unwrap_or_default()
}

/// All marks, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Marks {
    applied_set: Option<Box<AppliedSet>>,
    cordoned: bool,
    operator_cordon: Option<OperatorCordon>,
    identity: Option<NodeIdentity>,
    suppressed: BTreeMap<ContainerName, Suppressed>,
    tombstones: BTreeMap<ContainerName, Tombstone>,
    secrets: BTreeMap<SecretName, StoredSecret>,
    // Shared, for there may be thousands, and most changes leave them as they are.
    answers: Arc<BTreeMap<String, Arc<Answer>>>,
}

impl Marks {
    /// The set of CHaS that was applied last. `None`: none was.
    #[must_use]
    pub fn applied_set(&self) -> Option<&AppliedSet> {
        self.applied_set.as_deref()
    }

    /// Whether the node starts nothing new, by CHaS's word.
    #[must_use]
    pub const fn cordoned(&self) -> bool {
        self.cordoned
    }

    /// Cordon by an operator. `None`: none stands.
    #[must_use]
    pub const fn operator_cordon(&self) -> Option<&OperatorCordon> {
        self.operator_cordon.as_ref()
    }

    /// Holders of the node's cordon.
    #[must_use]
    pub const fn cordoned_by(&self) -> CordonedBy {
        CordonedBy {
            chas: self.cordoned,
            operator: self.operator_cordon.is_some(),
        }
    }

    /// Time of the order to drain the node, milliseconds since 1970. `None`: it is not drained.
    #[must_use]
    pub fn drained_ms(&self) -> Option<u64> {
        self.operator_cordon.as_ref()?.drained_ms
    }

    /// Identity of this node towards CHaS. `None`: not stored yet.
    #[must_use]
    pub const fn identity(&self) -> Option<&NodeIdentity> {
        self.identity.as_ref()
    }

    /// Containers that an operator keeps otherwise than CHaS lists them.
    #[must_use]
    pub const fn suppressed(&self) -> &BTreeMap<ContainerName, Suppressed> {
        &self.suppressed
    }

    /// Pushed containers that were deleted, until CHaS knows.
    #[must_use]
    pub const fn tombstones(&self) -> &BTreeMap<ContainerName, Tombstone> {
        &self.tombstones
    }

    /// Secrets of the node.
    #[must_use]
    pub const fn secrets(&self) -> &BTreeMap<SecretName, StoredSecret> {
        &self.secrets
    }

    /// Answers to requests, by `Idempotency-Key`.
    #[must_use]
    pub fn answers(&self) -> &BTreeMap<String, Arc<Answer>> {
        &self.answers
    }

    pub(super) fn apply(&mut self, mark: &Mark) {
        match mark {
            Mark::AppliedSet(applied) => self.applied_set = Some(applied.clone()),
            Mark::Cordoned(cordoned) => self.cordoned = *cordoned,
            Mark::OperatorCordon(cordon) => self.operator_cordon.clone_from(cordon),
            Mark::Identity(identity) => self.identity = Some(identity.clone()),
            Mark::Suppressed(name, mark) => set(&mut self.suppressed, name, mark.as_ref()),
            Mark::Tombstone(name, mark) => set(&mut self.tombstones, name, mark.as_ref()),
            Mark::Secret(name, mark) => set(&mut self.secrets, name, mark.as_ref()),
            Mark::Answer(key, mark) => set(Arc::make_mut(&mut self.answers), key, mark.as_ref()),
        }
    }

    pub(super) fn entries(&self) -> Entries {
        let applied = self.applied_set.iter().cloned().map(Mark::AppliedSet);
        let identity = self.identity.iter().cloned().map(Mark::Identity);
        let single = applied
            .chain(identity)
            .chain([Mark::Cordoned(self.cordoned)])
            .chain([Mark::OperatorCordon(self.operator_cordon.clone())]);
        let suppressed = self
            .suppressed
            .iter()
            .map(|(name, mark)| Mark::Suppressed(name.clone(), Some(mark.clone())));
        let tombstones = self
            .tombstones
            .iter()
            .map(|(name, mark)| Mark::Tombstone(name.clone(), Some(*mark)));
        let secrets = self.secrets.iter();
        let secrets = secrets.map(|(name, mark)| Mark::Secret(name.clone(), Some(mark.clone())));
        let answers = self
            .answers
            .iter()
            .map(|(key, mark)| Mark::Answer(key.clone(), Some(Arc::clone(mark))));
        let entries = single
            .chain(suppressed)
            .chain(tombstones)
            .chain(secrets)
            .chain(answers)
            .map(|mark| mark.entry());
        entries
            .filter_map(|(key, value)| Some((key, value?)))
            .collect()
    }

    /// The mark that an entry is. `None`: the entry is no mark, or not understood.
    pub(super) fn read(key: &str, value: &Value) -> Option<Mark> {
        let value = value.clone();
        if key == APPLIED_SET {
            return serde_json::from_value(value).ok().map(Mark::AppliedSet);
        }
        if key == IDENTITY {
            return serde_json::from_value(value).ok().map(Mark::Identity);
        }
        if key == OPERATOR_CORDON {
            let cordon = serde_json::from_value(value).ok();
            return cordon.map(|cordon| Mark::OperatorCordon(Some(cordon)));
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
        if let Some(name) = key.strip_prefix(SECRET) {
            return Some(Mark::Secret(
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
