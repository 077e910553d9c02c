//! The labels of our containers in containerd: how they are told from others', and a copy of what was asked.

use std::collections::HashMap;

use state::desired::Record;
use state::id::InstanceName;
use state::spec::Signal;

/// Marks what is ours. Nothing without it is ever touched.
pub(crate) const MANAGED: &str = "chas.io/managed";
/// The container's id.
pub(crate) const ID: &str = "chas.io/id";
/// The signal that its image wants to be stopped with.
pub(crate) const STOP_SIGNAL: &str = "chas.io/stop-signal";
/// The snapshot that its own is made from.
pub(crate) const PARENT: &str = "chas.io/parent";
/// A piece of the record, followed by its number.
const RECORD: &str = "chas.io/record.";

/// containerd's limit on key and value together is 4,096 bytes; a piece stays clear of it with any number behind its key.
const PIECE_BYTES_MAX: usize = 4000;

/// The filter that finds what is ours.
pub(crate) fn ours() -> String {
    format!("labels.\"{MANAGED}\"==1")
}

/// The labels of a container of `record`. The record is in it without the environment's values, which may be secret
/// and stand in the container's OCI spec anyway.
pub(crate) fn of(record: &Record, stop_signal: Option<Signal>, parent: &str) -> HashMap<String, String> {
    let mut labels = bare(record.instance());
    labels.insert("chas.io/name".to_owned(), record.name.to_string());
    labels.insert("chas.io/spec-hash".to_owned(), record.spec_hash.clone());
    labels.insert("chas.io/image-digest".to_owned(), record.image_digest.clone().unwrap_or_default());
    labels.insert(PARENT.to_owned(), parent.to_owned());
    if let Some(signal) = stop_signal {
        labels.insert(STOP_SIGNAL.to_owned(), String::from(signal));
    }
    let mut copy = record.clone();
    copy.spec.environment.values_mut().for_each(String::clear);
    let json = serde_json::to_string(&copy).unwrap_or_default();
    labels.extend(pieces(&json).into_iter().enumerate().map(|(n, piece)| (format!("{RECORD}{n}"), piece.to_owned())));
    labels
}

/// The labels of a container of which only the name is known.
pub(crate) fn bare(instance: InstanceName) -> HashMap<String, String> {
    HashMap::from([
        (MANAGED.to_owned(), "1".to_owned()),
        (ID.to_owned(), instance.id.to_string()),
        ("chas.io/generation".to_owned(), instance.generation.to_string()),
    ])
}

/// Cuts a text between characters.
fn pieces(text: &str) -> Vec<&str> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let end = (0..=rest.len().min(PIECE_BYTES_MAX)).rev().find(|&at| rest.is_char_boundary(at)).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_into_pieces_that_fit_and_make_it_again() {
        let text = "ä€x".repeat(3000);
        let pieces = pieces(&text);
        assert!(pieces.iter().all(|piece| piece.len() <= PIECE_BYTES_MAX && !piece.is_empty()));
        assert_eq!(pieces.concat(), text);
    }
}
