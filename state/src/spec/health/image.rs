//! The image's own HEALTHCHECK, as docker's tools write it into the image's configuration.
//!
//! Source: moby, `HealthConfig`; times are in nanoseconds, and 0 is docker's default.

use std::time::Duration;

use serde_json::Value;

use super::{COMMAND_BYTES_MAX, COUNT_MAX, HealthCheck, INTERVAL_MAX, Probe};
use super::{START_PERIOD_MAX, TIMEOUT_MAX, TIMEOUT_MIN, WORDS_MAX};

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
/// Shortest interval: nobody asked this node for it, and each probe is a process of the node's.
const IMAGE_INTERVAL_MIN: Duration = Duration::from_secs(5);

impl HealthCheck {
    /// The check that an image's `Healthcheck` says; `shell` is what runs a line of the shell.
    /// Numbers beyond what a deploy body may say are drawn to the nearest that it may. `Ok(None)`:
    /// it says none.
    ///
    /// # Errors
    /// The fault for which it cannot be used, in a sentence without a subject.
    pub fn of_image(healthcheck: &Value, shell: &[String]) -> Result<Option<Self>, String> {
        if healthcheck.is_null() {
            return Ok(None);
        }
        let members = healthcheck.as_object().ok_or("is no object")?;
        let words: Option<Vec<String>> = match members.get("Test") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(words)) => words
                .iter()
                .map(|word| word.as_str().map(str::to_owned))
                .collect(),
            Some(_) => None,
        };
        let words = words.ok_or("has a test that is no list of words")?;
        let Some(command) = command(&words, shell)? else {
            return Ok(None);
        };
        let time = |name: &str, usual: Duration| {
            let nanos = members
                .get(name)
                .and_then(Value::as_u64)
                .unwrap_or_default();
            if nanos == 0 {
                usual
            } else {
                Duration::from_nanos(nanos)
            }
        };
        let retries = members.get("Retries").and_then(Value::as_u64);
        let retries = retries.and_then(|retries| u32::try_from(retries.min(COUNT_MAX.into())).ok());
        let usual = Self::of(Probe::Exec { command });
        Ok(Some(Self {
            interval: time("Interval", INTERVAL).clamp(IMAGE_INTERVAL_MIN, INTERVAL_MAX),
            timeout: time("Timeout", TIMEOUT).clamp(TIMEOUT_MIN, TIMEOUT_MAX),
            retries: retries
                .filter(|retries| *retries > 0)
                .unwrap_or(usual.retries),
            start_period: time("StartPeriod", Duration::ZERO).min(START_PERIOD_MAX),
            ..usual
        }))
    }
}

/// The command of a test. `None`: there is none.
fn command(test: &[String], shell: &[String]) -> Result<Option<Vec<String>>, String> {
    let Some((kind, words)) = test.split_first() else {
        return Ok(None);
    };
    let command = match kind.as_str() {
        "NONE" => return Ok(None),
        "CMD" => words.to_vec(),
        "CMD-SHELL" if shell.is_empty() => {
            let shell = ["/bin/sh", "-c"].map(str::to_owned);
            shell.into_iter().chain(words.iter().cloned()).collect()
        }
        "CMD-SHELL" => shell.iter().chain(words).cloned().collect(),
        other => return Err(format!("has a test of the unknown kind {other:?}")),
    };
    let bytes: usize = command.iter().map(|word| word.len() + 1).sum();
    if words.is_empty() || command.first().is_none_or(String::is_empty) {
        return Err("has a test without a command".to_owned());
    }
    if command.len() > WORDS_MAX || bytes > COMMAND_BYTES_MAX {
        return Err("has a test of more than 100 words or 2 KiB".to_owned());
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err("has a test with a NUL in it".to_owned());
    }
    Ok(Some(command))
}
