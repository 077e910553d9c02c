//! The document of the API: its own form, and its agreement with routes, problems and answers.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use axum::http::Method;
use serde_json::{Value, json};

use super::{Answer, Fake, ask, get};
use crate::api::error::ProblemKind;
use crate::api::openapi::made;
use crate::api::rights::routes;

#[path = "../../../tests/support/openapi.rs"]
mod contract;

use contract::{GivenAnswer, META, OpenApi};

static DOCUMENT: LazyLock<OpenApi> = LazyLock::new(|| OpenApi::new(made::<Fake>()));

/// Holds an answer against the document.
pub(super) fn check(method: &Method, path: &str, answer: &Answer) {
    let kind = answer.headers.get("content-type");
    let kind = kind.map_or("", |kind| kind.to_str().unwrap());
    let fault = DOCUMENT.fault(&GivenAnswer {
        method: method.as_str(),
        path,
        status: answer.status,
        kind,
        body: answer.text.as_bytes(),
    });
    assert_eq!(fault, None);
    let told = DOCUMENT.operation(method.as_str(), path);
    let told = told.map_or(&Value::Null, |told| {
        &told["responses"][answer.status.to_string()]
    });
    for name in ["ETag", "Retry-After"] {
        let is_told = told["headers"][name].is_object() || told.is_null();
        assert!(
            is_told || !answer.headers.contains_key(name),
            "{method} {path}: {name}"
        );
    }
    // Of a HEAD there is none to see.
    if kind.ends_with("json") && method != Method::HEAD {
        assert!(answer.text.ends_with("}\n"), "{method} {path}: no line");
    }
}

#[tokio::test]
async fn json_is_a_line_of_the_length_that_is_said_also_to_who_asks_for_the_head_alone() {
    let node = Fake::with(Vec::new()).into();
    for path in [
        "/containers",
        "/containers/none",
        "/openapi.json",
        "/version",
        "/none",
    ] {
        let whole = get(&node, path).await;
        assert!(whole.text.ends_with("}\n") && !whole.text.ends_with("\n\n"));
        let head = ask(&node, "HEAD", path, "").await;
        assert_eq!((head.status, &*head.text), (whole.status, ""), "{path}");
        let length = whole.text.len().to_string();
        for answer in [&whole, &head] {
            assert_eq!(answer.headers["content-length"], *length, "{path}");
            assert_eq!(
                answer.headers["content-type"],
                whole.headers["content-type"]
            );
        }
    }
}

#[test]
fn the_document_is_one_of_openapi_3_1_by_the_official_schema() {
    let meta: Value = serde_json::from_str(META).unwrap();
    let validator = jsonschema::draft202012::new(&meta).unwrap();
    let document = &DOCUMENT.document;
    let faults = validator.iter_errors(document);
    let faults: Vec<_> = faults
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert_eq!(faults, Vec::<String>::new());
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        assert!(jsonschema::draft202012::meta::is_valid(schema), "{name}");
    }
    let mut ids = BTreeSet::new();
    let mut names = BTreeSet::new();
    walk(document, &mut |value| {
        if let Some(id) = value["operationId"].as_str() {
            assert!(ids.insert(id.to_owned()), "{id} twice");
        }
        if let Some(there) = value["$ref"].as_str() {
            assert!(document.pointer(&there[1..]).is_some(), "{there}");
            names.extend(there.rsplit('/').next().map(ToOwned::to_owned));
        }
    });
    let known = document["components"]["schemas"]
        .as_object()
        .unwrap()
        .keys()
        .cloned();
    assert_eq!(names, known.collect(), "schemas that nothing refers to");
}

fn walk(value: &Value, see: &mut impl FnMut(&Value)) {
    see(value);
    match value {
        Value::Object(members) => members.values().for_each(|member| walk(member, see)),
        Value::Array(items) => items.iter().for_each(|item| walk(item, see)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_route_is_in_the_document_and_nothing_else() {
    let of_routes: BTreeSet<_> = routes::<Fake>()
        .iter()
        .map(|route| (route.path.to_owned(), route.method.as_str().to_lowercase()))
        .collect();
    let paths = DOCUMENT.document["paths"].as_object().unwrap();
    let of_document = paths.iter().flat_map(|(path, calls)| {
        let calls = calls.as_object().unwrap().keys();
        calls.map(move |call| (path.clone(), call.clone()))
    });
    assert_eq!(of_document.collect::<BTreeSet<_>>(), of_routes);
}

#[test]
fn every_kind_of_problem_is_an_answer_of_some_call_but_those_to_no_call() {
    let mut codes = BTreeSet::new();
    walk(&DOCUMENT.document["paths"], &mut |value| {
        let found = value["x-codes"].as_array().into_iter().flatten();
        codes.extend(found.filter_map(Value::as_str).map(ToOwned::to_owned));
    });
    for kind in ProblemKind::ALL {
        let is_to_no_call = matches!(
            kind,
            ProblemKind::NoSuchMethod | ProblemKind::ContainerFailed
        );
        assert_eq!(codes.contains(kind.code()), !is_to_no_call, "{kind:?}");
    }
}

#[tokio::test]
async fn the_document_is_served_to_whoever_asks() {
    let answer = get(&Fake::with(Vec::new()).into(), "/openapi.json").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), DOCUMENT.document);
    assert_eq!(answer.json()["openapi"], json!("3.1.1"));
}
