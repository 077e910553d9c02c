//! Fields of JSON objects, read one by one, so that one pass finds every fault. Their meaning is
//! left to the sections.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::text::{MESSAGE_CHARS_MAX, shown};

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
}

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
            }),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => {
                faults.push(FieldError {
                    field: path.to_owned(),
                    message: "must be an object".to_owned(),
                });
                None
            }
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

    /// Whether the member is a string.
    pub(crate) fn is_text(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_string)
    }

    /// Whether the member is an object.
    pub(crate) fn is_object(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_object)
    }

    /// Reads an optional member.
    pub(crate) fn read<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, String>,
    ) -> Option<T> {
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
        read: impl FnOnce(&'a Value) -> Result<T, String>,
    ) -> Option<T> {
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
        self.read(key, |value| {
            let found = value
                .as_str()
                .and_then(|word| choices.iter().find(|(known, _)| *known == word));
            found.map(|(_, choice)| *choice).ok_or_else(|| {
                let words: Vec<_> = choices
                    .iter()
                    .map(|(word, _)| format!("{word:?}"))
                    .collect();
                format!("must be {}", words.join(" or "))
            })
        })
    }

    /// Reads an optional member that is an object of strings, and notes each value that is none
    /// under its own key.
    pub(crate) fn text_map(&mut self, key: &'static str) -> Option<BTreeMap<String, String>> {
        let map = self.read(key, |value| {
            let fault = || "must be an object whose values are strings".to_owned();
            value.as_object().ok_or_else(fault)
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
        let value = self.get(key)?;
        let path = self.join(key);
        inner(value, &path, self.faults, read)
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
            let message = match self.nearest(key) {
                Some(nearest) => format!("unknown field; did you mean {nearest:?}?"),
                None => format!("unknown field; known are {}", self.known.join(", ")),
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

pub(crate) fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| "must be a string".to_owned())
}

pub(crate) fn parsed<T: FromStr<Err: ToString>>(value: &Value) -> Result<T, String> {
    text(value)?
        .parse()
        .map_err(|error: T::Err| error.to_string())
}

/// An amount with or without a unit: a string, or a number as it stands in the body.
pub(crate) fn amount<T: FromStr<Err: ToString>>(value: &Value) -> Result<T, String> {
    let parsed = if value.is_number() {
        value.to_string().parse()
    } else {
        text(value)?.parse()
    };
    parsed.map_err(|error: T::Err| error.to_string())
}

pub(crate) fn boolean(value: &Value) -> Result<bool, String> {
    value
        .as_bool()
        .ok_or_else(|| "must be true or false".to_owned())
}

pub(crate) fn integer(value: &Value, range: RangeInclusive<u64>) -> Result<u64, String> {
    let number = value.as_u64().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        format!(
            "must be a whole number from {} to {}",
            range.start(),
            range.end()
        )
    })
}

/// A duration: a humantime string (`10s`, `5m`), or a number of seconds.
pub(crate) fn duration(value: &Value, max: Duration) -> Result<Duration, String> {
    let duration = match value.as_u64() {
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None => value
            .as_str()
            .and_then(|text| humantime::parse_duration(text).ok()),
    };
    let max_text = humantime::format_duration(max);
    duration.filter(|d| *d <= max).ok_or_else(|| {
        format!("must be a duration of {max_text} at most, such as \"30s\", or a number of seconds")
    })
}

pub(crate) fn list(value: &Value, items_max: usize) -> Result<&[Value], String> {
    match value.as_array() {
        Some(items) if items.len() <= items_max => Ok(items),
        Some(_) => Err(format!("must not be more than {items_max}")),
        None => Err("must be an array".to_owned()),
    }
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
