//! Health section: the probe by which a container shows that it works.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::{Fields, duration, integer};
use super::network::NetworkMode;
use super::restart::RestartPolicy;
use super::{Spec, is_default, process, sketch};

mod http;
mod image;

pub use http::{HttpProbe, StatusRange};

const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(2);
const RETRIES: u32 = 3;

/// Shortest interval: a thousand containers probed once a second are still cheap.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const INTERVAL_MAX: Duration = Duration::from_hours(1);
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// Longest time for an answer: a program that hangs keeps its place for so long.
const TIMEOUT_MAX: Duration = Duration::from_mins(1);
const START_PERIOD_MAX: Duration = Duration::from_hours(1);
const COUNT_MAX: u32 = 100;
const WORDS_MAX: usize = 100;
/// Longest command of a probe: it is stored in a label, too.
const COMMAND_BYTES_MAX: usize = 2 << 10;

/// The `health` of a spec, where it says anything: without, the image's own HEALTHCHECK counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// No probe, also none of the image's.
    None,
    /// A probe in place of the image's.
    Check(HealthCheck),
}

impl Health {
    /// The check, unless there is none.
    #[must_use]
    pub const fn check(&self) -> Option<&HealthCheck> {
        match self {
            Self::None => None,
            Self::Check(check) => Some(check),
        }
    }
}

/// A probe, and the rule by which its answers become a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The probe.
    pub probe: Probe,
    /// Time from one probe to the next, 1 second to 1 hour.
    pub interval: Duration,
    /// Time for an answer, 100 milliseconds to 1 minute.
    pub timeout: Duration,
    /// Failures in a row that make the container unhealthy.
    pub retries: u32,
    /// Time after the start in which failures do not count. A success ends it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub start_period: Duration,
    /// Successes in a row that make the container ready.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub success_threshold: u32,
    /// The consequence of being unhealthy.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_failure: OnFailure,
}

const fn once() -> u32 {
    1
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_once(count: &u32) -> bool {
    *count == 1
}

/// The kind of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// An HTTP request to a port of the container.
    Http(HttpProbe),
    /// A connection to a port of the container.
    Tcp {
        /// The port.
        port: u16,
    },
    /// A program in the container, which ends with 0.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
}

impl Probe {
    /// The kind in a word.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Tcp { .. } => "tcp",
            Self::Exec { .. } => "exec",
        }
    }
}

/// The consequence of being unhealthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// No consequence but that people see it.
    #[default]
    None,
    /// The process is stopped and started again, with the waits of the restart policy.
    Restart,
}

pub(super) fn read(top: &mut Fields<'_>) -> Option<Health> {
    if top.is_sketched() || (top.has("health") && !top.is_object("health")) {
        let none = || json!({"type": "string", "const": "none"});
        let message = || "must be an object, or \"none\" for no probe at all".to_owned();
        let read = top.read("health", |value| match value.as_str() {
            Some("none") => Ok(Health::None),
            _ => Err(sketch::fault(value, none, message)),
        });
        if !top.is_sketched() {
            return read;
        }
    }
    top.object("health", HealthCheck::read).map(Health::Check)
}

/// Notes what a section says that does not go with another one.
pub(super) fn check(spec: &Spec, top: &mut Fields<'_>) {
    let Some(check) = spec.health.as_ref().and_then(Health::check) else {
        return;
    };
    let kind = check.probe.as_str();
    if spec.network.mode == NetworkMode::None && kind != "exec" {
        let message = "reaches no container of network \"none\"; use exec";
        top.fault(&format!("health.{kind}"), message);
    }
    let is_restart = check.on_failure == OnFailure::Restart;
    if is_restart && spec.restart.policy == RestartPolicy::Never {
        let message = "\"restart\" means nothing with the restart policy \"never\"";
        top.fault("health.on_failure", message);
    }
}

