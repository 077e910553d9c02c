//! What nodes call, but for the poll: `POST /nodes/register` and `PUT /nodes/{node_id}/health`.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use state::spec::parse::FieldError;

use super::body::{BODY_BYTES_MAX, NodeId, answer, json, name_fault};
use super::nodes::{Registration, Report};
use super::problem::Problem;
use super::tokens::{self, Registering};
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
        Registering::Known(owner) if owner != id => return Err(tokens::foreign(&owner)),
        Registering::Known(_) | Registering::Open => None,
        Registering::Joining => Some(tokens::new()),
    };
    let (hash, now_ms) = (token.as_deref().map(tokens::hash), server.now_ms());
    let size = server.nodes_mut().register(registration, hash, now_ms, server.silence_ms())?;
    server.unsaved.store(true, Ordering::Relaxed);
    tracing::debug!(node = id, size, "registered");
    let mut welcome = json!({
        "poll_after_s": server.settings.poll_after.as_secs(),
        "health_after_s": server.settings.health_after.as_secs(),
        "cluster_size": size,
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
    let report = Arc::new(Report { summary: read("Report", &body)?, sent });
    let now_ms = server.now_ms();
    server.nodes_mut().report(&id, report, now_ms)?;
    server.unsaved_reports.store(true, Ordering::Relaxed);
    let wish = server.wanted().wish(&id);
    Ok(answer(wish.map_or_else(|| "{}".to_owned(), |wish| format!("{{\"desired_generation\":{}}}", wish.generation))))
}

/// Reads what the document calls `name`, or tells every fault.
fn read<T: DeserializeOwned>(name: &str, body: &Value) -> Result<T, Problem> {
    let faults = schema::faults(name, body);
    if faults.is_empty() {
        T::deserialize(body).map_err(|error| Problem::fault("", error.to_string()))
    } else {
        Err(Problem::Invalid(faults))
    }
}

fn registration(body: &Value) -> Result<Registration, Problem> {
    let mut faults = schema::faults("Registration", body);
    let mut fault = |field: &str, message: String| {
        if faults.iter().all(|fault: &FieldError| fault.field != field) {
            faults.push(FieldError { field: field.to_owned(), message });
        }
    };
    if let Some(message) = body["node_id"].as_str().and_then(name_fault) {
        fault("node_id", message);
    }
    if body["ip_address"].as_str().is_some_and(|address| address.parse::<IpAddr>().is_err()) {
        fault("ip_address", "must be an IP address".to_owned());
    }
    if faults.is_empty() { read("Registration", body) } else { Err(Problem::Invalid(faults)) }
}
