//! Failed calls to CHaS, cut by what is to be done next.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::backoff;

/// Of what a server says about an error.
const WORDS_MAX: usize = 200;
/// The shortest and the longest wait that a server may ask for.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Refusals in a row after which the node registers again.
const REFUSALS_MAX: u32 = 3;

/// What a fault asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// No answer, or one that promises a better one: again, soon.
    Away,
    /// No answer, because a certificate is refused or what is to be shown cannot be had: again, soon, and at once when the
    /// files are others.
    Untrusted,
    /// The token is refused, or what it may do.
    Unauthorized,
    /// CHaS does not know the node: register.
    Unknown,
    /// Another node has this node's id.
    Conflict,
    /// The server has no such call: again, much later.
    NotOffered,
    /// The request is refused for another reason.
    Refused,
    /// The answer is not what it should be.
    Bad,
}

impl FaultKind {
    /// CHaS was not spoken to.
    #[must_use]
    pub const fn is_silence(self) -> bool {
        matches!(self, Self::Away | Self::Untrusted)
    }

    /// The kind in a word, for counting.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Untrusted => "untrusted",
            Self::Unauthorized => "unauthorized",
            Self::Unknown => "unknown",
            Self::Conflict => "conflict",
            Self::NotOffered => "not_offered",
            Self::Refused => "refused",
            Self::Bad => "bad",
        }
    }
}

/// A call that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What it asks for.
    pub kind: FaultKind,
    /// What happened, for a person.
    pub message: String,
    /// CHaS asks to wait so long.
    pub retry_after: Option<Duration>,
    /// CHaS, or something in its place, answered.
    pub is_answer: bool,
    /// The connection stood, and broke off before there was an answer.
    pub is_cut: bool,
    /// Which credentials were shown; see [`Calls::has_other_credentials`].
    pub shown: u64,
}

impl Fault {
    pub(super) fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
            is_answer: false,
            is_cut: false,
            shown: 0,
        }
    }

    /// CHaS does not know the node, or knows another one by its name; or it has refused it so often that the registration may
    /// be what is wrong.
    pub(in crate::chas) const fn is_to_register_again(&self, attempts: u32) -> bool {
        match self.kind {
            FaultKind::Unknown | FaultKind::Conflict => true,
            FaultKind::Unauthorized => attempts >= REFUSALS_MAX,
            FaultKind::Away
            | FaultKind::Untrusted
            | FaultKind::NotOffered
            | FaultKind::Refused
            | FaultKind::Bad => false,
        }
    }

    /// The answer is not what it should be.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self {
            is_answer: true,
            ..Self::new(FaultKind::Bad, message)
        }
    }
}

/// The code of an error and a few words of it (RFC 9457, or whatever it is).
pub(super) fn said(body: &[u8]) -> (String, String) {
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let field = |name: &str| problem[name].as_str().map(str::to_owned);
    let code = field("code").or_else(|| field("error")).unwrap_or_default();
    let words = field("detail")
        .or_else(|| field("title"))
        .or_else(|| field("message"))
        .unwrap_or_default();
    let words: String = words
        .chars()
        .filter(|c| !c.is_control())
        .take(WORDS_MAX)
        .collect();
    (
        code,
        if words.is_empty() {
            words
        } else {
            format!(": {words}")
        },
    )
}

/// How long CHaS asks to be left alone. No time at all is no such wish.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let wait = backoff::retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, SystemTime::now())?;
    (wait >= RETRY_AFTER_MIN).then(|| wait.min(RETRY_AFTER_MAX))
}
