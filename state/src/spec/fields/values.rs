//! Values of fields, each read by its type; at the probe each answers the schema of what it takes.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::spec::sketch;

pub(crate) fn text(value: &Value) -> Result<&str, String> {
    let schema = || json!({"type": "string"});
    let fault = || sketch::fault(value, schema, || "must be a string".to_owned());
    value.as_str().ok_or_else(fault)
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
        let schema = || json!({"type": ["string", "number"]});
        let fault = || sketch::fault(value, schema, || "must be a string".to_owned());
        value.as_str().ok_or_else(fault)?.parse()
    };
    parsed.map_err(|error: T::Err| error.to_string())
}

pub(crate) fn boolean(value: &Value) -> Result<bool, String> {
    let schema = || json!({"type": "boolean"});
    let fault = || sketch::fault(value, schema, || "must be true or false".to_owned());
    value.as_bool().ok_or_else(fault)
}

pub(crate) fn integer(value: &Value, range: RangeInclusive<u64>) -> Result<u64, String> {
    let number = value.as_u64().filter(|number| range.contains(number));
    let (first, last) = (range.start(), range.end());
    let schema = || json!({"type": "integer", "minimum": first, "maximum": last});
    let message = || format!("must be a whole number from {first} to {last}");
    number.ok_or_else(|| sketch::fault(value, schema, message))
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
    let schema = || json!({"type": ["string", "integer"], "minimum": 0, "maximum": max.as_secs()});
    let message = || {
        format!("must be a duration of {max_text} at most, such as \"30s\", or a number of seconds")
    };
    let duration = duration.filter(|duration| *duration <= max);
    duration.ok_or_else(|| sketch::fault(value, schema, message))
}

pub(crate) fn list(value: &Value, items_max: usize) -> Result<&[Value], String> {
    match value.as_array() {
        Some(items) if items.len() <= items_max => Ok(items),
        Some(_) => Err(format!("must not be more than {items_max}")),
        None => Err("must be an array".to_owned()),
    }
}

/// The items of an array, each of which `read` is to read.
pub(crate) fn list_of<T>(
    value: &Value,
    items_max: usize,
    read: impl Fn(&Value) -> Result<T, String>,
) -> Result<&[Value], String> {
    let schema = || json!({"type": "array", "maxItems": items_max, "items": sketch::learned(read)});
    list(value, items_max).map_err(|message| sketch::fault(value, schema, || message))
}

/// The items of an array, each of which is read.
pub(crate) fn each<T>(
    value: &Value,
    items_max: usize,
    read: impl Fn(&Value) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    list_of(value, items_max, &read)?
        .iter()
        .map(&read)
        .collect()
}
