//! Requests and answers held against the OpenAPI document of the CHaS API, by somebody else's JSON Schema validator.

use std::sync::LazyLock;

use axum::http::HeaderMap;
use serde_json::{Value, json};

/// What the example server serves.
pub(crate) static OPENAPI: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../examples/chas-api/openapi.json")).unwrap()
});

/// What `value` has against `schema`, which may refer into the document. Empty: nothing.
pub(crate) fn faults(schema: &Value, value: &Value) -> Vec<String> {
    let schema = json!({"components": OPENAPI["components"], "allOf": [schema]});
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

/// What is behind a reference, or the thing itself.
fn resolved(value: &Value) -> &Value {
    value["$ref"].as_str().map_or(value, |there| {
        OPENAPI.pointer(there.trim_start_matches('#')).unwrap()
    })
}

/// A method and path of the document, as in `get /nodes`.
pub(crate) struct Call {
    path: &'static Value,
    operation: &'static Value,
    name: String,
}

impl Call {
    /// The call that `method` at `path` is: the one with the fewest parameters that fits.
    #[track_caller]
    pub(crate) fn find(method: &str, path: &str) -> Self {
        let path = path.split('?').next().unwrap();
        let parts: Vec<_> = path.split('/').collect();
        let fits = |pattern: &&String| {
            let pattern: Vec<_> = pattern.split('/').collect();
            pattern.len() == parts.len()
                && pattern
                    .iter()
                    .zip(&parts)
                    .all(|(like, part)| like.starts_with('{') || like == part)
        };
        let patterns = OPENAPI["paths"].as_object().unwrap().keys().filter(fits);
        let pattern = patterns.min_by_key(|pattern| pattern.matches('{').count());
        let pattern = pattern.unwrap_or_else(|| panic!("the document has no {path}"));
        let (path, method) = (&OPENAPI["paths"][pattern], method.to_lowercase());
        let operation = path
            .get(&method)
            .unwrap_or_else(|| panic!("the document has no {method} {pattern}"));
        Self {
            path,
            operation,
            name: format!("{method} {pattern}"),
        }
    }

    /// What is wrong with sending this. Headers that are not in the document mean nothing here.
    pub(crate) fn request_faults(&self, headers: &HeaderMap, body: Option<&Value>) -> Vec<String> {
        let parameters = [&self.path["parameters"], &self.operation["parameters"]];
        let parameters = parameters
            .into_iter()
            .filter_map(Value::as_array)
            .flatten()
            .map(resolved);
        let mut found: Vec<_> = parameters
            .filter(|parameter| parameter["in"] == "header")
            .flat_map(|header| header_faults(header["name"].as_str().unwrap(), header, headers))
            .collect();
        match (self.operation.get("requestBody"), body) {
            (None, Some(_)) => found.push("it takes no body".to_owned()),
            (Some(expected), None) if expected["required"] == true => {
                found.push("it needs a body".to_owned());
            }
            (Some(expected), Some(body)) => found.extend(faults(
                &expected["content"]["application/json"]["schema"],
                body,
            )),
            (_, None) => {}
        }
        found
    }

    /// Answers must be as the document says.
    #[track_caller]
    pub(crate) fn check_response(&self, status: u16, headers: &HeaderMap, body: &[u8]) {
        let Self {
            operation, name, ..
        } = self;
        let shown = String::from_utf8_lossy(body);
        let expected = operation["responses"].get(status.to_string());
        let expected = resolved(
            expected.unwrap_or_else(|| panic!("{name} does not answer {status}: {shown}")),
        );
        for (header, expected) in expected["headers"].as_object().into_iter().flatten() {
            let found = header_faults(header, resolved(expected), headers);
            assert!(found.is_empty(), "{name}, {status}: {found:?}");
        }
        let Some(content) = expected["content"].as_object() else {
            return assert!(
                body.is_empty(),
                "{name} answers {status} without a body: {shown}"
            );
        };
        let kind = headers["content-type"]
            .to_str()
            .unwrap()
            .split(';')
            .next()
            .unwrap();
        let expected = content
            .get(kind)
            .unwrap_or_else(|| panic!("{name} does not answer {status} with {kind}"));
        let value = if kind.ends_with("json") {
            serde_json::from_slice(body).unwrap()
        } else {
            json!(shown)
        };
        let found = faults(&expected["schema"], &value);
        assert!(found.is_empty(), "{name}, {status}: {found:#?}\n{shown}");
        if kind == "application/problem+json" {
            assert_eq!(value["status"], status, "{name}");
        }
    }
}

fn header_faults(name: &str, expected: &Value, headers: &HeaderMap) -> Vec<String> {
    match headers.get(name) {
        Some(value) => faults(&expected["schema"], &json!(value.to_str().unwrap())),
        None if expected["required"] == true => vec![format!("{name} is required")],
        None => Vec::new(),
    }
}
