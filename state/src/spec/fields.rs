//! Fields of JSON objects, read one by one, so that one pass finds every fault. Their meaning is
//! left to the sections.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::elsewhere;
use super::sketch::{self, Sketch};
use crate::text::{MESSAGE_CHARS_MAX, shown};

mod values;

pub(crate) use values::{amount, boolean, duration, each, integer, list, list_of, parsed, text};

/// Field error: one fault of a deploy body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// Path of the field, as in `exposed_ports[0].container`. Empty: the body as a whole.
    pub field: String,
    /// The fault, and what the field must be.
    pub message: String,
}

/// Faults told of one body. A document of another kind would have ten thousand.
pub(crate) const FAULTS_MAX: usize = 1_000;

/// Characters of a key that a fault repeats.
const KEY_CHARS_MAX: usize = 100;
/// Longest unknown key for which the nearest known one is looked for; no known key is longer.
const HINT_BYTES_MAX: usize = 32;
/// Faults of a body after which nothing more is looked for.
const HINTS_MAX: usize = 16;

/// The members of one JSON object, each read once; a member that nobody reads is unknown.
pub(crate) struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
    known: Vec<&'static str>,
    faults: &'a mut Vec<FieldError>,
    /// Members that are asked for, in place of reading them.
    sketch: Option<Sketch>,
}

/// Members of an object of which only a sketch is made.
static NO_MEMBERS: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

