//! The address of a request: the container that it names, and query parameters. Each is read once,
//! and those that nobody knows are an error that names them.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Query, RawPathParams};
use axum::http::request::Parts;

use super::error::Problem;
use super::operation::{Operation, Parameter, ParameterKind};

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
pub(super) struct Parameters {
    given: BTreeMap<String, Vec<String>>,
    operation: &'static Operation,
}

impl Parameters {
    /// Takes the parameters, all of which must be those of the operation.
    pub(super) fn of(query: RawQuery, operation: &'static Operation) -> Result<Self, Problem> {
        let Query(pairs) = query.map_err(|error| Problem::Request(error.body_text()))?;
        let mut given = BTreeMap::new();
        let mut unknown = Vec::new();
        for (key, value) in pairs {
            let Some(parameter) = operation.query.iter().find(|one| one.name == key) else {
                unknown.push(key);
                continue;
            };
            let values: &mut Vec<_> = given.entry(key.clone()).or_default();
            values.push(value);
            let is_list = matches!(
                parameter.kind,
                ParameterKind::Texts | ParameterKind::Words(_)
            );
            if values.len() > 1 && !is_list {
                return Err(Problem::Request(format!("{key} is given twice")));
            }
        }
        if unknown.is_empty() {
            return Ok(Self { given, operation });
        }
        let known: Vec<_> = operation.query.iter().map(|one| one.name).collect();
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

    /// The words that a parameter may be.
    pub(super) fn known(&self, key: &str) -> &'static [&'static str] {
        let mut parameters = self.operation.query.iter();
        match parameters.find(|parameter| parameter.name == key) {
            Some(Parameter {
                kind: ParameterKind::Word(words) | ParameterKind::Words(words),
                ..
            }) => words,
            Some(_) | None => &[],
        }
    }

    /// The parameter, which must be some of its words: with commas between them, or given several
    /// times, as clients made by generators do.
    pub(super) fn words(&self, key: &str) -> Result<Option<BTreeSet<&str>>, Problem> {
        let texts = self.texts(key);
        if texts.is_empty() {
            return Ok(None);
        }
        let known = self.known(key);
        let words = texts.iter().flat_map(|text| text.split(','));
        match words.clone().find(|word| !known.contains(word)) {
            None => Ok(Some(words.collect())),
            Some(strange) => Err(Problem::Request(format!(
                "{key}={strange} is not one of {}",
                known.join(", ")
            ))),
        }
    }

    /// The parameter, which must be one of its words.
    pub(super) fn word(&self, key: &str) -> Result<Option<&str>, Problem> {
        let known = self.known(key);
        match self.text(key) {
            Some(text) if !known.contains(&text) => Err(Problem::Request(format!(
                "{key}={text} is not one of {}",
                known.join(", ")
            ))),
            text => Ok(text),
        }
    }

    /// The parameter as it came.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.texts(key).first().copied()
    }

    /// Every value of a parameter that may be given several times.
    pub(super) fn texts(&self, key: &str) -> Vec<&str> {
        let values = self.given.get(key).into_iter().flatten();
        values.map(String::as_str).collect()
    }

    /// The parameter as a value.
    pub(super) fn parsed<T: FromStr>(&self, key: &str, what: &str) -> Result<Option<T>, Problem> {
        let wrong = |text: &str| Problem::Request(format!("{key}={text} is not {what}"));
        self.text(key)
            .map(|text| text.parse().map_err(|_| wrong(text)))
            .transpose()
    }

    /// The parameter as a flag.
    pub(super) fn flag(&self, key: &str) -> Result<bool, Problem> {
        self.text(key).map_or(Ok(false), |text| flag(key, text))
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

/// Value of a flag, in the spellings of several languages; the bare name is true.
pub(super) fn flag(key: &str, text: &str) -> Result<bool, Problem> {
    match text.to_ascii_lowercase().as_str() {
        "false" | "0" | "no" | "off" => Ok(false),
        "true" | "1" | "yes" | "on" | "" => Ok(true),
        other => Err(Problem::Request(format!(
            "{key}={other} is neither true nor false"
        ))),
    }
}

fn duration(text: &str) -> Option<Duration> {
    text.parse()
        .map(Duration::from_secs)
        .ok()
        .or_else(|| humantime::parse_duration(text).ok())
}
