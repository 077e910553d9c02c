//! Calls of nodes, except for the poll: `POST /nodes/register` and `PUT /nodes/{node_id}/health`.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use state::spec::parse::FieldError;

use super::body::{BODY_BYTES_MAX, NodeId, answer, json, name_error};
use super::nodes::{Registration, ReportOutcome, StoredReport};
use super::problem::Problem;
use super::tokens::{self, RegistrationRight};
use super::{Server, schema};

pub(super) async fn register(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let registering = server.doors.registering(&headers, &server.nodes())?;
    let (_, body) = json(request, BODY_BYTES_MAX).await?;
    let registration = registration(&body)?;
    let id = registration.node_id.clone();
    let token = match registering {
        RegistrationRight::Known(owner) if owner != id => {
            return Err(tokens::of_another_node(&owner));
        }
        RegistrationRight::Known(_) | RegistrationRight::Open => None,
        RegistrationRight::Joining => Some(tokens::new()),
    };
    let (hash, now_ms) = (token.as_deref().map(tokens::hash), server.now_ms());
    let size = server
        .nodes_mut()
        .register(registration, hash, now_ms, server.silence_ms())?;
    server.unsaved.store(true, Ordering::Relaxed);
    tracing::debug!(node = id, size, "node registered");
    let mut welcome = json!({
        "poll_after_s": server.settings.poll_after.as_secs(),
        "health_after_s": server.settings.health_after.as_secs(),
        "cluster_size": size,
        "report_changes": true,
    });
    if let Some(token) = token {
        welcome["token"] = json!(token);
    }
    Ok(answer(welcome.to_string()))
}

pub(super) async fn report(
    State(server): State<Arc<Server>>,
    NodeId(id): NodeId,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    server.doors.acting(&headers, &server.nodes(), &id)?;
    let (sent, body) = json(request, BODY_BYTES_MAX).await?;
    let now_ms = server.now_ms();
    let heard = if body.get("unchanged").is_some() {
        let heartbeat = read("Heartbeat", &body)?;
        server.nodes_mut().heartbeat(&id, heartbeat, now_ms)?
    } else {
        // A copy, since the buffer of the connection is larger.
        let report = Arc::new(StoredReport {
            summary: read("Report", &body)?,
            sent: Bytes::copy_from_slice(&sent),
        });
        server.nodes_mut().report(&id, report, now_ms)?;
        ReportOutcome::Known
    };
    server.unsaved_reports.store(true, Ordering::Relaxed);
    let told = told(&server, &id, heard);
    Ok(if told.is_empty() {
        StatusCode::NO_CONTENT.into_response()
    } else {
        answer(Value::Object(told).to_string())
    })
}

/// The members of the answer to a report; mostly none.
fn told(server: &Server, id: &str, heard: ReportOutcome) -> Map<String, Value> {
    let mut told = Map::new();
    if let Some(generation) = server.wanted().wish(id).map(|wish| wish.generation)
        && !server
            .nodes()
            .get(id)
            .is_some_and(|node| node.has(server.disk.epoch(), generation))
    {
        told.insert("desired_generation".to_owned(), json!(generation));
        told.insert("desired_epoch".to_owned(), json!(server.disk.epoch()));
    }
    if heard == ReportOutcome::Unknown {
        told.insert("send_all".to_owned(), json!(true));
    }
    told
}

/// Parses a body under the schema `name`; otherwise, lists every error.
fn read<T: DeserializeOwned>(name: &str, body: &Value) -> Result<T, Problem> {
    let errors = schema::errors(name, body, false);
    if errors.is_empty() {
        T::deserialize(body).map_err(|error| Problem::field_error("", error.to_string()))
    } else {
        Err(Problem::Invalid(errors))
    }
}

fn registration(body: &Value) -> Result<Registration, Problem> {
    let mut errors = schema::errors("Registration", body, false);
    let mut add = |field: &str, message: String| {
        if errors.iter().all(|error: &FieldError| error.field != field) {
            errors.push(FieldError {
                field: field.to_owned(),
                message,
            });
        }
    };
    if let Some(message) = body["node_id"].as_str().and_then(name_error) {
        add("node_id", message);
    }
    if body["ip_address"]
        .as_str()
        .is_some_and(|address| address.parse::<IpAddr>().is_err())
    {
        add("ip_address", "must be an IP address".to_owned());
    }
    if errors.is_empty() {
        read("Registration", body)
    } else {
        Err(Problem::Invalid(errors))
    }
}
