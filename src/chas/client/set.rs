//! Reading of the sets that CHaS sends: signed by whom the operator named, parsed off the threads
//! of other tasks, and at a bounded share of a processor.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use reqwest::header::HeaderMap;
use tokio::time::Instant;

use super::agent_is_stopping;
use super::error::{ChasError, ChasErrorKind};
use crate::chas::signature::{self, SetKeys, SignatureFault};
use crate::chas::wire::{self, SetReply};
use crate::lock::lock;

/// Size above which a set is parsed on a blocking thread.
const PARSE_INLINE_BYTES_MAX: usize = 32 << 10;
/// Share of a processor that reading sets may take: after each, the next poll waits so many times
/// as long as that took.
const REST_TIMES: u32 = 9;
/// Longest such wait.
const REST_MAX: Duration = Duration::from_secs(60);

/// Reader of the sets for one node.
#[derive(Debug)]
pub(super) struct SetReader {
    /// `None`: sets need no signature.
    keys: Option<SetKeys>,
    /// Time before which no set is asked for: the one before it was costly.
    rests_until: Mutex<Instant>,
}

/// Answer with a set, as it came.
#[derive(Debug)]
pub(super) struct SetAnswer {
    pub(super) body: Vec<u8>,
    pub(super) signatures: Vec<String>,
    pub(super) etag: Option<String>,
    pub(super) requested_at_seq: u64,
}

/// Values of `Chas-Signature`.
pub(super) fn signatures(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(signature::HEADER).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    values.map(str::to_owned).collect()
}

impl SetReader {
    /// Reader of sets that one of the keys in a file must have signed; `None`: none need have.
    pub(super) fn new(key_file: Option<PathBuf>) -> Self {
        Self {
            keys: key_file.map(SetKeys::new),
            rests_until: Mutex::new(Instant::now()),
        }
    }

    /// Whether a set counts that these keys signed, by their fingerprints.
    pub(super) async fn believes(&self, signed_by: &BTreeSet<String>) -> bool {
        let Some(keys) = self.keys.clone() else {
            return true;
        };
        let signed_by = signed_by.clone();
        let looking = tokio::task::spawn_blocking(move || keys.have(&signed_by));
        looking.await.unwrap_or(false)
    }

    /// Waits until another set may be read.
    pub(super) async fn rest(&self) {
        let until = *lock(&self.rests_until);
        tokio::time::sleep_until(until).await;
    }

    /// Set of an answer for `node_id`.
    pub(super) async fn read(
        &self,
        node_id: String,
        answer: SetAnswer,
    ) -> Result<SetReply, ChasError> {
        let keys = self.keys.clone();
        // Parsing a large set, and reading the keys, would keep this thread from other tasks.
        let blocks = answer.body.len() > PARSE_INLINE_BYTES_MAX || keys.is_some();
        let read = move || {
            let began = Instant::now();
            let set = read(keys.as_ref(), &node_id, answer);
            (set, began.elapsed())
        };
        let (set, took) = if blocks {
            let read = tokio::task::spawn_blocking(read).await;
            read.map_err(agent_is_stopping)?
        } else {
            read()
        };
        *lock(&self.rests_until) = Instant::now() + (took * REST_TIMES).min(REST_MAX);
        set
    }
}

fn read(keys: Option<&SetKeys>, node_id: &str, answer: SetAnswer) -> Result<SetReply, ChasError> {
    let body = &answer.body;
    let check = |keys: &SetKeys| {
        let checked = keys.check(body, node_id, answer.etag.as_deref(), &answer.signatures);
        checked.map_err(|fault| match fault {
            SignatureFault::Keys(fault) => ChasError::new(ChasErrorKind::SetKeysUnusable, fault),
            SignatureFault::Set(fault) => ChasError::new(ChasErrorKind::BadSignature, fault),
        })
    };
    let signature = keys.map(check).transpose()?;
    let set = wire::parse_set(body, node_id, answer.etag, answer.requested_at_seq);
    let mut reply = set.map_err(ChasError::invalid)?;
    reply.set.signature = signature;
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn after_a_costly_set_the_next_one_waits() {
        let reader = SetReader::new(None);
        let is_resting = || *lock(&reader.rests_until) > Instant::now();
        assert!(!is_resting());
        let entry = format!(r#"{{"name": "{}"}}"#, "x".repeat(400));
        let entries = vec![entry; 9000].join(",");
        let body = format!(
            r#"{{"node_id": "n", "epoch": "e", "generation": 1, "complete": true, "containers": [{entries}]}}"#
        );
        let answer = SetAnswer {
            body: body.into_bytes(),
            signatures: Vec::new(),
            etag: None,
            requested_at_seq: 0,
        };
        let began = Instant::now();
        let set = reader.read("n".to_owned(), answer).await.unwrap().set;
        assert_eq!(set.rejected.len(), 9000);
        let longest = began.elapsed() * REST_TIMES;
        assert!(is_resting());
        assert!(*lock(&reader.rests_until) <= Instant::now() + longest.min(REST_MAX));
    }
}
