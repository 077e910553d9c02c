//! Reading JSON objects field by field, so that one pass finds every fault. What the fields mean is left to the caller.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::spec::parse::FieldError;

/// Faults that are told. Whoever sends another kind of document needs not hear of it ten thousand times.
pub(super) const FAULTS_MAX: usize = 1_000;

/// The members of one JSON object, each read once; what nobody read is unknown.
pub(super) struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
    known: Vec<&'static str>,
    faults: &'a mut Vec<FieldError>,
}

impl<'a> Fields<'a> {
    /// The members of `value`; a fault if it is no object.
    pub(super) fn of(
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

    /// Notes a fault of the member `key`. Of a body that is nothing but faults, the first ones.
    pub(super) fn fault(&mut self, key: &str, message: &str) {
        if self.faults.len() < FAULTS_MAX {
            let field = self.join(key);
            self.faults.push(FieldError {
                field,
                message: message.to_owned(),
            });
        }
    }

    /// The member, if it is there; `null` says the same as leaving it out.
    fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Reads an optional member.
    pub(super) fn read<T>(
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

    /// Reads a member that must be there.
    pub(super) fn required<T>(
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
    pub(super) fn choice<T: Copy>(
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

    /// Reads a member that is itself an object.
    pub(super) fn object<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Fields<'_>) -> Option<T>,
    ) -> Option<T> {
        let value = self.get(key)?;
        let path = self.join(key);
        inner(value, &path, self.faults, read)
    }

    /// Reads one element, an object, of the array `key`.
    pub(super) fn item<T>(
        &mut self,
        key: &str,
        index: usize,
        value: &Value,
        read: impl FnOnce(&mut Fields<'_>) -> Option<T>,
    ) -> Option<T> {
        let path = format!("{}[{index}]", self.join(key));
        inner(value, &path, self.faults, read)
    }

    /// Refuses a member that is known but must not be there.
    pub(super) fn refuse(&mut self, key: &'static str, message: &str) {
        if self.get(key).is_some() {
            self.fault(key, message);
        }
    }

    /// Notes every member that nobody asked for, with the nearest known one.
    pub(super) fn finish(mut self) {
        self.unknown();
    }

    fn unknown(&mut self) {
        let strangers: Vec<_> = self
            .map
            .keys()
            .filter(|key| !self.known.contains(&key.as_str()))
            .collect();
        for key in strangers.into_iter().take(FAULTS_MAX) {
            let score = |known: &str| strsim::jaro_winkler(key, known);
            let nearest = self
                .known
                .iter()
                .copied()
                .max_by(|a, b| score(a).total_cmp(&score(b)));
            let message = match nearest.filter(|known| score(known) > 0.75) {
                Some(nearest) => format!("unknown field; did you mean {nearest:?}?"),
                None => format!("unknown field; known are {}", self.known.join(", ")),
            };
            // A key is the caller's own text, of any length.
            let key: String = key.chars().take(100).collect();
            self.fault(&key, &message);
        }
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

pub(super) fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| "must be a string".to_owned())
}

pub(super) fn parsed<T: FromStr<Err: ToString>>(value: &Value) -> Result<T, String> {
    text(value)?
        .parse()
        .map_err(|error: T::Err| error.to_string())
}

pub(super) fn boolean(value: &Value) -> Result<bool, String> {
    value
        .as_bool()
        .ok_or_else(|| "must be true or false".to_owned())
}

pub(super) fn integer(value: &Value, range: RangeInclusive<u64>) -> Result<u64, String> {
    let number = value.as_u64().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        format!(
            "must be a whole number from {} to {}",
            range.start(),
            range.end()
        )
    })
}

/// A humantime string (`10s`, `5m`), or a number of seconds.
pub(super) fn duration(value: &Value, max: Duration) -> Result<Duration, String> {
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

pub(super) fn list(value: &Value, items_max: usize) -> Result<&[Value], String> {
    match value.as_array() {
        Some(items) if items.len() <= items_max => Ok(items),
        Some(_) => Err(format!("must not be more than {items_max}")),
        None => Err("must be an array".to_owned()),
    }
}

/// A command line: at least one word, none with NUL. The kernel takes 128 KiB a word.
pub(super) fn words(value: &Value) -> Result<Vec<String>, String> {
    const FAULT: &str = "must be an array of 1 to 1000 strings, such as [\"nginx\", \"-g\", \"daemon off;\"], 128 KiB at most and without NUL";
    let items = list(value, 1000).map_err(|_| FAULT)?;
    let words: Option<Vec<_>> = items
        .iter()
        .map(|item| item.as_str().map(str::to_owned))
        .collect();
    let fits = |words: &Vec<String>| {
        !words.is_empty()
            && words.iter().all(|w| !w.contains('\0'))
            && words.iter().map(String::len).sum::<usize>() <= 128 << 10
    };
    words.filter(fits).ok_or_else(|| FAULT.to_owned())
}

pub(super) fn text_map(value: &Value) -> Result<BTreeMap<String, String>, String> {
    let fault = || {
        "must be an object whose values are strings (write numbers and booleans in quotes)"
            .to_owned()
    };
    let map = value.as_object().ok_or_else(fault)?;
    map.iter()
        .map(|(key, value)| Ok((key.clone(), value.as_str().ok_or_else(fault)?.to_owned())))
        .collect()
}
