//! The `Idempotency-Key` of a request (draft-ietf-httpapi-idempotency-key-header), and the answer
//! to a repeated request.

use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use state::desired::answer::{Answer, Outcome};
use state::digest::hex;
use state::ownership::answers::Key;

use super::error::Problem;

const HEADER: &str = "idempotency-key";

/// The request's key, if it has one.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<Key>, Problem> {
    let mut values = headers.get_all(HEADER).iter();
    let (Some(value), second) = (values.next(), values.next()) else {
        return Ok(None);
    };
    if second.is_some() {
        return Err(Problem::Request(
            "Idempotency-Key is given twice".to_owned(),
        ));
    }
    let key = value
        .to_str()
        .map_err(|error| error.to_string())
        .and_then(str::parse);
    key.map(Some).map_err(|_| {
        Problem::Request("Idempotency-Key must be 1 to 255 visible ASCII characters".to_owned())
    })
}

/// A fingerprint of a call and its body, whose members may come in any order.
pub(super) fn fingerprint(call: &str, body: &Value) -> String {
    let hash = Sha256::new()
        .chain_update(call)
        .chain_update([0])
        .chain_update(body.to_string())
        .finalize();
    hex(&hash)
}

/// The outcome of a repeated request, as it was the first time.
fn shown(answer: &Answer) -> Value {
    match &answer.outcome {
        Outcome::Container {
            id,
            name,
            generation,
        } => {
            json!({"id": id, "name": name, "generation": generation, "changed": answer.changed, "replayed": true})
        }
        Outcome::Set { etag } => {
            json!({"etag": format!("\"{etag}\""), "changed": answer.changed, "replayed": true})
        }
    }
}

/// The answer to a repeated request.
pub(super) fn replayed(answer: &Answer) -> Response {
    let status = if answer.changed {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    (status, Json(shown(answer))).into_response()
}
