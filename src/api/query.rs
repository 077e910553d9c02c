//! Query parameters: each read once, and those that nobody knows are an error that names them.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use axum::extract::Query;

use super::error::Problem;

/// Waits longer than this tie up a connection for nothing.
const TIMEOUT_MAX: Duration = Duration::from_mins(10);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// The parameters of one request.
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Takes the parameters, all of which must be among `known`.
    pub(super) fn of(query: Query<BTreeMap<String, String>>, known: &[&str]) -> Result<Self, Problem> {
        let unknown: Vec<_> = query.0.keys().filter(|key| !known.contains(&key.as_str())).cloned().collect();
        if unknown.is_empty() {
            return Ok(Self(query.0));
        }
        Err(Problem::Request(format!("unknown parameter {}; known are {}", unknown.join(", "), known.join(", "))))
    }

    /// The parameter as it came.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The parameter as a value.
    pub(super) fn parsed<T: FromStr>(&self, key: &str, what: &str) -> Result<Option<T>, Problem> {
        let wrong = |text: &str| Problem::Request(format!("{key}={text} is not {what}"));
        self.text(key).map(|text| text.parse().map_err(|_| wrong(text))).transpose()
    }

    /// True for `true` and for the bare name.
    pub(super) fn flag(&self, key: &str) -> Result<bool, Problem> {
        match self.text(key) {
            None | Some("false") => Ok(false),
            Some("true" | "") => Ok(true),
            Some(other) => Err(Problem::Request(format!("{key}={other} is neither true nor false"))),
        }
    }

    /// How long to wait: `timeout`, 30 s where it is not given.
    pub(super) fn timeout(&self) -> Result<Duration, Problem> {
        let Some(text) = self.text("timeout") else { return Ok(TIMEOUT_DEFAULT) };
        let timeout = duration(text).filter(|timeout| *timeout <= TIMEOUT_MAX);
        timeout.ok_or_else(|| Problem::Request(format!("timeout={text} is not a duration of 10m at most, such as 30s")))
    }

    /// A point in time: RFC 3339, or how long ago.
    pub(super) fn time(&self, key: &str, now: SystemTime) -> Result<Option<SystemTime>, Problem> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let point = humantime::parse_rfc3339_weak(text).ok().or_else(|| duration(text).and_then(|ago| now.checked_sub(ago)));
        point.map(Some).ok_or_else(|| {
            Problem::Request(format!("{key}={text} is neither a time such as 2026-01-31T12:00:00Z nor a duration such as 10m"))
        })
    }
}

fn duration(text: &str) -> Option<Duration> {
    text.parse().map(Duration::from_secs).ok().or_else(|| humantime::parse_duration(text).ok())
}
