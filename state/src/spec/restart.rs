//! Restart section: whether a container that ended is started again.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::{Fields, integer};

/// Restart rule for a container whose task ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// Cases in which the container is started again.
    pub policy: RestartPolicy,
    /// Most restarts in a row. `None`: for ever, with growing waits.
    pub max_retries: Option<u32>,
}

/// Cases in which a container that ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Restart after every exit code.
    #[default]
    Always,
    /// Restart after every exit code but 0.
    OnFailure,
    /// Never restart.
    Never,
}

impl Restart {
    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let policies = [
            ("always", RestartPolicy::Always),
            ("on-failure", RestartPolicy::OnFailure),
            ("never", RestartPolicy::Never),
        ];
        let policy = fields.choice("policy", &policies).unwrap_or_default();
        let max_retries = fields
            .read("max_retries", |value| integer(value, 0..=1_000_000))
            .and_then(|retries| u32::try_from(retries).ok());
        if policy == RestartPolicy::Never && max_retries.is_some() {
            fields.fault("max_retries", "means nothing with the policy \"never\"");
        }
        Some(Self {
            policy,
            max_retries,
        })
    }

    pub(super) fn to_json(self) -> Value {
        json!({"policy": self.policy, "max_retries": self.max_retries})
    }
}
