//! Bodies of answers as JSON Schemas, read from the table `answers.txt`, which says how.

use serde_json::{Map, Value, json};
use state::spec::schema::nullable;
use state::status::Status;

const TABLE: &str = include_str!("answers.txt");

/// Schemas of the table, by name.
pub(super) fn schemas() -> Map<String, Value> {
    let mut schemas = Map::new();
    for block in TABLE.split("\n\n") {
        let mut lines = block.lines().filter(|line| !line.starts_with('#'));
        let Some((name, words)) = lines.next().map(first) else {
            continue;
        };
        let mut schema = json!({"type": "object", "properties": {}, "required": []});
        if !words.is_empty() {
            schema["description"] = json!(words);
        }
        for line in lines {
            member(line, &mut schema, &schemas);
        }
        schemas.insert(name.to_owned(), schema);
    }
    schemas
}

/// Adds the member of a line to a schema.
fn member(line: &str, schema: &mut Value, before: &Map<String, Value>) {
    if line == "..." {
        schema["additionalProperties"] = json!(true);
        return;
    }
    let (name, rest) = first(line);
    let (kind, words) = first(rest);
    if name == "+" {
        schema["properties"] = before[kind]["properties"].clone();
        schema["required"] = before[kind]["required"].clone();
        return;
    }
    let mut shown = self::kind(kind);
    if !words.is_empty() {
        shown["description"] = json!(words);
    }
    let optional = name.strip_suffix('?');
    schema["properties"][optional.unwrap_or(name)] = shown;
    if optional.is_none()
        && let Some(required) = schema["required"].as_array_mut()
    {
        required.push(json!(name));
    }
}

/// Schema of a type as the table writes it.
fn kind(text: &str) -> Value {
    if let Some(inner) = text.strip_suffix("|null") {
        return nullable(kind(inner));
    }
    if let Some((one, other)) = text.split_once('|') {
        return json!({"anyOf": [kind(one), kind(other)]});
    }
    if let Some(item) = text.strip_suffix("[]") {
        return json!({"type": "array", "items": kind(item)});
    }
    if let Some(member) = text.strip_suffix("{}") {
        return json!({"type": "object", "additionalProperties": kind(member)});
    }
    if let Some(words) = text.strip_prefix('=') {
        return json!({"type": "string", "enum": words.split(',').collect::<Vec<_>>()});
    }
    match text {
        "text" => json!({"type": "string"}),
        "whole" => json!({"type": "integer", "format": "int64"}),
        "number" => json!({"type": "number"}),
        "flag" => json!({"type": "boolean"}),
        "time" => json!({"type": "string", "format": "date-time"}),
        "any" => json!({}),
        "@status" => json!({"type": "string", "enum": Status::ALL}),
        name => json!({"$ref": format!("#/components/schemas/{name}")}),
    }
}

/// The first word of a line, and the rest.
fn first(line: &str) -> (&str, &str) {
    line.split_once(' ').unwrap_or((line, ""))
}