pub(super) fn to_json(health: Option<&Health>) -> Value {
    match health {
        None => Value::Null,
        Some(Health::None) => json!("none"),
        Some(Health::Check(check)) => check.to_json(),
    }
}

impl HealthCheck {
    /// The check with this probe, and every default.
    #[must_use]
    pub const fn of(probe: Probe) -> Self {
        Self {
            probe,
            interval: INTERVAL,
            timeout: TIMEOUT,
            retries: RETRIES,
            start_period: Duration::ZERO,
            success_threshold: 1,
            on_failure: OnFailure::None,
        }
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let kinds = ["http", "tcp", "exec"];
        let given = kinds.iter().filter(|kind| fields.has(kind)).count();
        if given != 1 {
            fields.fault("http", "exactly one of http, tcp and exec must be given");
        }
        let http = fields.object("http", HttpProbe::read).map(Probe::Http);
        let tcp = fields.object("tcp", |tcp| {
            let port = tcp.required("port", port)?;
            Some(Probe::Tcp { port })
        });
        let exec = fields.object("exec", |exec| {
            let command = exec.required("command", command)?;
            Some(Probe::Exec { command })
        });
        let interval = fields.read("interval", |value| {
            between(value, INTERVAL_MIN, INTERVAL_MAX)
        });
        let timeout = fields.read("timeout", |value| between(value, TIMEOUT_MIN, TIMEOUT_MAX));
        let retries = fields.read("retries", count);
        let start_period = fields.read("start_period", |value| duration(value, START_PERIOD_MAX));
        let success_threshold = fields.read("success_threshold", count);
        let words = [("none", OnFailure::None), ("restart", OnFailure::Restart)];
        let on_failure = fields.choice("on_failure", &words);
        let check = Self::of(http.or(tcp).or(exec)?);
        Some(Self {
            interval: interval.unwrap_or(check.interval),
            timeout: timeout.unwrap_or(check.timeout),
            retries: retries.unwrap_or(check.retries),
            start_period: start_period.unwrap_or_default(),
            success_threshold: success_threshold.unwrap_or(check.success_threshold),
            on_failure: on_failure.unwrap_or_default(),
            ..check
        })
    }

    /// The check in the words of a deploy body.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let time = |time| humantime::format_duration(time).to_string();
        let probe = match &self.probe {
            Probe::Http(http) => http.to_json(),
            Probe::Tcp { port } => json!({"port": port}),
            Probe::Exec { command } => json!({"command": command}),
        };
        json!({
            self.probe.as_str(): probe,
            "interval": time(self.interval), "timeout": time(self.timeout), "retries": self.retries,
            "start_period": time(self.start_period), "success_threshold": self.success_threshold,
            "on_failure": self.on_failure,
        })
    }
}

fn port(value: &Value) -> Result<u16, String> {
    let port = integer(value, 1..=u64::from(u16::MAX))?;
    u16::try_from(port).map_err(|error| error.to_string())
}

fn count(value: &Value) -> Result<u32, String> {
    let count = integer(value, 1..=u64::from(COUNT_MAX))?;
    u32::try_from(count).map_err(|error| error.to_string())
}

fn between(value: &Value, least: Duration, most: Duration) -> Result<Duration, String> {
    let time = duration(value, most)?;
    if time < least {
        let least = humantime::format_duration(least);
        return Err(format!("must be {least} at least"));
    }
    Ok(time)
}

fn command(value: &Value) -> Result<Vec<String>, String> {
    let words = process::words(value)?;
    let bytes: usize = words.iter().map(|word| word.len() + 1).sum();
    if words.len() > WORDS_MAX || bytes > COMMAND_BYTES_MAX {
        return Err("must be 100 words and 2 KiB at most; put more into a script".to_owned());
    }
    if words.first().is_some_and(String::is_empty) {
        return Err("must begin with the name of a program".to_owned());
    }
    Ok(words)
}

#[cfg(test)]
mod tests;
