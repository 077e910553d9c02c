//! Bodies held against `openapi.json`: what the document says of a body is what is refused here, so they cannot drift apart.
//! What nodes send may bear more than the document knows, for they may be newer than the server.
//!
//! It knows only the keywords that the document's request bodies use. `pattern` and `format` are left to whom they matter.

use std::fmt;
use std::sync::LazyLock;

use serde_json::Value;
use state::spec::parse::FieldError;

/// The document, as it is served.
pub(crate) const OPENAPI: &str = include_str!("../openapi.json");
/// Faults that are told. Whoever sends another kind of document needs not hear of it ten thousand times.
const FAULTS_MAX: usize = 100;

/// `components/schemas`, each with what its references lead to in their place.
static SCHEMAS: LazyLock<Value> = LazyLock::new(|| {
    let document: Value = serde_json::from_str(OPENAPI).expect("openapi.json is JSON");
    resolved(&document["components"]["schemas"], &document)
});

fn resolved(schema: &Value, document: &Value) -> Value {
    match schema {
        Value::Object(fields) => match fields.get("$ref").and_then(Value::as_str) {
            Some(there) => {
                let there = there
                    .strip_prefix('#')
                    .and_then(|pointer| document.pointer(pointer));
                resolved(
                    there.expect("a $ref of openapi.json leads somewhere"),
                    document,
                )
            }
            None => fields
                .iter()
                .map(|(name, value)| (name.clone(), resolved(value, document)))
                .collect(),
        },
        Value::Array(items) => items.iter().map(|item| resolved(item, document)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => schema.clone(),
    }
}

/// Every fault of `body` (of a hundred), as a `name` of `components/schemas`. With `closed`, a field that the document does not
/// know is one, also where it may be there.
pub(super) fn faults(name: &str, body: &Value, closed: bool) -> Vec<FieldError> {
    let mut look = Look {
        closed,
        faults: Vec::new(),
    };
    look.check(&SCHEMAS[name], body, &At::Body);
    look.faults.truncate(FAULTS_MAX);
    look.faults
}

/// Where a value stands in its body. It is written out for a fault only.
enum At<'a> {
    Body,
    Field(&'a At<'a>, &'a str),
    Item(&'a At<'a>, usize),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body => Ok(()),
            Self::Field(Self::Body, name) => f.write_str(name),
            Self::Field(of, name) => write!(f, "{of}.{name}"),
            Self::Item(of, index) => write!(f, "{of}[{index}]"),
        }
    }
}

struct Look {
    closed: bool,
    faults: Vec<FieldError>,
}

impl Look {
    fn fault(&mut self, at: &At<'_>, message: impl Into<String>) {
        self.faults.push(FieldError {
            field: at.to_string(),
            message: message.into(),
        });
    }

    fn check(&mut self, schema: &Value, value: &Value, at: &At<'_>) {
        if self.faults.len() >= FAULTS_MAX {
            return;
        }
        if let Some(message) = mismatch(schema, value) {
            return self.fault(at, message);
        }
        match value {
            Value::Object(fields) => {
                for name in schema["required"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                {
                    if !fields.contains_key(name) {
                        self.fault(&At::Field(at, name), "is required");
                    }
                }
                let others = schema.get("additionalProperties");
                let closed = self.closed && schema.get("properties").is_some();
                for (name, value) in fields {
                    match schema["properties"].get(name).or(others) {
                        Some(Value::Bool(false)) => {
                            self.fault(&At::Field(at, name), "is an unknown field");
                        }
                        Some(schema) => self.check(schema, value, &At::Field(at, name)),
                        None if closed => {
                            self.fault(&At::Field(at, name), "is not in the document");
                        }
                        None => {}
                    }
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.check(&schema["items"], item, &At::Item(at, index));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

/// Why the value itself, whatever is in it, is not one of the schema.
fn mismatch(schema: &Value, value: &Value) -> Option<String> {
    let (one, several) = (schema["type"].as_str(), schema["type"].as_array());
    let types = || {
        one.into_iter()
            .chain(several.into_iter().flatten().filter_map(Value::as_str))
    };
    if types().next().is_some() && !types().any(|name| is(name, value)) {
        return Some(format!(
            "must be {}",
            types().collect::<Vec<_>>().join(" or ")
        ));
    }
    if let Some(words) = schema["enum"]
        .as_array()
        .filter(|words| !words.contains(value))
    {
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
    schema[most]
        .as_f64()
        .filter(|most| size > *most)
        .map(|most| format!("must be {most}{unit} or less"))
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
