//! Lines of the audit: JSON, each with the fingerprint of the one before and its own.

use std::time::SystemTime;

use serde::Serialize;
use state::digest::sha256;
use state::log_level::AuditedLevel;
use state::store::{AuditVerdict, AuditedArchive, AuditedChange, AuditedExec};

use super::AuditCall;

/// Version of the form of a line.
const VERSION: u8 = 1;
/// Fingerprint before the first line of all.
pub(super) const BEGINNING: &str = "none";
/// Text before a line's own fingerprint, which ends the line.
const HASH_KEY: &str = ",\"hash\":\"";

#[derive(Serialize)]
struct AuditLine<'a> {
    v: u8,
    n: u64,
    at: String,
    #[serde(flatten)]
    call: &'a AuditCall,
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<state::desired::Owner>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    before: Option<&'a str>,
    after: Option<&'a str>,
    #[serde(flatten)]
    exec: Option<&'a AuditedExec>,
    #[serde(flatten)]
    archive: Option<&'a AuditedArchive>,
    #[serde(flatten)]
    log_level: Option<&'a AuditedLevel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    verdict: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    denied_by: Option<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    lost_before: u64,
    prev: &'a str,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Place of a line in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChainEnd {
    /// Number of the last line.
    pub(super) number: u64,
    /// Fingerprint of the last line.
    pub(super) hash: String,
}

/// The next line, without its line break, and the end of the chain then. `lost` lines before it
/// could not be written.
pub(super) fn next(
    end: &ChainEnd,
    at: SystemTime,
    call: &AuditCall,
    change: &AuditedChange,
    lost: u64,
) -> (String, ChainEnd) {
    let (verdict, denied_by) = match &change.verdict {
        AuditVerdict::Allowed => ("allowed", None),
        AuditVerdict::Denied(why) => ("denied", Some(why.as_str())),
        AuditVerdict::Unstored => ("unstored", None),
        AuditVerdict::Unsure => ("unsure", None),
    };
    let number = end.number + 1;
    let newest = change.after.as_ref().or(change.before.as_ref());
    let line = AuditLine {
        v: VERSION,
        n: number,
        at: humantime::format_rfc3339_millis(at).to_string(),
        call,
        kind: change.kind,
        name: change.name.as_ref().map(state::id::ContainerName::as_str),
        secret: change.secret.as_ref().map(state::spec::SecretName::as_str),
        id: change.id.map(|id| id.to_string()),
        owner: change.owner,
        generation: newest.map(|spec| spec.generation),
        before: change.before.as_ref().map(|spec| spec.spec_hash.as_str()),
        after: change.after.as_ref().map(|spec| spec.spec_hash.as_str()),
        exec: change.exec.as_ref(),
        archive: change.archive.as_ref(),
        log_level: change.log_level.as_ref(),
        signal: change.signal.as_deref(),
        image: change.image.as_deref(),
        verdict,
        denied_by,
        lost_before: lost,
        prev: &end.hash,
    };
    // Texts and numbers, which JSON always takes.
    let text = serde_json::to_string(&line).unwrap_or_default();
    let hash = sha256(text.as_bytes());
    let open = text.strip_suffix('}').unwrap_or(&text);
    let whole = format!("{open}{HASH_KEY}{hash}\"}}");
    (whole, ChainEnd { number, hash })
}

/// A line as it was read: its place in the chain, and the fingerprint of the one before.
pub(super) struct ReadLine {
    pub(super) end: ChainEnd,
    pub(super) prev: String,
}

/// Reads a line, if its fingerprint is its own.
pub(super) fn read(line: &str) -> Option<ReadLine> {
    let (open, hash) = line.rsplit_once(HASH_KEY)?;
    let hash = hash.strip_suffix("\"}")?;
    if sha256(format!("{open}}}").as_bytes()) != hash {
        return None;
    }
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    Some(ReadLine {
        end: ChainEnd {
            number: value["n"].as_u64()?,
            hash: hash.to_owned(),
        },
        prev: value["prev"].as_str()?.to_owned(),
    })
}
