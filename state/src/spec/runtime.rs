//! Runtime section: by which of the node's OCI runtimes the container is run.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::{Fields, parsed, text};
use crate::id::{ContainerName, InvalidName};

/// Word for the node's own choice.
const DEFAULT: &str = "default";

/// Name of a runtime that the node's configuration has, as a DNS label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RuntimeClass(ContainerName);

impl RuntimeClass {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for RuntimeClass {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.parse().map(Self)
    }
}

stored_as_text!(RuntimeClass);

impl fmt::Display for RuntimeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reads the section. `None`: the node's own choice.
pub(super) fn read(top: &mut Fields<'_>) -> Option<RuntimeClass> {
    top.read("runtime", |value| match text(value)? {
        DEFAULT => Ok(None),
        _ => parsed(value).map(Some),
    })
    .flatten()
}

pub(super) fn to_json(runtime: Option<&RuntimeClass>) -> Value {
    json!(runtime.map_or(DEFAULT, RuntimeClass::as_str))
}