impl<'a> Fields<'a> {
    /// The members of `value`; a fault if `value` is no object.
    pub(crate) fn of(
        value: &'a Value,
        path: &str,
        faults: &'a mut Vec<FieldError>,
    ) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Self {
                path: path.to_owned(),
                map,
                known: Vec::new(),
                faults,
                sketch: None,
            }),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => {
                faults.push(FieldError {
                    field: path.to_owned(),
                    message: elsewhere::no_object(path),
                });
                None
            }
        }
    }

    /// Schema of the object that `read` reads.
    pub(crate) fn sketch(read: impl FnOnce(&mut Fields<'_>)) -> Value {
        let mut fields = Fields {
            path: String::new(),
            map: &NO_MEMBERS,
            known: Vec::new(),
            faults: &mut Vec::new(),
            sketch: Some(Sketch::default()),
        };
        read(&mut fields);
        fields.sketch.take().unwrap_or_default().schema()
    }

    /// Whether only a sketch is made: nothing is there, and each way to write a member is asked for.
    pub(crate) fn is_sketched(&self) -> bool {
        self.sketch.is_some()
    }

    /// Notes the schema of a member, if a sketch is made.
    fn note(&mut self, key: &'static str, schema: impl FnOnce() -> Value) {
        if let Some(sketch) = &mut self.sketch {
            sketch.note(key, schema());
        }
    }

    fn join(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Whether a fault was noted, of this object or of another one read before.
    pub(crate) fn has_faults(&self) -> bool {
        !self.faults.is_empty()
    }

    /// Notes a fault of the member `key`; of a body with more than [`FAULTS_MAX`], the first ones.
    pub(crate) fn fault(&mut self, key: &str, message: &str) {
        if self.faults.len() < FAULTS_MAX {
            let field = self.join(key);
            self.faults.push(FieldError {
                field,
                message: shown(message, MESSAGE_CHARS_MAX).into_owned(),
            });
        }
    }

    /// The member, if there is one; `null` means the same as leaving it out.
    fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the member is there, and not `null`.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    /// Whether the member is a string, or only a sketch is made.
    pub(crate) fn may_be_text(&self, key: &str) -> bool {
        self.is_sketched() || self.map.get(key).is_some_and(Value::is_string)
    }

    /// Whether the member is an object.
    pub(crate) fn is_object(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_object)
    }

    /// Reads an optional member.
    pub(crate) fn read<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&'a Value) -> Result<T, String>,
    ) -> Option<T> {
        self.note(key, || sketch::learned(&read));
        match read(self.get(key)?) {
            Ok(value) => Some(value),
            Err(message) => {
                self.fault(key, &message);
                None
            }
        }
    }

    /// Reads a required member.
    pub(crate) fn required<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&'a Value) -> Result<T, String>,
    ) -> Option<T> {
        if let Some(sketch) = &mut self.sketch {
            sketch.require(key);
            return self.read(key, read);
        }
        if self.get(key).is_none() {
            self.fault(key, "is required");
            return None;
        }
        self.known.pop();
        self.read(key, read)
    }

    /// Reads a member that is one of a few words.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let words = || choices.iter().map(|(word, _)| *word);
        self.read(key, |value| {
            let found = value
                .as_str()
                .and_then(|word| choices.iter().find(|(known, _)| *known == word));
            found.map(|(_, choice)| *choice).ok_or_else(|| {
                let schema = || json!({"type": "string", "enum": words().collect::<Vec<_>>()});
                sketch::fault(value, schema, || {
                    let words: Vec<_> = words().map(|word| format!("{word:?}")).collect();
                    format!("must be {}", words.join(" or "))
                })
            })
        })
    }

    /// Reads an optional member that is an object of strings, and notes each value that is none
    /// under its own key.
    pub(crate) fn text_map(&mut self, key: &'static str) -> Option<BTreeMap<String, String>> {
        let map = self.read(key, |value| {
            let fault = || {
                "must be an object whose values are strings, such as {\"NAME\": \"value\"}"
                    .to_owned()
            };
            let texts = || json!({"type": "object", "additionalProperties": {"type": "string"}});
            let map = value.as_object();
            map.ok_or_else(|| sketch::fault(value, texts, fault))
        })?;
        let mut read = BTreeMap::new();
        for (name, value) in map {
            if let Some(text) = value.as_str() {
                read.insert(name.clone(), text.to_owned());
            } else {
                // A view shows null in place of each value.
                let message = if value.is_null() {
                    "has no value; an admin reads those in force with ?reveal=true"
                } else {
                    "must be a string; write numbers and booleans in quotes"
                };
                self.fault(&format!("{key}.{}", shown(name, KEY_CHARS_MAX)), message);
            }
        }
        Some(read)
    }

    /// Reads an optional member that is an object.
    pub(crate) fn object<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Fields<'_>) -> Option<T>,
    ) -> Option<T> {
        if self.is_sketched() {
            self.note(key, || Fields::sketch(|fields| drop(read(fields))));
            return None;
        }
        let value = self.get(key)?;
        let path = self.join(key);
        inner(value, &path, self.faults, read)
    }

    /// Reads an optional member that is an array of objects; each is still to be read, by `item`.
    pub(crate) fn objects<T>(
        &mut self,
        key: &'static str,
        items_max: usize,
        item: impl FnOnce(&mut Fields<'_>) -> Option<T>,
    ) -> Option<&'a [Value]> {
        if self.is_sketched() {
            let items = Fields::sketch(|fields| drop(item(fields)));
            self.note(
                key,
                || json!({"type": "array", "maxItems": items_max, "items": items}),
            );
        }
        let value = self.get(key)?;
        match list(value, items_max) {
            Ok(items) => Some(items),
            Err(message) => {
                self.fault(key, &message);
                None
            }
        }
    }

    /// Reads one element, an object, of the array `key`.
    pub(crate) fn item<T>(
        &mut self,
        key: &str,
        index: usize,
        value: &Value,
        read: impl FnOnce(&mut Fields<'_>) -> Option<T>,
    ) -> Option<T> {
        let path = format!("{}[{index}]", self.join(key));
        inner(value, &path, self.faults, read)
    }

    /// Notes every unknown member as a fault, with the nearest known name.
    pub(crate) fn finish(mut self) {
        let unknown: Vec<_> = self
            .map
            .keys()
            .filter(|key| !self.known.contains(&key.as_str()))
            .collect();
        for key in unknown.into_iter().take(FAULTS_MAX) {
            let message = match (elsewhere::in_place_of(key), self.nearest(key)) {
                (Some(words), _) => format!("unknown field; {words}"),
                (None, Some(nearest)) => format!("unknown field; did you mean {nearest:?}?"),
                (None, None) => format!("unknown field; known are {}", self.known.join(", ")),
            };
            self.fault(&shown(key, KEY_CHARS_MAX), &message);
        }
    }

    /// The known name that an unknown one is most like. Only a few are compared, and short ones:
    /// the caller writes keys of any length and number, and each takes time.
    fn nearest(&self, key: &str) -> Option<&'static str> {
        if key.len() > HINT_BYTES_MAX || self.faults.len() >= HINTS_MAX {
            return None;
        }
        let score = |known: &str| strsim::jaro_winkler(key, known);
        let known = self.known.iter().copied();
        let nearest = known.max_by(|a, b| score(a).total_cmp(&score(b)));
        nearest.filter(|known| score(known) > 0.75)
    }
}

fn inner<T>(
    value: &Value,
    path: &str,
    faults: &mut Vec<FieldError>,
    read: impl FnOnce(&mut Fields<'_>) -> Option<T>,
) -> Option<T> {
    let mut fields = Fields::of(value, path, faults)?;
    let result = read(&mut fields);
    fields.finish();
    result
}

/// Notes each key without a value: a bound that somebody forgot to write is none, and looks like
/// one.
pub(crate) fn empty_values(value: &Value, path: &str, faults: &mut Vec<FieldError>) {
    match value {
        Value::Null if !path.is_empty() => faults.push(FieldError {
            field: path.to_owned(),
            message: "has no value; give one, or leave the key out".to_owned(),
        }),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                empty_values(item, &format!("{path}[{index}]"), faults);
            }
        }
        Value::Object(members) => {
            for (key, member) in members {
                let dot = if path.is_empty() { "" } else { "." };
                empty_values(member, &format!("{path}{dot}{key}"), faults);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
