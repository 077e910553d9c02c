//! Checks of bodies against `openapi.json`, so that the document and the server cannot differ.
//! Bodies of nodes may have more members than the document, since nodes may be newer than the
//! server.
//!
//! Only the keywords that request bodies in the document use are supported; `pattern` and `format`
//! are checked elsewhere.

use std::fmt;
use std::sync::LazyLock;

use serde_json::Value;
use state::spec::parse::FieldError;

/// The document, as it is served.
pub(crate) const OPENAPI: &str = include_str!("../openapi.json");
/// Most errors of one body: a body of another kind would have thousands.
const ERRORS_MAX: usize = 100;

/// `components/schemas`, with each reference replaced by its target.
static SCHEMAS: LazyLock<Value> = LazyLock::new(|| {
    let document: Value = serde_json::from_str(OPENAPI).expect("openapi.json is JSON");
    resolved(&document["components"]["schemas"], &document)
});

fn resolved(schema: &Value, document: &Value) -> Value {
    match schema {
        Value::Object(fields) => match fields.get("$ref").and_then(Value::as_str) {
            // The agent's own parser reads it, and says more.
            Some("#/components/schemas/DeployBody") => Value::Object(serde_json::Map::new()),
            Some(there) => {
                let there = there
                    .strip_prefix('#')
                    .and_then(|pointer| document.pointer(pointer));
                resolved(
                    there.expect("every $ref of openapi.json has a target"),
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

/// Errors of `body` under the schema `name`, at most a hundred. With `closed`, a member that the
/// schema does not list is an error, also where the schema permits it.
pub(super) fn errors(name: &str, body: &Value, closed: bool) -> Vec<FieldError> {
    let mut check = SchemaCheck {
        closed,
        errors: Vec::new(),
    };
    check.check(&SCHEMAS[name], body, &BodyPath::Body);
    check.errors.truncate(ERRORS_MAX);
    check.errors
}

/// The path to a value in its body, formatted for an error only.
enum BodyPath<'a> {
    Body,
    Field(&'a BodyPath<'a>, &'a str),
    Item(&'a BodyPath<'a>, usize),
}

impl fmt::Display for BodyPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body => Ok(()),
            Self::Field(Self::Body, name) => f.write_str(name),
            Self::Field(of, name) => write!(f, "{of}.{name}"),
            Self::Item(of, index) => write!(f, "{of}[{index}]"),
        }
    }
}

struct SchemaCheck {
    closed: bool,
    errors: Vec<FieldError>,
}

impl SchemaCheck {
    fn error(&mut self, at: &BodyPath<'_>, message: impl Into<String>) {
        self.errors.push(FieldError {
            field: at.to_string(),
            message: message.into(),
        });
    }

    fn check(&mut self, schema: &Value, value: &Value, at: &BodyPath<'_>) {
        if self.errors.len() >= ERRORS_MAX {
            return;
        }
        if let Some(message) = mismatch(schema, value) {
            return self.error(at, message);
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
                        self.error(&BodyPath::Field(at, name), "is required");
                    }
                }
                let others = schema.get("additionalProperties");
                let closed = self.closed && schema.get("properties").is_some();
                for (name, value) in fields {
                    match schema["properties"].get(name).or(others) {
                        Some(Value::Bool(false)) => {
                            self.error(&BodyPath::Field(at, name), "is an unknown field");
                        }
                        Some(schema) => self.check(schema, value, &BodyPath::Field(at, name)),
                        None if closed => {
                            self.error(&BodyPath::Field(at, name), "is not in the document");
                        }
                        None => {}
                    }
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.check(&schema["items"], item, &BodyPath::Item(at, index));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

/// The reason why a value, apart from its members, does not match the schema.
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

/// A size as a float, which is exact: sizes are bounded by the body.
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
