//! Bodies held against `openapi.json`: what the document says of a body is what is refused here, so they cannot drift apart.
//!
//! It knows only the keywords that the document's request bodies use. `pattern` and `format` are left to whom they matter.

use std::sync::LazyLock;

use serde_json::Value;
use state::spec::parse::FieldError;

/// The document, as it is served.
pub(crate) const OPENAPI: &str = include_str!("../openapi.json");
/// Faults that are told. Whoever sends another kind of document needs not hear of it ten thousand times.
const FAULTS_MAX: usize = 100;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(OPENAPI).expect("openapi.json is JSON"));

/// Every fault of `body` (of a hundred), as a `name` of `components/schemas`.
pub(super) fn faults(name: &str, body: &Value) -> Vec<FieldError> {
    let mut faults = Vec::new();
    check(&DOCUMENT["components"]["schemas"][name], body, "", &mut faults);
    faults.truncate(FAULTS_MAX);
    faults
}

fn check(schema: &Value, value: &Value, at: &str, faults: &mut Vec<FieldError>) {
    if faults.len() >= FAULTS_MAX {
        return;
    }
    if let Some(there) = schema["$ref"].as_str() {
        let there = there.strip_prefix('#').and_then(|pointer| DOCUMENT.pointer(pointer));
        return check(there.expect("a $ref of openapi.json leads somewhere"), value, at, faults);
    }
    if let Some(message) = mismatch(schema, value) {
        return faults.push(FieldError { field: at.to_owned(), message });
    }
    match value {
        Value::Object(fields) => {
            for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                if !fields.contains_key(name) {
                    faults.push(FieldError { field: join(at, name), message: "is required".to_owned() });
                }
            }
            for (name, value) in fields {
                let known = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
                match known {
                    Some(Value::Bool(false)) => {
                        faults.push(FieldError { field: join(at, name), message: "is an unknown field".to_owned() });
                    }
                    Some(schema) => check(schema, value, &join(at, name), faults),
                    None => {}
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{at}[{index}]"), faults);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn join(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

/// Why the value itself, whatever is in it, is not one of the schema.
fn mismatch(schema: &Value, value: &Value) -> Option<String> {
    let (one, several) = (schema["type"].as_str(), schema["type"].as_array());
    let types: Vec<_> = one.into_iter().chain(several.into_iter().flatten().filter_map(Value::as_str)).collect();
    if !types.is_empty() && !types.iter().any(|name| is(name, value)) {
        return Some(format!("must be {}", types.join(" or ")));
    }
    if let Some(words) = schema["enum"].as_array().filter(|words| !words.contains(value)) {
        let words: Vec<_> = words.iter().map(ToString::to_string).collect();
        return Some(format!("must be one of {}", words.join(", ")));
    }
    let (size, unit) = match value {
        Value::Number(number) => (number.as_f64(), ""),
        Value::String(text) => (Some(count(text.chars().count())), " characters"),
        Value::Array(items) => (Some(count(items.len())), " items"),
        Value::Object(fields) => (Some(count(fields.len())), " fields"),
        Value::Null | Value::Bool(_) => (None, ""),
    };
    let (least, most) = match value {
        Value::String(_) => ("minLength", "maxLength"),
        Value::Array(_) => ("minItems", "maxItems"),
        Value::Object(_) => ("minProperties", "maxProperties"),
        Value::Null | Value::Bool(_) | Value::Number(_) => ("minimum", "maximum"),
    };
    let size = size?;
    if let Some(least) = schema[least].as_f64().filter(|least| size < *least) {
        return Some(format!("must be {least}{unit} or more"));
    }
    schema[most].as_f64().filter(|most| size > *most).map(|most| format!("must be {most}{unit} or less"))
}

/// Sizes here are bounded by the body, far below what a float counts exactly.
fn count(size: usize) -> f64 {
    u32::try_from(size).map_or(f64::INFINITY, f64::from)
}

fn is(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        _ => value.is_object(),
    }
}
