//! The OpenAPI 3.1 document of this API, made of the table of routes, the table of problems, the
//! table of answers and the fields of the bodies that the parsers read.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use axum::body::Bytes;
use serde_json::{Value, json};
use state::reason::Reason;

use super::NodeApi;
use super::answer::line;
use super::error::ProblemKind;
use super::operation::{AnswerBody, Operation, Parameter, ParameterKind, TakenBody};
use super::operations;
use super::rights::{ApiRoute, Right, routes};

mod shapes;

const WORDS: &str = "API of the agent that keeps a node's containers running. Every path is also \
    served under `/v1`. Errors are RFC 9457 problems; programs read their `code`, and `x-codes` of \
    an answer lists those that it may have. Answers and their words may become more: programs pass \
    over what they do not know. On the agent's unix socket root needs no token.";

/// Header that every operation takes.
const REQUEST_ID: Parameter = Parameter {
    name: "X-Request-Id",
    kind: ParameterKind::Text,
    words: "Id of the request in log, events and audit: 1 to 64 letters, digits, -, _, .; any other is \
        replaced",
};

/// Bodies that come with an `ETag`.
const TAGGED: [&str; 3] = ["ContainerDetail", "DesiredSet", "SetChange"];

/// The document, made once.
static DOCUMENT: OnceLock<Bytes> = OnceLock::new();

/// Text of the document.
pub(super) fn text<N: NodeApi>() -> Bytes {
    DOCUMENT.get_or_init(|| line(&made::<N>())).clone()
}

/// The document.
pub(super) fn made<N: NodeApi>() -> Value {
    let mut paths: BTreeMap<&str, Value> = BTreeMap::new();
    for route in routes::<N>() {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_lowercase()] = operation(&route);
    }
    let mut schemas = shapes::schemas();
    schemas.extend(state::spec::schema::bodies());
    schemas.insert("Document".to_owned(), json!({"type": "object"}));
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "CHaS node agent", "version": "1", "description": WORDS,
            "license": {"name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE")},
        },
        "servers": [{"url": "/"}, {"url": "/v1"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "The node's token, or a client's. Each call lists the least role that it needs: read, deploy, exec, admin"},
            },
        },
    })
}

fn operation<N: NodeApi>(route: &ApiRoute<N>) -> Value {
    let told = route.operation;
    // The one path whose last word is fixed, and may be a container's name nevertheless.
    let is_name = route.path == "/containers/deploy" && told.id != operations::DEPLOY.id;
    let id = format!("{}{}", told.id, if is_name { "NamedDeploy" } else { "" });
    let mut shown =
        json!({"operationId": id, "summary": told.summary, "responses": responses(route)});
    shown["security"] = match route.right {
        Right::Open => json!([]),
        Right::Of(role) => {
            shown["description"] = json!(format!("Needs the role `{role}`."));
            json!([{"token": [role.as_str()]}])
        }
    };
    let path = route
        .path
        .split('{')
        .skip(1)
        .filter_map(|part| part.split('}').next());
    let path = path.map(|name| {
        let words = match name {
            "id" => "Name or id of a container; to read, also the beginning of an id, four digits or more",
            _ => "Name",
        };
        json!({"name": name, "in": "path", "required": true, "description": words, "schema": {"type": "string"}})
    });
    let query = told.query.iter().map(|one| parameter(one, "query"));
    let headers = told.headers.iter().chain([&REQUEST_ID]);
    let headers = headers.map(|one| parameter(one, "header"));
    let parameters: Vec<_> = path.chain(query).chain(headers).collect();
    if !parameters.is_empty() {
        shown["parameters"] = json!(parameters);
    }
    if let Some(content) = taken(told.body) {
        shown["requestBody"] = json!({"required": true, "content": content});
    }
    shown
}

