//! Id of a request, by which log, events and audit name it.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;

/// Header with the id of a request, by which log, events and audit name it: of the answer, and of a
/// request that brings its own.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id of a caller's own.
const ID_BYTES_MAX: usize = 64;

/// Id of a request: the caller's own, if it is fit to stand in logs, or another one.
pub(super) fn request_id(headers: &HeaderMap) -> String {
    let mut given = headers.get_all(REQUEST_ID).iter();
    let fits = |id: &&str| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        (1..=ID_BYTES_MAX).contains(&id.len()) && id.chars().all(is_plain)
    };
    match (given.next(), given.next()) {
        (Some(id), None) => id.to_str().ok().filter(fits).map(ToOwned::to_owned),
        _ => None,
    }
    .unwrap_or_else(|| format!("{:016x}", state::store::random()))
}

/// Puts the id of its request on an answer.
pub(super) fn mark(response: &mut Response, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_s_own_id_is_taken_if_it_can_forge_nothing() {
        let id = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
            }
            request_id(&headers)
        };
        let long = [b'a'; ID_BYTES_MAX + 1];
        let kept: [&[u8]; 3] = [b"a", b"0f-9_Z.7", &long[1..]];
        for own in kept {
            assert_eq!(id(&[own]).as_bytes(), own);
        }
        let others: [&[&[u8]]; 8] = [
            &[],
            &[b""],
            &[b"a b"],
            &[b"a\",\"by\":\"root"],
            &[b"a\tb"],
            &["\u{e9}".as_bytes()],
            &[&long],
            &[b"one", b"two"],
        ];
        for other in others {
            let made = id(other);
            assert_eq!(made.len(), 16, "{made}");
            assert_ne!(made, id(other), "it is drawn anew");
        }
    }
}
