//! Errors of calls to CHaS, cut by what the link does next.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use state::text::shown;

use crate::backoff;

/// Characters kept of a server's own error text.
const PROBLEM_CHARS_MAX: usize = 200;
/// The shortest and the longest wait that a server may ask for.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Refusals in a row after which the node registers again.
const REFUSALS_MAX: u32 = 3;

/// The kinds of error of a call to CHaS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChasErrorKind {
    /// CHaS gave no answer, or one that promises a better one (429, 5xx): retry soon.
    Unreachable,
    /// A certificate was rejected, or the node's own credentials cannot be read: retry soon, and at
    /// once when files change.
    TlsRejected,
    /// CHaS rejects the token, or what it permits.
    Unauthorized,
    /// CHaS does not know the node: register again.
    NodeUnknown,
    /// Another node uses this node's id.
    IdentityConflict,
    /// The server does not offer this call: retry much later.
    NotOffered,
    /// CHaS refuses the request for another reason.
    Refused,
    /// The answer is malformed, incomplete, or meant for another node.
    InvalidResponse,
    /// The set bears no signature of a key that the operator named.
    BadSignature,
    /// The file of the keys that sign sets cannot be used.
    SetKeysUnusable,
}

impl ChasErrorKind {
    /// Whether no answer came from CHaS at all.
    #[must_use]
    pub const fn is_unreachable(self) -> bool {
        matches!(self, Self::Unreachable | Self::TlsRejected)
    }

    /// Whether it takes a person to change this: the node's credentials, or what stands at the
    /// address of CHaS.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        match self {
            Self::TlsRejected
            | Self::Unauthorized
            | Self::IdentityConflict
            | Self::Refused
            | Self::InvalidResponse
            | Self::BadSignature
            | Self::SetKeysUnusable => true,
            Self::Unreachable | Self::NodeUnknown | Self::NotOffered => false,
        }
    }

    /// The word for this kind in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "away",
            Self::TlsRejected => "untrusted",
            Self::Unauthorized => "unauthorized",
            Self::NodeUnknown => "unknown",
            Self::IdentityConflict => "conflict",
            Self::NotOffered => "not_offered",
            Self::Refused => "refused",
            Self::InvalidResponse => "bad",
            Self::BadSignature => "unsigned",
            Self::SetKeysUnusable => "no_keys",
        }
    }
}

/// A failed call to CHaS.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ChasError {
    /// Kind of the error.
    pub kind: ChasErrorKind,
    /// Text for a person.
    pub message: String,
    /// Wait that CHaS asks for.
    pub retry_after: Option<Duration>,
    /// Whether CHaS, or a server in its place, answered.
    pub is_answer: bool,
    /// Whether an established connection broke off before there was an answer.
    pub is_cut: bool,
    /// Credentials that were used; see
    /// [`ChasCalls::has_other_credentials`](crate::chas::ChasCalls::has_other_credentials).
    pub credentials_fingerprint: u64,
}

impl ChasError {
    pub(super) fn new(kind: ChasErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
            is_answer: false,
            is_cut: false,
            credentials_fingerprint: 0,
        }
    }

    /// An answer that came, and is not a valid one.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self {
            is_answer: true,
            ..Self::new(ChasErrorKind::InvalidResponse, message)
        }
    }

    /// Whether the node has to register again after `attempts` errors in a row. Repeated refusals
    /// count, because the registration itself may be what is wrong.
    pub(in crate::chas) const fn requires_registration(&self, attempts: u32) -> bool {
        match self.kind {
            ChasErrorKind::NodeUnknown | ChasErrorKind::IdentityConflict => true,
            ChasErrorKind::Unauthorized => attempts >= REFUSALS_MAX,
            ChasErrorKind::Unreachable
            | ChasErrorKind::TlsRejected
            | ChasErrorKind::NotOffered
            | ChasErrorKind::Refused
            | ChasErrorKind::InvalidResponse
            | ChasErrorKind::BadSignature
            | ChasErrorKind::SetKeysUnusable => false,
        }
    }
}

/// The code and the text of an error body: an RFC 9457 problem, or any JSON object with similar
/// members.
pub(super) fn problem(body: &[u8]) -> (String, String) {
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let first = |names: &[&str]| {
        let text = names.iter().find_map(|name| problem[name].as_str());
        text.unwrap_or_default().to_owned()
    };
    let text = first(&["detail", "title", "message"]);
    let text = shown(&text, PROBLEM_CHARS_MAX).into_owned();
    (first(&["code", "error"]), text)
}

/// The wait that a `Retry-After` header asks for; below [`RETRY_AFTER_MIN`] it counts as none.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let wait = backoff::retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, SystemTime::now())?;
    (wait >= RETRY_AFTER_MIN).then(|| wait.min(RETRY_AFTER_MAX))
}
