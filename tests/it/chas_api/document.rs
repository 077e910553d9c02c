//! Tests of the OpenAPI document: its own form, and its agreement with the server.

use std::collections::BTreeSet;

use super::*;
use crate::contract::{OPENAPI, faults};

/// Keywords that the server's checks support, and those that do not constrain a body.
const KNOWN: [&str; 18] = [
    "$ref",
    "additionalProperties",
    "default",
    "description",
    "enum",
    "examples",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "properties",
    "required",
    "type",
];

/// Schema that the agent's parser is behind.
const DEPLOY_BODY: &str = "#/components/schemas/DeployBody";

fn keywords(schema: &Value, found: &mut BTreeSet<String>) {
    let Some(fields) = schema.as_object() else {
        return;
    };
    found.extend(fields.keys().cloned());
    if let Some(there) = schema["$ref"]
        .as_str()
        .filter(|there| *there != DEPLOY_BODY)
    {
        keywords(
            OPENAPI.pointer(there.trim_start_matches('#')).expect(there),
            found,
        );
    }
    for schema in schema["properties"]
        .as_object()
        .into_iter()
        .flat_map(|properties| properties.values())
    {
        keywords(schema, found);
    }
    keywords(&schema["items"], found);
    keywords(&schema["additionalProperties"], found);
}

#[test]
fn what_the_document_asks_of_a_body_is_what_the_server_can_check() {
    let mut found = BTreeSet::new();
    for name in ["Registration", "Report", "Heartbeat", "Set"] {
        keywords(&OPENAPI["components"]["schemas"][name], &mut found);
    }
    // A node's name is checked by itself.
    found.remove("pattern");
    let unknown: Vec<_> = found
        .iter()
        .filter(|keyword| !KNOWN.contains(&keyword.as_str()))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn the_deploy_body_is_the_one_that_the_agent_s_parser_reads() {
    let read = &state::spec::schema::bodies()["DeployBody"];
    let written = &OPENAPI["components"]["schemas"]["DeployBody"];
    assert_eq!(
        written, read,
        "GET /openapi.json of an agent has the one to be written here"
    );
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_one() {
    fn walk(value: &Value) {
        if let Some(there) = value["$ref"].as_str() {
            assert!(
                OPENAPI.pointer(there.trim_start_matches('#')).is_some(),
                "{there}"
            );
        }
        value
            .as_object()
            .into_iter()
            .flat_map(|fields| fields.values())
            .for_each(walk);
        value.as_array().into_iter().flatten().for_each(walk);
    }
    walk(&OPENAPI);
    for (name, schema) in OPENAPI["components"]["schemas"].as_object().unwrap() {
        assert!(jsonschema::draft202012::meta::is_valid(schema), "{name}");
    }
}

/// Variants of `value`, each changed in one place.
fn variants(value: &Value) -> Vec<Value> {
    let mut found: Vec<_> = [
        json!(null),
        json!("x"),
        json!(""),
        json!(-1),
        json!(1),
        json!(0.5),
        json!([]),
        json!({}),
        json!(true),
    ]
    .into();
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let change = |inner: Option<Value>| {
                    let mut fields = fields.clone();
                    match inner {
                        Some(inner) => fields.insert(name.clone(), inner),
                        None => fields.remove(name),
                    };
                    Value::Object(fields)
                };
                found.push(change(None));
                found.extend(variants(inner).into_iter().map(|inner| change(Some(inner))));
            }
            let mut more = fields.clone();
            more.insert("unheard_of".to_owned(), json!("x"));
            found.push(Value::Object(more));
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                found.extend(variants(inner).into_iter().map(|inner| {
                    let mut items = items.clone();
                    items[index] = inner;
                    Value::Array(items)
                }));
            }
            found.push(Value::Array([items.as_slice(), items].concat()));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    found
}

#[test]
fn the_server_refuses_what_the_document_refuses_and_nothing_else() {
    for (name, body) in [
        ("Registration", registration("n1", "a")),
        ("Report", report(1)),
        ("Heartbeat", heartbeat(2)),
        ("Set", set(&["a", "b"])),
    ] {
        let schema = json!({"$ref": format!("#/components/schemas/{name}")});
        assert_eq!(faults(&schema, &body), Vec::<String>::new());
        let variants = variants(&body);
        assert!(variants.len() > 20);
        // Building a validator is slow, and it is the same one: all variants are one document.
        let mut whole = json!({"components": OPENAPI["components"], "allOf": [schema]});
        // Deploy bodies are left to the parser of the agent.
        whole["components"]["schemas"]["DeployBody"] = json!({});
        let validator = jsonschema::draft202012::new(&whole).unwrap();
        for variant in variants {
            let refused = server::body_errors(name, &variant, false);
            // The one pattern is left to another check.
            let by_document: Vec<_> = validator
                .iter_errors(&variant)
                .filter(|error| !error.to_string().contains("does not match"))
                .collect();
            assert_eq!(
                refused.is_empty(),
                by_document.is_empty(),
                "{name}: {refused:?}, {by_document:?}\n{variant}"
            );
        }
    }
}

#[test]
fn what_nodes_send_may_bear_more_than_the_document_knows_and_is_found_where_that_is_asked() {
    let mut newer = report(1);
    newer["containers"][0]["weather"] = json!("fine");
    assert_eq!(server::body_errors("Report", &newer, false), []);
    let fields: Vec<_> = server::body_errors("Report", &newer, true)
        .into_iter()
        .map(|fault| fault.field)
        .collect();
    assert_eq!(fields, ["containers[0].weather"]);
    let mut set = set(&["a"]);
    set["weather"] = json!("fine");
    assert_eq!(server::body_errors("Set", &set, false).len(), 1);
}

#[tokio::test]
async fn the_document_is_served_and_what_is_not_in_it_is_a_problem() {
    let api = Running::start().await;
    assert_eq!(
        api.call("GET", "/openapi.json", "", None).await.body,
        *OPENAPI
    );
    for (method, path, expected) in [
        ("GET", "/nope", "not_found"),
        ("POST", "/nodes", "method_not_allowed"),
    ] {
        let request = api
            .http
            .request(method.parse().unwrap(), format!("{}{path}", api.base));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], expected);
        assert_eq!(
            faults(&json!({"$ref": "#/components/schemas/Problem"}), &problem),
            Vec::<String>::new()
        );
    }
    api.stop().await;
}
