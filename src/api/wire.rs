//! Containers and plans as JSON, and JSON from a body.

use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use serde_json::{Value, json};
use state::desired::Record;

use super::error::Problem;
use super::{Action, Course, View};

/// RFC 3339 in UTC, to the millisecond.
pub(super) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// A request's body.
pub(super) fn body(body: Result<Bytes, BytesRejection>) -> Result<Value, Problem> {
    let body = body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::TooLarge,
        _ => Problem::Request(error.body_text()),
    })?;
    serde_json::from_slice(&body)
        .map_err(|error| Problem::Request(format!("the body is not JSON: {error}")))
}

/// What would be done for one container.
pub(super) fn course(course: &Course) -> Value {
    json!({"id": course.id, "name": course.name, "steps": course.steps.iter().map(action).collect::<Vec<Value>>()})
}

/// One step that would be done.
pub(super) fn action(action: &Action) -> Value {
    let instance = action.instance.map(|instance| instance.to_string());
    let mut shown = json!({"action": action.word, "instance": instance, "why": action.why});
    if let Some(until) = action.until {
        shown["until"] = json!(time(until));
    }
    shown
}

/// What the list shows.
pub(super) fn short(view: &View) -> Value {
    let condition = &view.condition;
    let mut shown = match (&view.record, &view.foreign) {
        (Some(record), _) => own(record),
        (None, Some((id, image))) => {
            json!({"id": id, "name": id, "image": image, "ports": [], "owner": "unmanaged"})
        }
        (None, None) => json!({}),
    };
    shown["status"] = json!(condition.status);
    shown["reason"] = json!(condition.reason);
    shown["message"] = json!(condition.message);
    shown["next_attempt"] = json!(view.next_attempt.map(time));
    shown["restart_count"] = json!(view.restart_count);
    shown["exit_code"] = json!(view.exit_code);
    shown["started"] = json!(view.started.map(time));
    shown["finished"] = json!(view.finished.map(time));
    if let Some((fetched, total)) = view.pull {
        shown["pull"] = json!({"fetched_bytes": fetched, "total_bytes": total});
    }
    shown
}

/// What a look at one container shows: the list's fields and the specification.
pub(super) fn whole(view: &View) -> Value {
    let mut shown = short(view);
    if let Some(record) = &view.record {
        shown["spec"] = spec(record);
        shown["spec_hash"] = json!(record.spec_hash);
        shown["applied_generation"] = json!(view.applied_generation);
    }
    shown
}

fn own(record: &Record) -> Value {
    let ports: Vec<_> = record
        .assignment
        .ports
        .iter()
        .map(|port| json!({"host": port.host, "container": port.container, "protocol": port.protocol, "host_ip": port.host_ip}))
        .collect();
    json!({
        "id": record.id, "name": record.name, "image": record.spec.image.to_string(), "ports": ports, "owner": record.owner,
        "generation": record.generation, "revision": record.revision, "image_digest": record.image_digest,
        "created": time(SystemTime::UNIX_EPOCH + Duration::from_millis(record.created_ms)),
        "ip": record.assignment.address, "labels": record.spec.labels,
    })
}

/// The specification in the words of the deploy body.
pub(super) fn spec(record: &Record) -> Value {
    state::spec::body::of(record)
}
