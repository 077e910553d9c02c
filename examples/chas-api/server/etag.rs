//! Conditions of a request on entity tags (RFC 9110, 13.1).

use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName};

/// The conditions `If-Match` and `If-None-Match` of a request.
#[derive(Debug, Default)]
pub(super) struct EtagCondition {
    matches: Option<String>,
    none_matches: Option<String>,
}

impl EtagCondition {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self {
            matches: joined(headers, &IF_MATCH),
            none_matches: joined(headers, &IF_NONE_MATCH),
        }
    }

    /// Whether the conditions allow a change of the resource with this tag. `None`: it does not
    /// exist.
    pub(super) fn allows(&self, tag: Option<&str>) -> bool {
        let lists = |listed: &String| tag.is_some_and(|tag| lists(listed, tag));
        self.matches.as_ref().is_none_or(lists) && !self.none_matches.as_ref().is_some_and(lists)
    }

    /// Whether the caller has the resource with this tag already.
    pub(super) fn is_current(&self, tag: &str) -> bool {
        self.none_matches
            .as_ref()
            .is_some_and(|listed| lists(listed, tag))
    }
}

/// The tags of a header, which may be given several times.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<_> = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// Whether a list contains a tag. A weak tag counts as well: a proxy may have weakened a strong
/// one.
fn lists(listed: &str, tag: &str) -> bool {
    listed
        .split(',')
        .map(|one| one.trim().trim_start_matches("W/"))
        .any(|one| one == "*" || one == tag)
}
