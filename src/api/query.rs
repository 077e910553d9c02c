//! The address of a request: the container that it names, and query parameters. Each is read once,
//! and those that nobody knows are an error that names them.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Query, RawPathParams};
use axum::http::request::Parts;

use super::error::Problem;

/// Longest wait: a longer one ties up a connection for nothing.
const TIMEOUT_MAX: Duration = Duration::from_mins(10);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// A request's query as it came; pairs, so that one given twice is seen.
pub(super) type RawQuery = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// The container that a path names: a name, an id, or to read the beginning of one.
pub(super) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let parameters = RawPathParams::from_request_parts(parts, state).await;
        let parameters = parameters.map_err(|error| Problem::Request(error.body_text()))?;
        let name = parameters.iter().next().map(|(_, name)| name.to_owned());
        // The one path whose last word is fixed, and may be a container's name nevertheless.
        Ok(Self(name.unwrap_or_else(|| "deploy".to_owned())))
    }
}

/// The parameters of one request.
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Takes the parameters, all of which must be among `known`.
    pub(super) fn of(query: RawQuery, known: &[&str]) -> Result<Self, Problem> {
        let Query(pairs) = query.map_err(|error| Problem::Request(error.body_text()))?;
        let mut parameters = BTreeMap::new();
        let mut unknown = Vec::new();
        for (key, value) in pairs {
            if !known.contains(&key.as_str()) {
                unknown.push(key);
            } else if parameters.insert(key.clone(), value).is_some() {
                return Err(Problem::Request(format!("{key} is given twice")));
            }
        }
        if unknown.is_empty() {
            return Ok(Self(parameters));
        }
        let known = if known.is_empty() {
            "none is".to_owned()
        } else {
            format!("known are {}", known.join(", "))
        };
        Err(Problem::Request(format!(
            "unknown parameter {}; {known}",
            unknown.join(", ")
        )))
    }

    /// The parameter, which must be one of `words`.
    pub(super) fn word(&self, key: &str, words: &[&str]) -> Result<Option<&str>, Problem> {
        match self.text(key) {
            Some(text) if !words.contains(&text) => Err(Problem::Request(format!(
                "{key}={text} is not one of {}",
                words.join(", ")
            ))),
            text => Ok(text),
        }
    }

    /// The parameter as it came.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The parameter as a value.
    pub(super) fn parsed<T: FromStr>(&self, key: &str, what: &str) -> Result<Option<T>, Problem> {
        let wrong = |text: &str| Problem::Request(format!("{key}={text} is not {what}"));
        self.text(key)
            .map(|text| text.parse().map_err(|_| wrong(text)))
            .transpose()
    }

    /// The parameter as a flag: `true` or `false` in any case, for other languages write them so,
    /// `1` or `0`; the bare name is true.
    pub(super) fn flag(&self, key: &str) -> Result<bool, Problem> {
        let text = self.text(key).map(str::to_ascii_lowercase);
        match text.as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1" | "") => Ok(true),
            Some(other) => Err(Problem::Request(format!(
                "{key}={other} is neither true nor false"
            ))),
        }
    }

    /// The timeout of a wait: `timeout`, or 30 s where it is not given.
    pub(super) fn timeout(&self) -> Result<Duration, Problem> {
        let Some(text) = self.text("timeout") else {
            return Ok(TIMEOUT_DEFAULT);
        };
        let timeout = duration(text).filter(|timeout| *timeout <= TIMEOUT_MAX);
        timeout.ok_or_else(|| {
            Problem::Request(format!(
                "timeout={text} is not a duration of 10m at most, such as 30s"
            ))
        })
    }

    /// A point in time: RFC 3339, or how long ago.
    pub(super) fn time(&self, key: &str, now: SystemTime) -> Result<Option<SystemTime>, Problem> {
        let Some(text) = self.text(key) else {
            return Ok(None);
        };
        let point = humantime::parse_rfc3339_weak(text)
            .ok()
            .or_else(|| duration(text).and_then(|ago| now.checked_sub(ago)));
        point.map(Some).ok_or_else(|| {
            Problem::Request(format!("{key}={text} is neither a time such as 2026-01-31T12:00:00Z nor a duration such as 10m"))
        })
    }
}

fn duration(text: &str) -> Option<Duration> {
    text.parse()
        .map(Duration::from_secs)
        .ok()
        .or_else(|| humantime::parse_duration(text).ok())
}
