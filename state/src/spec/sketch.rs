//! Sketches of bodies: the JSON Schema of a body, learned from the parser that reads it.
//!
//! There is no list of fields beside the parser. It is run over a body without members, in which each
//! field that it asks for is noted; and a field is read from a [probe](is_probe), at which what reads
//! it answers, in place of a fault, the schema of what it takes. Its words are those of the fault that
//! a strange text gets.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

/// The probe, told by its address: no caller can send it.
static PROBE: Value = Value::Null;
/// A text that means nothing to any field.
static STRANGE: LazyLock<Value> = LazyLock::new(|| json!("\u{1}"));
/// Beginning of an error text that holds a schema.
const MARK: char = '\0';
/// Faults that say no more than the schema does.
const EMPTY_WORDS: [&str; 4] = [
    "must be a string",
    "must be an array",
    "must be an object",
    "must be true or false",
];

/// Fields of an object that were asked for.
#[derive(Debug, Default)]
pub(super) struct Sketch {
    properties: Map<String, Value>,
    required: Vec<&'static str>,
}

impl Sketch {
    /// Notes a member; one that was noted before is of either kind.
    pub(super) fn note(&mut self, key: &'static str, schema: Value) {
        let schema = match self.properties.remove(key) {
            Some(before) => json!({"anyOf": [before, schema]}),
            None => schema,
        };
        self.properties.insert(key.to_owned(), schema);
    }

    /// Notes that a member must be there.
    pub(super) fn require(&mut self, key: &'static str) {
        self.required.push(key);
    }

    /// Schema of the object. `null` means the same as leaving a member out.
    pub(super) fn schema(self) -> Value {
        let Self {
            properties,
            required,
        } = self;
        let members = properties.into_iter().map(|(key, schema)| {
            let is_required = required.contains(&key.as_str());
            (
                key,
                if is_required {
                    schema
                } else {
                    nullable(schema)
                },
            )
        });
        let members: Map<_, _> = members.collect();
        let mut schema =
            json!({"type": "object", "properties": members, "additionalProperties": false});
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        schema
    }
}

/// Whether a value is the probe, at which a schema is answered.
fn is_probe(value: &Value) -> bool {
    std::ptr::eq(value, &raw const PROBE)
}

/// Fault of a value; where that is the probe, the schema of what is read instead.
pub(super) fn fault(
    value: &Value,
    schema: impl FnOnce() -> Value,
    message: impl FnOnce() -> String,
) -> String {
    if is_probe(value) {
        format!("{MARK}{}", schema())
    } else {
        message()
    }
}

/// Schema of what a function reads.
pub(super) fn learned<'a, T>(read: impl Fn(&'a Value) -> Result<T, String>) -> Value {
    let answer = read(&PROBE).err();
    let schema = answer.as_deref().and_then(|text| text.strip_prefix(MARK));
    let schema = schema.and_then(|text| serde_json::from_str(text).ok());
    let mut schema: Value = schema.unwrap_or_else(|| json!({}));
    let words = read(&STRANGE).err();
    if let Some(full) = words.filter(|words| !EMPTY_WORDS.contains(&words.as_str())) {
        // A fault that names its text does not name what it must be.
        let words = full.strip_prefix("\"\\u{1}\" is not ");
        schema["description"] =
            json!(words.map_or_else(|| full.clone(), |rest| format!("must be {rest}")));
    }
    schema
}

/// The same schema, or null.
#[must_use]
pub fn nullable(mut schema: Value) -> Value {
    if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        words.push(Value::Null);
    }
    if let Some(kinds) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        kinds.push(json!({"type": "null"}));
        return schema;
    }
    match schema.get_mut("type") {
        Some(Value::Array(kinds)) => kinds.push(json!("null")),
        Some(kind) => *kind = json!([kind, "null"]),
        None => return json!({"anyOf": [schema, {"type": "null"}]}),
    }
    schema
}
