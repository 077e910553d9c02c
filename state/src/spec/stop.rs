//! Stop section: how a container is asked to end, and how long it may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::{Fields, duration, parsed};
use super::signal::Signal;

const TIMEOUT_MAX: Duration = Duration::from_hours(1);

/// Signal and grace by which a container is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// The signal that asks the task to end. `None`: the image's, or `SIGTERM`.
    pub signal: Option<Signal>,
    /// The grace between the signal and SIGKILL, 0 to 1 hour.
    pub timeout: Duration,
}

impl Default for Stop {
    /// The default of docker and nerdctl.
    fn default() -> Self {
        Self {
            signal: None,
            timeout: Duration::from_secs(10),
        }
    }
}

impl Stop {
    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let signal = fields.read("signal", parsed);
        let timeout = fields.read("timeout", |value| duration(value, TIMEOUT_MAX));
        Some(Self {
            signal,
            timeout: timeout.unwrap_or(Self::default().timeout),
        })
    }

    pub(super) fn to_json(&self) -> Value {
        let timeout = humantime::format_duration(self.timeout).to_string();
        json!({"signal": self.signal, "timeout": timeout})
    }
}
