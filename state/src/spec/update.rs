//! Update section: how a generation takes the place of the one before.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Spec;
use super::fields::{Fields, boolean, duration, integer};
use super::is_default;
use super::network::NetworkMode;
use super::volumes::VolumeSource;

const DEADLINE_MAX: Duration = Duration::from_hours(24);
const RETRIES_MAX: u32 = 100;
const MIN_READY_MAX: Duration = Duration::from_hours(1);

/// Order in which the generations of a container change places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The one before is removed, and then the next is started.
    #[default]
    StopFirst,
    /// The next is started beside the one before, and takes its ports once it is ready.
    StartFirst,
}

impl Strategy {
    const fn as_str(self) -> &'static str {
        match self {
            Self::StopFirst => "stop-first",
            Self::StartFirst => "start-first",
        }
    }
}

/// Manner in which a generation takes the place of the one before, and when it is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateRules {
    /// Order in which they change places.
    #[serde(default, skip_serializing_if = "is_default")]
    pub strategy: Strategy,
    /// Time for which the next one has to be ready before it counts, 0 to 1 hour.
    pub min_ready: Duration,
    /// Time after its first start within which it has to count, 1 second to 24 hours.
    #[serde(default = "deadline", skip_serializing_if = "is_deadline")]
    pub deadline: Duration,
    /// Whether the one before comes back where the next is given up.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rollback: bool,
    /// Ends of its process within the deadline after which it is given up, 1 to 100.
    #[serde(default = "retries", skip_serializing_if = "is_retries")]
    pub retries: u32,
}

const fn deadline() -> Duration {
    Duration::from_mins(5)
}

fn is_deadline(value: &Duration) -> bool {
    *value == deadline()
}

const fn retries() -> u32 {
    3
}

const fn is_retries(value: &u32) -> bool {
    *value == retries()
}

impl Default for UpdateRules {
    fn default() -> Self {
        Self {
            strategy: Strategy::StopFirst,
            min_ready: Duration::from_secs(10),
            deadline: deadline(),
            rollback: false,
            retries: retries(),
        }
    }
}

impl UpdateRules {
    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let strategies = [Strategy::StopFirst, Strategy::StartFirst].map(|one| (one.as_str(), one));
        let strategy = fields.choice("strategy", &strategies);
        let min_ready = fields.read("min_ready", |value| duration(value, MIN_READY_MAX));
        let deadline = fields.read("deadline", |value| match duration(value, DEADLINE_MAX)? {
            short if short < Duration::from_secs(1) => Err("must be 1s at least".to_owned()),
            deadline => Ok(deadline),
        });
        let rollback = fields.read("rollback", boolean);
        let retries = fields.read("retries", |value| integer(value, 1..=RETRIES_MAX.into()));
        let retries = retries.and_then(|retries| u32::try_from(retries).ok());
        let default = Self::default();
        let read = Self {
            strategy: strategy.unwrap_or_default(),
            min_ready: min_ready.unwrap_or(default.min_ready),
            deadline: deadline.unwrap_or(default.deadline),
            rollback: rollback.unwrap_or_default(),
            retries: retries.unwrap_or(default.retries),
        };
        if read.min_ready >= read.deadline {
            fields.fault("min_ready", "must be shorter than \"deadline\"");
        }
        Some(read)
    }

    pub(super) fn to_json(self) -> Value {
        let text = |duration| humantime::format_duration(duration).to_string();
        json!({"strategy": self.strategy.as_str(), "min_ready": text(self.min_ready), "deadline": text(self.deadline),
            "rollback": self.rollback, "retries": self.retries})
    }

    /// Whether both generations run at once for a while.
    #[must_use]
    pub fn is_start_first(&self) -> bool {
        self.strategy == Strategy::StartFirst
    }
}

/// Notes what two generations of a container cannot have at once.
pub(super) fn check(spec: &Spec, top: &mut Fields<'_>) {
    if !spec.update.is_start_first() {
        return;
    }
    if spec.network.mode == NetworkMode::Host {
        let message = "cannot be \"start-first\" with network \"host\": both generations would want \
                       the same ports of the host at once";
        top.fault("update.strategy", message);
    }
    if spec.schedule.is_some() {
        let message =
            "cannot be \"start-first\" with a schedule: two runs would be under way at once";
        top.fault("update.strategy", message);
    }
    for (index, mount) in spec.volumes.iter().enumerate() {
        let of_both = match &mount.source {
            VolumeSource::Volume(_) | VolumeSource::HostPath { .. } => !mount.read_only,
            VolumeSource::Tmpfs { .. } => false,
        };
        if of_both && !mount.shared {
            let message = "both generations would write to it at once (update.strategy \"start-first\"); say \
                           \"shared\": true if its programs can, or \"read_only\": true, or use \"stop-first\"";
            top.fault(&format!("volumes[{index}]"), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(body: &Value) -> Vec<(String, String)> {
        let faults = super::super::parse::deploy(body).err().unwrap_or_default();
        faults
            .into_iter()
            .map(|fault| (fault.field, fault.message))
            .collect()
    }

    #[test]
    fn every_fault_of_the_section_is_told() {
        let body = json!({"name": "a", "image": "b", "update": {
            "strategy": "rolling", "min_ready": "2h", "deadline": 0, "rollback": "yes", "retries": 0, "max_surge": 1}});
        let fields: Vec<_> = faults(&body).into_iter().map(|(field, _)| field).collect();
        let expected = [
            "strategy",
            "min_ready",
            "deadline",
            "rollback",
            "retries",
            "max_surge",
        ];
        assert_eq!(fields, expected.map(|field| format!("update.{field}")));
        let body =
            json!({"name": "a", "image": "b", "update": {"min_ready": "10s", "deadline": "10s"}});
        assert_eq!(faults(&body)[0].0, "update.min_ready");
    }

    #[test]
    fn what_both_generations_cannot_have_is_refused_for_start_first() {
        let body = |strategy: &str| {
            json!({"name": "a", "image": "b", "network": "host", "update": {"strategy": strategy}, "volumes": [
                {"volume": "a", "path": "/a"},
                {"volume": "b", "path": "/b", "read_only": true},
                {"volume": "c", "path": "/c", "shared": true},
                {"host_path": "/d", "path": "/d"},
                {"tmpfs": "1m", "path": "/e"},
            ]})
        };
        let fields: Vec<_> = faults(&body("start-first"))
            .into_iter()
            .map(|(field, _)| field)
            .collect();
        assert_eq!(fields, ["update.strategy", "volumes[0]", "volumes[3]"]);
        assert_eq!(faults(&body("stop-first")), []);
    }
}
