//! After section: the containers that one waits for at its first start.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::{Fields, duration, parsed};
use crate::id::ContainerName;

/// Containers that one container may wait for.
const AFTER_MAX: usize = 16;
/// Longest time after which a container may start anyway.
const TIMEOUT_MAX: Duration = Duration::from_hours(24 * 7);

/// Container that another one waits for at its first start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    /// Name of the container that is waited for. It need not exist yet.
    pub name: ContainerName,
    /// State that is waited for.
    pub condition: AfterCondition,
    /// Time after which it is waited for no more. `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

/// State of a container that another one waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AfterCondition {
    /// The process was started.
    #[default]
    Started,
    /// The container runs, and counts as ready.
    Ready,
    /// The container ended with exit code 0, and its restart policy leaves it so.
    Completed,
}

impl AfterCondition {
    /// The state as it stands in a body.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Ready => "ready",
            Self::Completed => "completed",
        }
    }
}

impl After {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.required("name", parsed::<ContainerName>);
        let conditions = [
            ("started", AfterCondition::Started),
            ("ready", AfterCondition::Ready),
            ("completed", AfterCondition::Completed),
        ];
        let condition = fields.choice("condition", &conditions).unwrap_or_default();
        let timeout = fields.read("timeout", |value| duration(value, TIMEOUT_MAX));
        Some(Self {
            name: name?,
            condition,
            timeout,
        })
    }
}

/// Reads the member `after`. The container's own `name`, if it is known, is no container to wait for.
pub(super) fn read(top: &mut Fields<'_>, name: Option<&ContainerName>) -> Option<Vec<After>> {
    let items = top.objects("after", AFTER_MAX, After::read)?;
    let (mut after, mut names) = (Vec::new(), BTreeSet::new());
    for (index, item) in items.iter().enumerate() {
        let read = top.item("after", index, item, |fields| {
            let entry = After::read(fields)?;
            if name == Some(&entry.name) {
                fields.fault(
                    "name",
                    "is the container itself, which cannot wait for itself",
                );
            }
            if !names.insert(entry.name.clone()) {
                fields.fault("name", "is named twice; one entry says what is waited for");
            }
            Some(entry)
        });
        after.extend(read);
    }
    Some(after)
}

pub(super) fn to_json(after: &[After]) -> Value {
    let shown = |entry: &After| {
        let timeout = entry.timeout.map(humantime::format_duration);
        let timeout = timeout.map(|timeout| timeout.to_string());
        json!({"name": entry.name, "condition": entry.condition, "timeout": timeout})
    };
    after.iter().map(shown).collect()
}
