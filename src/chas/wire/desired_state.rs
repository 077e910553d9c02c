//! `GET /nodes/{node_id}/desired-state`: what CHaS lists, and what of it is believed.

use std::time::Duration;

use serde_json::Value;
use state::desired::applied::Rejected;
use state::ownership::ChasSet;
use state::spec::parse::{self, FieldError};

use super::{SCHEMA, pace};

/// Containers that are listed for one node: beyond what any can run.
const ENTRIES_MAX: usize = 10_000;
/// Entries that are not understood of which each is told apart.
const REJECTED_MAX: usize = 256;
/// Faults told of one entry.
const ERRORS_MAX: usize = 16;
/// What CHaS lists.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The set.
    pub set: ChasSet,
    /// Between polls that are not held.
    pub poll_after: Option<Duration>,
}

/// Reads a set that was listed for `node_id`, asked for after change `requested_at_seq`.
///
/// # Errors
/// Why it is no such set, in a sentence. An entry that is not understood is no reason.
pub fn listing(
    body: &[u8],
    node_id: &str,
    etag: Option<String>,
    requested_at_seq: u64,
) -> Result<Listing, String> {
    if body.is_empty() {
        return Err("the answer is empty".to_owned());
    }
    let body: Value =
        serde_json::from_slice(body).map_err(|error| format!("the answer is not JSON: {error}"))?;
    if !body.is_object() {
        return Err("the answer is no JSON object".to_owned());
    }
    let text = |field: &str| body[field].as_str().filter(|text| !text.is_empty());
    let schema = body.get("schema").map_or(Some(SCHEMA), Value::as_u64);
    if schema != Some(SCHEMA) {
        return Err(format!(
            "its schema is {}, and this agent reads {SCHEMA}",
            body["schema"]
        ));
    }
    if text("node_id") != Some(node_id) {
        return Err(format!(
            "it is for the node {}, and this one is {node_id:?}",
            body["node_id"]
        ));
    }
    if body["complete"] != Value::Bool(true) {
        return Err("it does not say that it is complete".to_owned());
    }
    let epoch = text("epoch").ok_or("it has no epoch")?.to_owned();
    let generation = body["generation"].as_u64().ok_or("it has no generation")?;
    let entries = body["containers"]
        .as_array()
        .ok_or("it has no list of containers")?;
    if entries.len() > ENTRIES_MAX {
        return Err(format!(
            "it lists {} containers, and a node takes {ENTRIES_MAX} at most",
            entries.len()
        ));
    }
    let (containers, rejected) = read(entries);
    let named = |entry: &Value| {
        entry["name"]
            .as_str()
            .or(entry.as_str())
            .and_then(|name| name.parse().ok())
    };
    let remove = body["remove"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(named)
        .collect();
    let prune_confirm = body["prune_confirm"].as_u64();
    let cordon = body["cordon"].as_bool().unwrap_or(false);
    let set = ChasSet {
        epoch,
        generation,
        etag,
        containers,
        remove,
        rejected,
        prune_confirm,
        cordon,
        requested_at_seq,
    };
    Ok(Listing {
        set,
        poll_after: pace(body["poll_after_s"].as_u64()),
    })
}

fn read(entries: &[Value]) -> (Vec<parse::Deploy>, Vec<Rejected>) {
    let (mut containers, mut rejected) = (Vec::new(), Vec::new());
    for (index, entry) in entries.iter().enumerate() {
        match parse::deploy(entry) {
            Ok(deploy) => containers.push(deploy),
            Err(errors) => {
                // All of their names count: what bears one is left alone.
                let name = entry["name"].as_str().map(str::to_owned);
                let errors = if rejected.len() < REJECTED_MAX {
                    few(errors)
                } else {
                    Vec::new()
                };
                rejected.push(Rejected {
                    name,
                    index: Some(index),
                    errors,
                });
            }
        }
    }
    (containers, rejected)
}

fn few(mut errors: Vec<FieldError>) -> Vec<FieldError> {
    let more = errors.len().saturating_sub(ERRORS_MAX);
    if more > 0 {
        errors.truncate(ERRORS_MAX);
        errors.push(FieldError {
            field: String::new(),
            message: format!("and {more} more faults"),
        });
    }
    errors
}
