//! Answers held against an OpenAPI document, by somebody else's JSON Schema validator.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jsonschema::Validator;
use serde_json::{Value, json};

/// The official schema of OpenAPI 3.1 documents.
#[allow(dead_code, reason = "not all who check answers check the document")]
pub(crate) const META: &str = include_str!("openapi-3.1.json");

/// Answer to one request.
#[derive(Debug)]
pub(crate) struct GivenAnswer<'a> {
    pub(crate) method: &'a str,
    /// Path, also with a query.
    pub(crate) path: &'a str,
    pub(crate) status: u16,
    /// Its `Content-Type`; empty: none.
    pub(crate) kind: &'a str,
    pub(crate) body: &'a [u8],
}

/// A document, and the validators made of it so far.
#[derive(Debug)]
pub(crate) struct OpenApi {
    pub(crate) document: Value,
    /// Its schemas, in which an object has no other members than those that are listed.
    closed: Value,
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

impl OpenApi {
    pub(crate) fn new(document: Value) -> Self {
        let mut closed = json!({"schemas": document["components"]["schemas"]});
        close(&mut closed);
        Self {
            document,
            closed,
            validators: Mutex::default(),
        }
    }

    /// Faults of `value` by a schema. Empty: none.
    pub(crate) fn faults(&self, schema: &Value, value: &Value) -> Vec<String> {
        let validator = {
            let mut made = self
                .validators
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let make = || {
                let whole = json!({"components": self.closed, "allOf": [schema]});
                Arc::new(jsonschema::draft202012::new(&whole).unwrap())
            };
            Arc::clone(made.entry(schema.to_string()).or_insert_with(make))
        };
        let told =
            |error: jsonschema::ValidationError<'_>| format!("{}: {error}", error.instance_path());
        validator.iter_errors(value).map(told).collect()
    }

    /// The operation of a request: the path with the fewest parameters that fits.
    pub(crate) fn operation(&self, method: &str, path: &str) -> Option<&Value> {
        let path = path.split('?').next().unwrap_or_default();
        let bare = path
            .strip_prefix("/v1")
            .filter(|rest| rest.starts_with('/'));
        let parts: Vec<_> = bare.unwrap_or(path).split('/').collect();
        let fits = |like: &&String| {
            let like: Vec<_> = like.split('/').collect();
            like.len() == parts.len()
                && like
                    .iter()
                    .zip(&parts)
                    .all(|(like, part)| like == part || (like.starts_with('{') && !part.is_empty()))
        };
        let all = self.document["paths"].as_object()?;
        let found = all
            .keys()
            .filter(fits)
            .min_by_key(|like| like.matches('{').count())?;
        all[found].get(method.to_lowercase())
    }

    /// Fault of an answer by the document. A stream may have been cut anywhere but between bytes.
    pub(crate) fn fault(&self, answer: &GivenAnswer<'_>) -> Option<String> {
        let GivenAnswer {
            method,
            path,
            status,
            kind,
            body,
        } = answer;
        let text = String::from_utf8_lossy(body);
        let kind = kind.split(';').next().unwrap_or_default();
        let says = |what: &str| {
            Some(format!(
                "{method} {path} {status} {kind}: {what}: {text:.2000}"
            ))
        };
        let Some(operation) = self.operation(if *method == "HEAD" { "GET" } else { method }, path)
        else {
            return match status {
                404 | 405 | 400 | 401 | 403 | 413 | 417 | 421 | 429 | 500 => None,
                _ => says("the document has no such operation"),
            };
        };
        let Some(expected) = operation["responses"].get(status.to_string()) else {
            return says("the document has no such status");
        };
        if *method == "HEAD" {
            return None;
        }
        let Some(content) = expected["content"].as_object() else {
            return if body.is_empty() {
                None
            } else {
                says("the document has no body")
            };
        };
        let Some(expected_content) = content.get(kind) else {
            return says("the document has no such type");
        };
        let schema = &expected_content["schema"];
        let values: Vec<_> = match kind {
            "application/x-ndjson" => text
                .lines()
                .filter(|line| !line.is_empty())
                .map(parsed)
                .collect(),
            _ if kind.ends_with("json") => vec![parsed(&text)],
            _ => Vec::new(),
        };
        for value in values {
            let faults = self.faults(schema, &value);
            if !faults.is_empty() {
                return says(&faults.join("\n"));
            }
            let codes = expected["x-codes"].as_array();
            if kind == "application/problem+json"
                && !codes.is_some_and(|codes| codes.contains(&value["code"]))
            {
                return says("the document has no such code");
            }
        }
        None
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| json!(format!("no JSON: {error}")))
}

/// Has every object of a schema list all of its members.
fn close(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if members.contains_key("properties") && members.get("type") == Some(&json!("object")) {
                members
                    .entry("additionalProperties")
                    .or_insert(json!(false));
            }
            members.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
