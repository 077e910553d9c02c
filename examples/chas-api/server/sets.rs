//! What operators want to run: sets, who has which, and how often that changed. Pure; `changes` stores and publishes it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use axum::body::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use state::spec::parse::{self, FieldError};

use super::body::SET_BYTES_MAX;
use super::schema;

/// The name of the set that holds for every node that has none of its own. No node can be called so.
pub(crate) const DEFAULT: &str = "_default";
/// Names that ever had a set: ten times the nodes that this example was tried with.
pub(super) const NAMES_MAX: usize = 100_000;

/// A set that was accepted. Serialised once, however many nodes have it.
#[derive(Debug)]
pub(super) struct Set {
    /// A fingerprint of all of it.
    pub(super) hash: String,
    /// Its fields without the braces, as they stand in each node's desired state.
    pub(super) fields: Bytes,
}

impl Set {
    /// Reads a set. With `force`, containers that are not valid are taken too.
    ///
    /// # Errors
    /// Every fault in it, each with its place.
    pub(super) fn of(body: &Value, force: bool) -> Result<Self, Vec<FieldError>> {
        let mut faults = schema::faults("Set", body, false);
        let containers = body["containers"].as_array();
        if !force {
            let mut names = BTreeSet::new();
            for (index, container) in containers.into_iter().flatten().enumerate() {
                check(index, container, &mut names, &mut faults);
            }
            for (index, removed) in body["remove"].as_array().into_iter().flatten().enumerate() {
                if removed["name"]
                    .as_str()
                    .is_some_and(|name| names.contains(name))
                {
                    let message = "is listed under containers too".to_owned();
                    faults.push(FieldError {
                        field: format!("remove[{index}].name"),
                        message,
                    });
                }
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let set = Self::stored(body);
        // A few anchors of YAML may stand for more than was read.
        if set.fields.len() > SET_BYTES_MAX {
            let message = format!(
                "is {} bytes of JSON, and agents read {SET_BYTES_MAX} at most",
                set.fields.len()
            );
            return Err(vec![FieldError {
                field: "containers".to_owned(),
                message,
            }]);
        }
        Ok(set)
    }

    /// A set that was read before.
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

    /// The tag of the document.
    pub(super) fn tag(&self) -> String {
        format!("\"{}\"", self.hash)
    }

    /// It as an operator writes it.
    pub(super) fn document(&self) -> Vec<u8> {
        [b"{".as_slice(), &self.fields, b"}"].concat()
    }
}

fn check(
    index: usize,
    container: &Value,
    names: &mut BTreeSet<String>,
    faults: &mut Vec<FieldError>,
) {
    let at = format!("containers[{index}]");
    if let Some(name) = container["name"]
        .as_str()
        .filter(|name| !names.insert((*name).to_owned()))
    {
        faults.push(FieldError {
            field: format!("{at}.name"),
            message: format!("{name} is listed twice"),
        });
    }
    for fault in parse::deploy(container).err().into_iter().flatten() {
        let field = if fault.field.is_empty() {
            at.clone()
        } else {
            format!("{at}.{}", fault.field)
        };
        faults.push(FieldError {
            field,
            message: fault.message,
        });
    }
}

/// Sixteen hex digits of the SHA-256 of the parts. Enough to tell apart what follows one another.
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

/// What is known of one name: `_default`, or a node's.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    /// The set written for it.
    pub(super) set: Option<Arc<Set>>,
    /// With a set, and for `_default` always: its generation. Otherwise what is to be added to `_default`'s.
    pub(super) count: i64,
    /// The generation whose removals are meant.
    pub(super) confirmed: Option<u64>,
}

/// What one node is to have.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) set: Arc<Set>,
    pub(super) generation: u64,
    pub(super) is_confirmed: bool,
}

/// A change of what is wanted.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// This is the set.
    Put(Arc<Set>),
    /// There is no set.
    Delete,
    /// What this generation removes is meant. It has to be the current one.
    Confirm(u64),
}

/// What is wanted of all nodes.
///
/// A node that follows `_default` is counted along with it, so a change for ten thousand nodes is a change of one number.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    default: Entry,
    own: HashMap<String, Entry>,
}

impl Wanted {
    /// What is known of `name`.
    pub(super) fn entry(&self, name: &str) -> Entry {
        if name == DEFAULT {
            self.default.clone()
        } else {
            self.own.get(name).cloned().unwrap_or_default()
        }
    }

    /// The generation of `name`: raised by one with each change of what it is to have, and never lowered.
    pub(super) fn generation(&self, name: &str) -> u64 {
        self.generation_with(name, self.own.get(name))
    }

    fn generation_with(&self, name: &str, own: Option<&Entry>) -> u64 {
        let count = match own {
            Some(entry) if name != DEFAULT && entry.set.is_some() => entry.count,
            Some(entry) if name != DEFAULT => self.default.count + entry.count,
            _ => self.default.count,
        };
        u64::try_from(count).unwrap_or_default()
    }

    /// What the node is to have. `None`: nobody wrote anything that holds for it.
    pub(super) fn wish(&self, node_id: &str) -> Option<Wish> {
        let own = self.own.get(node_id);
        let generation = self.generation_with(node_id, own);
        let confirmed_alone = own.is_some_and(|entry| entry.confirmed == Some(generation));
        if let Some(set) = own.and_then(|entry| entry.set.clone()) {
            return Some(Wish {
                set,
                generation,
                is_confirmed: confirmed_alone,
            });
        }
        let with_all = self
            .default
            .confirmed
            .is_some_and(|confirmed| i64::try_from(confirmed) == Ok(self.default.count));
        Some(Wish {
            set: self.default.set.clone()?,
            generation,
            is_confirmed: confirmed_alone || with_all,
        })
    }

    /// What is to be known of `name` after the change. `None`: it is so already.
    pub(super) fn after(&self, name: &str, change: &Change) -> Option<Entry> {
        let entry = self.entry(name);
        let generation = self.generation(name);
        let next = i64::try_from(generation + 1).unwrap_or(i64::MAX);
        match change {
            Change::Put(set)
                if entry
                    .set
                    .as_ref()
                    .is_some_and(|old| old.fields == set.fields) =>
            {
                None
            }
            Change::Put(set) => Some(Entry {
                set: Some(Arc::clone(set)),
                count: next,
                confirmed: None,
            }),
            Change::Delete if entry.set.is_none() => None,
            Change::Delete if name == DEFAULT => Some(Entry {
                set: None,
                count: next,
                confirmed: None,
            }),
            Change::Delete => Some(Entry {
                set: None,
                count: next - self.default.count,
                confirmed: None,
            }),
            Change::Confirm(_) if entry.confirmed == Some(generation) => None,
            Change::Confirm(_) => Some(Entry {
                confirmed: Some(generation),
                ..entry
            }),
        }
    }

    /// Takes in what is known of `name`.
    pub(super) fn insert(&mut self, name: &str, entry: Entry) {
        if name == DEFAULT {
            self.default = entry;
        } else {
            self.own.insert(name.to_owned(), entry);
        }
    }

    /// There is no room for another name.
    pub(super) fn is_full_for(&self, name: &str) -> bool {
        name != DEFAULT && self.own.len() >= NAMES_MAX && !self.own.contains_key(name)
    }
}
