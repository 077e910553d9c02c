//! Section `on_disconnect`: what a container does while CHaS does not answer.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::{Fields, duration};

/// Shortest silence that ends a container; less is no silence but a slow answer.
const STOP_AFTER_MIN: Duration = Duration::from_secs(10);
/// Longest silence that may be asked for.
const STOP_AFTER_MAX: Duration = Duration::from_hours(24 * 30);

/// Conduct of a container while CHaS does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnDisconnect {
    /// Silence of CHaS after which the container is stopped, until the next answer; 10 s to 30 days.
    /// `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_after: Option<Duration>,
}

impl OnDisconnect {
    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let stop_after = fields.read("stop_after", |value| {
            let read = duration(value, STOP_AFTER_MAX)?;
            if read < STOP_AFTER_MIN {
                let least = humantime::format_duration(STOP_AFTER_MIN);
                return Err(format!(
                    "must be {least} at least: CHaS is asked at an interval, and not at every moment"
                ));
            }
            Ok(read)
        });
        Some(Self { stop_after })
    }

    pub(super) fn to_json(self) -> Value {
        let stop_after = self.stop_after.map(humantime::format_duration);
        json!({"stop_after": stop_after.map(|stop_after| stop_after.to_string())})
    }
}
