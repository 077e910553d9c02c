//! Conditions on what the caller has (RFC 9110, 13.1).

use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName};

/// What the caller says that it has, or has not.
#[derive(Debug, Default)]
pub(super) struct Condition {
    matches: Option<String>,
    none_matches: Option<String>,
}

impl Condition {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self {
            matches: whole(headers, &IF_MATCH),
            none_matches: whole(headers, &IF_NONE_MATCH),
        }
    }

    /// Whether a change may be made to what has this tag. `None`: to nothing, it is not there.
    pub(super) fn allows(&self, tag: Option<&str>) -> bool {
        let lists = |listed: &String| tag.is_some_and(|tag| lists(listed, tag));
        self.matches.as_ref().is_none_or(lists) && !self.none_matches.as_ref().is_some_and(lists)
    }

    /// The caller has just this.
    pub(super) fn is_current(&self, tag: &str) -> bool {
        self.none_matches
            .as_ref()
            .is_some_and(|listed| lists(listed, tag))
    }
}

/// A list may come in several headers.
fn whole(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<_> = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// A weak tag in the list counts as well: there are only strong ones here, and a proxy may have weakened it.
fn lists(listed: &str, tag: &str) -> bool {
    listed
        .split(',')
        .map(|one| one.trim().trim_start_matches("W/"))
        .any(|one| one == "*" || one == tag)
}
