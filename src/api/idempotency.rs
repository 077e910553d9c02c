//! The `Idempotency-Key` of a request (draft-ietf-httpapi-idempotency-key-header), and the answer
//! to a repeated request.

use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use state::desired::answer::{Answer, Outcome};
use state::digest::{canonical, hex};
use state::ownership::answers::Key;

use super::access::Access;
use super::answer::Json;
use super::error::Problem;

const HEADER: &str = "idempotency-key";

/// The request's key, if it has one. A key of one client is another than the same of another client:
/// it neither shows what that one was answered, nor stands in its way.
pub(super) fn key(access: &Access, headers: &HeaderMap) -> Result<Option<Key>, Problem> {
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
        .and_then(|text| text.parse::<Key>().map(|key| (text, key)));
    let key = key.and_then(|(text, key)| match access.client() {
        // Those of the token and of the socket are stored as they are.
        None => Ok(key),
        Some(client) => fingerprint(client, &Value::from(text)).parse(),
    });
    key.map(Some).map_err(|_| {
        Problem::Request("Idempotency-Key must be 1 to 255 visible ASCII characters".to_owned())
    })
}

/// A fingerprint of a call and its body, whose members may come in any order.
pub(super) fn fingerprint(call: &str, body: &Value) -> String {
    let hash = Sha256::new()
        .chain_update(call)
        .chain_update([0])
        .chain_update(canonical(body))
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

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::api::caller::CallerPeer;

    #[test]
    fn a_key_is_its_client_s_own_and_that_of_the_token_is_stored_as_it_came() {
        let of = |by: &str, text: &str| {
            let peer = CallerPeer::Socket { uid: 0, pid: None };
            let access = Access::full(by, peer, CancellationToken::new());
            let headers = HeaderMap::from_iter([(HEADER.parse().unwrap(), text.parse().unwrap())]);
            key(&access, &headers).ok().flatten()
        };
        let plain: Key = "k".parse().unwrap();
        assert_eq!(of("token", "k"), Some(plain.clone()));
        assert_eq!(of("root", "k"), Some(plain.clone()));
        let (a, b) = (of("client:a", "k"), of("client:b", "k"));
        assert!(a.is_some() && a != b && a != Some(plain), "{a:?} {b:?}");
        assert_eq!(of("client:a", "k"), a, "a repeated request is known");
        assert_ne!(of("client:a", "l"), a);
        assert!(of("client:a", &"k".repeat(255)).is_some());
        assert_eq!(of("client:a", &"k".repeat(256)), None);
    }
}