fn parameter(parameter: &Parameter, place: &str) -> Value {
    let Parameter { name, kind, words } = parameter;
    let mut shown = json!({"name": name, "in": place, "description": words});
    shown["schema"] = match kind {
        ParameterKind::Flag => json!({"type": "boolean"}),
        ParameterKind::Whole => json!({"type": "integer", "format": "int64", "minimum": 0}),
        ParameterKind::Text | ParameterKind::Required => json!({"type": "string"}),
        ParameterKind::Texts => json!({"type": "array", "items": {"type": "string"}}),
        ParameterKind::Word(words) => json!({"type": "string", "enum": words}),
        ParameterKind::Words(words) => {
            shown["explode"] = json!(false);
            json!({"type": "array", "items": {"type": "string", "enum": words}})
        }
    };
    if let ParameterKind::Required = kind {
        shown["required"] = json!(true);
    }
    shown
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn taken(body: TakenBody) -> Option<Value> {
    let schema = |name| json!({"schema": reference(name)});
    Some(match body {
        TakenBody::None => return None,
        TakenBody::Json(name) => json!({"application/json": schema(name)}),
        TakenBody::Bytes(name) => {
            json!({"application/json": schema(name), "application/octet-stream": bytes()})
        }
        TakenBody::Tar => json!({"application/x-tar": bytes()}),
    })
}

fn responses<N: NodeApi>(route: &ApiRoute<N>) -> Value {
    let mut responses: BTreeMap<String, Value> = BTreeMap::new();
    for (status, content) in route.operation.answers {
        let shown = responses.entry(status.to_string()).or_insert_with(|| {
            json!({"description": if *status == 202 { "Stored, and to be done" } else { "Done" }})
        });
        if is_tagged(*status, *content) {
            let words = "Tag of what is shown, for If-Match and If-None-Match";
            shown["headers"]["ETag"] = json!({"description": words, "schema": plain()});
        }
        match content {
            AnswerBody::None => {}
            AnswerBody::Json([one]) => {
                shown["content"]["application/json"]["schema"] = reference(one);
            }
            AnswerBody::Json(some) => {
                let some: Vec<_> = some.iter().map(|name| reference(name)).collect();
                shown["content"]["application/json"]["schema"]["anyOf"] = json!(some);
            }
            AnswerBody::Lines(name) => {
                shown["content"]["application/x-ndjson"]["schema"] = reference(name);
            }
            AnswerBody::Events => shown["content"]["text/event-stream"]["schema"] = plain(),
            AnswerBody::Html => shown["content"]["text/html"]["schema"] = plain(),
            AnswerBody::OpenMetrics => {
                shown["content"]["application/openmetrics-text"]["schema"] = plain();
            }
            AnswerBody::Text => shown["content"]["text/plain"]["schema"] = plain(),
            AnswerBody::Tar => shown["content"]["application/x-tar"] = bytes(),
        }
    }
    let mut codes: BTreeMap<u16, Vec<ProblemKind>> = BTreeMap::new();
    for kind in problems(route) {
        codes.entry(kind.status().as_u16()).or_default().push(kind);
    }
    for (status, kinds) in codes {
        let words: Vec<_> = kinds
            .iter()
            .map(|kind| format!("`{}`: {}", kind.code(), kind.title()))
            .collect();
        let shown = responses
            .entry(status.to_string())
            .or_insert_with(|| json!({}));
        shown["description"] = json!(words.join("; "));
        shown["content"]["application/problem+json"]["schema"] = reference("Problem");
        if status == 429 {
            let words = "Seconds after which to ask again";
            let schema = json!({"type": "integer", "minimum": 1});
            shown["headers"]["Retry-After"] = json!({"description": words, "schema": schema});
        }
        shown["x-codes"] = kinds.iter().flat_map(|kind| words_of(*kind)).collect();
    }
    json!(responses)
}

fn is_tagged(status: u16, content: AnswerBody) -> bool {
    match content {
        AnswerBody::Json(names) => names.iter().any(|name| TAGGED.contains(name)),
        AnswerBody::None => status == 304,
        AnswerBody::Html => true,
        AnswerBody::Lines(_)
        | AnswerBody::Events
        | AnswerBody::Text
        | AnswerBody::OpenMetrics
        | AnswerBody::Tar => false,
    }
}

/// Words that the `code` of a problem may be.
fn words_of(kind: ProblemKind) -> Vec<&'static str> {
    if kind != ProblemKind::ContainerFailed {
        return vec![kind.code()];
    }
    Reason::ALL.iter().map(|reason| reason.as_str()).collect()
}

/// Bytes as they are, in the words that generators of clients know.
fn bytes() -> Value {
    json!({"schema": {"type": "string", "format": "binary"}})
}

fn plain() -> Value {
    json!({"type": "string"})
}

/// Problems of a route, each once, in the order of their table.
fn problems<N: NodeApi>(route: &ApiRoute<N>) -> Vec<ProblemKind> {
    use ProblemKind as Kind;
    let Operation {
        query,
        headers,
        body,
        problems,
        ..
    } = route.operation;
    let takes = |name| {
        query
            .iter()
            .chain(*headers)
            .any(|parameter| parameter.name == name)
    };
    let from = |holds: bool, kinds: &[Kind]| if holds { kinds.to_vec() } else { Vec::new() };
    let has_body = !matches!(body, TakenBody::None);
    let is_json = has_body && !matches!(body, TakenBody::Tar);
    let mut found = [
        problems.to_vec(),
        vec![
            Kind::InvalidRequest,
            Kind::BrowserRequest,
            Kind::ExpectationFailed,
            Kind::UnknownHost,
        ],
        vec![Kind::TooManyRequests, Kind::InternalError],
        from(
            route.right != Right::Open,
            &[Kind::Unauthorized, Kind::TooManyGuesses, Kind::RoleTooLow],
        ),
        from(route.path.contains('{'), &[Kind::NotFound]),
        from(
            route.path.contains("{id}"),
            &[Kind::Conflict, Kind::Unavailable],
        ),
        from(has_body, &[Kind::UnsupportedMediaType]),
        from(
            is_json,
            &[Kind::BodyTooLarge, Kind::BodyTooSlow, Kind::InvalidSpec],
        ),
        from(takes("timeout"), &[Kind::WaitTimedOut, Kind::NotFound]),
        from(takes("If-Match"), &[Kind::ChangedMeanwhile]),
        from(takes("Idempotency-Key"), &[Kind::IdempotencyKeyReused]),
        from(takes("reveal"), &[Kind::Unavailable]),
    ]
    .concat();
    found.sort_unstable();
    found.dedup();
    found
}
