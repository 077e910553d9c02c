//! Sets of containers by node, and their generations. Pure; `changes` stores and publishes them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use axum::body::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use state::spec::parse::{self, FieldError};

use super::body::SET_BYTES_MAX;
use super::schema;

/// Name of the set for every node without a set of its own. No node can have this name.
pub(crate) const DEFAULT: &str = "_default";
/// Most names that ever had a set: ten times the nodes that this example was tested with.
pub(super) const NAMES_MAX: usize = 100_000;

/// A valid set, serialised once for all nodes that have it.
#[derive(Debug)]
pub(super) struct ContainerSet {
    /// Fingerprint of the set.
    pub(super) hash: String,
    /// Members of the JSON object without the braces, as they stand in each node's desired state.
    pub(super) fields: Bytes,
}

impl ContainerSet {
    /// Parses a set. With `force`, invalid containers are accepted too.
    ///
    /// # Errors
    /// Every error in the set, each with its place.
    pub(super) fn of(body: &Value, force: bool) -> Result<Self, Vec<FieldError>> {
        let mut errors = schema::errors("Set", body, false);
        let containers = body["containers"].as_array();
        if !force {
            let mut names = BTreeSet::new();
            for (index, container) in containers.into_iter().flatten().enumerate() {
                check(index, container, &mut names, &mut errors);
            }
            for (index, removed) in body["remove"].as_array().into_iter().flatten().enumerate() {
                if removed["name"]
                    .as_str()
                    .is_some_and(|name| names.contains(name))
                {
                    let message =
                        "is listed under containers too: list it in one of them".to_owned();
                    errors.push(FieldError {
                        field: format!("remove[{index}].name"),
                        message,
                    });
                }
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let set = Self::stored(body);
        // A few YAML anchors may expand to more than was read.
        if set.fields.len() > SET_BYTES_MAX {
            let message = format!(
                "has {} bytes as JSON; agents read at most {SET_BYTES_MAX}",
                set.fields.len()
            );
            return Err(vec![FieldError {
                field: "containers".to_owned(),
                message,
            }]);
        }
        Ok(set)
    }

    /// A set that was parsed before.
    pub(super) fn stored(body: &Value) -> Self {
        let (remove, cordon) = (
            body["remove"].as_array(),
            body["cordon"].as_bool().unwrap_or(false),
        );
        let remove = remove.map_or_else(|| "[]".to_owned(), |names| json!(names).to_string());
        let fields = format!(
            "\"containers\":{},\"remove\":{remove},\"cordon\":{cordon}",
            body["containers"]
        );
        Self {
            hash: fingerprint(&[&fields]),
            fields: fields.into(),
        }
    }

    /// The entity tag of the set.
    pub(super) fn tag(&self) -> String {
        format!("\"{}\"", self.hash)
    }

    /// The set as an operator writes it, in JSON.
    pub(super) fn document(&self) -> Vec<u8> {
        [b"{".as_slice(), &self.fields, b"}"].concat()
    }
}

fn check(
    index: usize,
    container: &Value,
    names: &mut BTreeSet<String>,
    errors: &mut Vec<FieldError>,
) {
    let at = format!("containers[{index}]");
    if let Some(name) = container["name"]
        .as_str()
        .filter(|name| !names.insert((*name).to_owned()))
    {
        errors.push(FieldError {
            field: format!("{at}.name"),
            message: format!("{name} is listed twice"),
        });
    }
    for error in parse::deploy(container).err().into_iter().flatten() {
        let field = if error.field.is_empty() {
            at.clone()
        } else {
            format!("{at}.{}", error.field)
        };
        errors.push(FieldError {
            field,
            message: error.message,
        });
    }
}

/// Sixteen hex digits of the SHA-256 of the parts: enough to tell one version from the next.
pub(super) fn fingerprint(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The entry of one name: `_default`, or a node's.
#[derive(Clone, Debug, Default)]
pub(super) struct SetEntry {
    /// Set written for the name.
    pub(super) set: Option<Arc<ContainerSet>>,
    /// Generation of the set, and of `_default` always. Without a set: the difference to
    /// `_default`'s generation.
    pub(super) count: i64,
    /// Generation whose removals are confirmed.
    pub(super) confirmed: Option<u64>,
}

/// The set that one node should run.
#[derive(Clone, Debug)]
pub(super) struct DesiredSet {
    pub(super) set: Arc<ContainerSet>,
    pub(super) generation: u64,
    pub(super) is_confirmed: bool,
}

/// A change of a set.
#[derive(Clone, Debug)]
pub(super) enum SetChange {
    /// Replaces the set.
    Put(Arc<ContainerSet>),
    /// Deletes the set.
    Delete,
    /// Confirms the removals of this generation, which must be the current one.
    Confirm(u64),
}

/// The sets of all nodes.
///
/// A node that follows `_default` is counted along with it, so a change for ten thousand nodes is a
/// change of one number.
#[derive(Debug, Default)]
pub(super) struct DesiredSets {
    default: SetEntry,
    own: HashMap<String, SetEntry>,
}

impl DesiredSets {
    /// The entry of `name`.
    pub(super) fn entry(&self, name: &str) -> SetEntry {
        if name == DEFAULT {
            self.default.clone()
        } else {
            self.own.get(name).cloned().unwrap_or_default()
        }
    }

    /// The generation of `name`: raised by one with each change of its set, and never lowered.
    pub(super) fn generation(&self, name: &str) -> u64 {
        self.generation_with(name, self.own.get(name))
    }

    fn generation_with(&self, name: &str, own: Option<&SetEntry>) -> u64 {
        let count = match own {
            Some(entry) if name != DEFAULT && entry.set.is_some() => entry.count,
            Some(entry) if name != DEFAULT => self.default.count + entry.count,
            _ => self.default.count,
        };
        u64::try_from(count).unwrap_or_default()
    }

    /// The set of a node. `None`: neither it nor `_default` has one.
    pub(super) fn wish(&self, node_id: &str) -> Option<DesiredSet> {
        let own = self.own.get(node_id);
        let generation = self.generation_with(node_id, own);
        let confirmed_alone = own.is_some_and(|entry| entry.confirmed == Some(generation));
        if let Some(set) = own.and_then(|entry| entry.set.clone()) {
            return Some(DesiredSet {
                set,
                generation,
                is_confirmed: confirmed_alone,
            });
        }
        let with_all = self
            .default
            .confirmed
            .is_some_and(|confirmed| i64::try_from(confirmed) == Ok(self.default.count));
        Some(DesiredSet {
            set: self.default.set.clone()?,
            generation,
            is_confirmed: confirmed_alone || with_all,
        })
    }

    /// The entry of `name` after a change. `None`: nothing changes.
    pub(super) fn after(&self, name: &str, change: &SetChange) -> Option<SetEntry> {
        let entry = self.entry(name);
        let generation = self.generation(name);
        let next = i64::try_from(generation + 1).unwrap_or(i64::MAX);
        match change {
            SetChange::Put(set)
                if entry
                    .set
                    .as_ref()
                    .is_some_and(|old| old.fields == set.fields) =>
            {
                None
            }
            SetChange::Put(set) => Some(SetEntry {
                set: Some(Arc::clone(set)),
                count: next,
                confirmed: None,
            }),
            SetChange::Delete if entry.set.is_none() => None,
            SetChange::Delete if name == DEFAULT => Some(SetEntry {
                set: None,
                count: next,
                confirmed: None,
            }),
            SetChange::Delete => Some(SetEntry {
                set: None,
                count: next - self.default.count,
                confirmed: None,
            }),
            SetChange::Confirm(_) if entry.confirmed == Some(generation) => None,
            SetChange::Confirm(_) => Some(SetEntry {
                confirmed: Some(generation),
                ..entry
            }),
        }
    }

    /// Replaces the entry of `name`.
    pub(super) fn insert(&mut self, name: &str, entry: SetEntry) {
        if name == DEFAULT {
            self.default = entry;
        } else {
            self.own.insert(name.to_owned(), entry);
        }
    }

    /// Whether the limit of names leaves no room for `name`.
    pub(super) fn is_full_for(&self, name: &str) -> bool {
        name != DEFAULT && self.own.len() >= NAMES_MAX && !self.own.contains_key(name)
    }
}
