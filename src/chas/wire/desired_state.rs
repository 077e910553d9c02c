//! `GET /nodes/{node_id}/desired-state`: the set that CHaS lists for the node, and the checks it
//! must pass.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use state::desired::applied::Rejected;
use state::ownership::{ChasSet, SetSecret};
use state::spec::parse::{self, FieldError};
use state::spec::{Content, SecretName};
use state::store::SECRET_BYTES_MAX;

use super::{SCHEMA, interval};

/// Most containers in one set: beyond what any node can run.
const ENTRIES_MAX: usize = 10_000;
/// Most secrets in one set: beyond what a node keeps.
const SECRETS_MAX: usize = 1000;
/// Most rejected entries whose field errors are kept.
const REJECTED_MAX: usize = 256;
/// Most field errors kept of one entry.
const ERRORS_MAX: usize = 16;

/// The set that CHaS lists, and the interval it asks for.
#[derive(Clone, Debug)]
pub struct SetReply {
    /// Set for the store.
    pub set: ChasSet,
    /// Interval between polls that are not kept open.
    pub poll_after: Option<Duration>,
}

/// Parses a set for `node_id`. `etag` and `requested_at_seq`, the store's change counter when the
/// poll was sent, are kept with it.
///
/// # Errors
/// A sentence that says why the body is not a complete set for this node. Invalid entries are no
/// reason: they are listed in the set as rejected.
pub fn parse_set(
    body: &[u8],
    node_id: &str,
    etag: Option<String>,
    requested_at_seq: u64,
) -> Result<SetReply, String> {
    if body.is_empty() {
        return Err("the answer is empty".to_owned());
    }
    let body: Value =
        serde_json::from_slice(body).map_err(|error| format!("the answer is not JSON: {error}"))?;
    check_envelope(&body, node_id)?;
    let epoch = text(&body, "epoch").ok_or("the set has no epoch")?;
    let generation = body["generation"]
        .as_u64()
        .ok_or("the set has no generation")?;
    let entries = body["containers"]
        .as_array()
        .ok_or("the set has no list of containers")?;
    if entries.len() > ENTRIES_MAX {
        return Err(format!(
            "the set lists {} containers; a node accepts at most {ENTRIES_MAX}",
            entries.len()
        ));
    }
    let (containers, rejected) = parse_entries(entries);
    let remove = body["remove"].as_array().into_iter().flatten();
    let set = ChasSet {
        epoch: epoch.to_owned(),
        generation,
        etag,
        containers,
        secrets: secrets(&body["secrets"]),
        remove: remove.filter_map(removed_name).collect(),
        rejected,
        prune_confirm: body["prune_confirm"].as_u64(),
        cordon: body["cordon"].as_bool().unwrap_or(false),
        requested_at_seq,
        is_settled: false,
        lacks_secrets: false,
        signature: None,
    };
    Ok(SetReply {
        set,
        poll_after: interval(body["poll_after_s"].as_u64()),
    })
}

/// Checks that a body is a complete set, in a schema this agent reads, for this node.
fn check_envelope(body: &Value, node_id: &str) -> Result<(), String> {
    if !body.is_object() {
        return Err("the answer is not a JSON object".to_owned());
    }
    let schema = body.get("schema").map_or(Some(SCHEMA), Value::as_u64);
    if schema != Some(SCHEMA) {
        return Err(format!(
            "the set has schema {}; this agent reads schema {SCHEMA}",
            body["schema"]
        ));
    }
    if text(body, "node_id") != Some(node_id) {
        return Err(format!(
            "the set is for node {}; this node is {node_id:?}",
            body["node_id"]
        ));
    }
    if body["complete"] != Value::Bool(true) {
        return Err("the set is not marked as complete".to_owned());
    }
    Ok(())
}

fn text<'a>(body: &'a Value, member: &str) -> Option<&'a str> {
    body[member].as_str().filter(|text| !text.is_empty())
}

/// The name in an entry of `remove`: a string, or an object with a name.
fn removed_name<T: std::str::FromStr>(entry: &Value) -> Option<T> {
    let name = entry["name"].as_str().or(entry.as_str())?;
    name.parse().ok()
}

/// The secrets in a set, as text or as bytes in base64. What is not understood is left out: a
/// container that uses it is rejected then, or keeps what it has.
fn secrets(members: &Value) -> BTreeMap<SecretName, SetSecret> {
    let members = members.as_object().into_iter().flatten();
    let known = members.filter_map(|(name, value)| {
        let bytes = match value.as_str() {
            Some(text) => text.as_bytes().to_vec(),
            None => state::spec::secrets::value(value).ok()?,
        };
        let is_sized = (1..=SECRET_BYTES_MAX).contains(&bytes.len());
        let secret = SetSecret {
            value: Content::readable(bytes),
            tag: None,
        };
        Some((name.parse().ok().filter(|_| is_sized)?, secret))
    });
    known.take(SECRETS_MAX).collect()
}

fn parse_entries(entries: &[Value]) -> (Vec<parse::Deploy>, Vec<Rejected>) {
    let (mut containers, mut rejected) = (Vec::new(), Vec::new());
    for (index, entry) in entries.iter().enumerate() {
        match parse::deploy(entry) {
            Ok(deploy) => containers.push(deploy),
            Err(errors) => {
                let errors = if rejected.len() < REJECTED_MAX {
                    bounded(errors)
                } else {
                    Vec::new()
                };
                // Every name counts, however many there are: a container with a rejected name is
                // left alone.
                rejected.push(Rejected {
                    name: entry["name"].as_str().map(str::to_owned),
                    index: Some(index),
                    errors,
                });
            }
        }
    }
    (containers, rejected)
}

fn bounded(mut errors: Vec<FieldError>) -> Vec<FieldError> {
    let more = errors.len().saturating_sub(ERRORS_MAX);
    if more > 0 {
        errors.truncate(ERRORS_MAX);
        errors.push(FieldError {
            field: String::new(),
            message: format!("and {more} more errors"),
        });
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_of_a_set_are_texts_or_bytes_and_what_is_not_understood_is_left_out() {
        let set = json!({
            "schema": 1, "node_id": "n", "epoch": "e", "generation": 1, "complete": true, "containers": [],
            "secrets": {
                "text": "word", "bytes": {"value_base64": "AP8="}, "plain": {"value": "x"},
                "empty": "", "number": 815, "Name": "x", "both": {"value": "x", "value_base64": "AA=="},
                "long": "x".repeat(SECRET_BYTES_MAX + 1),
            },
        });
        let body = set.to_string();
        let read = parse_set(body.as_bytes(), "n", None, 0).unwrap().set;
        let of = |name: &str| {
            let secret = read.secrets.get(&name.parse().unwrap())?;
            secret.value.bytes().map(<[u8]>::to_vec)
        };
        assert_eq!(read.secrets.len(), 3);
        assert_eq!(of("text").unwrap(), b"word");
        assert_eq!(of("bytes").unwrap(), [0, 255]);
        assert_eq!(of("plain").unwrap(), b"x");
        assert!(!format!("{read:?}").contains("word"));
    }
}
