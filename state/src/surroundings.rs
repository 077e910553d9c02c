//! Surroundings of a container: what holds it back although nothing of itself does. Plain data; who
//! finds it out is [`crate::order`].

use crate::contact::Suspension;
use crate::id::ContainerName;
use crate::spec::AfterCondition;
use crate::time::BootTime;

/// All that stands outside of a container, and decides about it as its record does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Containers that this one waits for. `None`: it may be started.
    pub waits: Option<Waits>,
    /// Silence of CHaS for which it is not to run. `None`: it may.
    pub suspension: Option<Suspension>,
    /// Containers that the generation before waits for, which serves and is to be started again first.
    /// `None`: it may be started, or there is none.
    pub former_waits: Option<Waits>,
    /// Whether nothing is ended for its health, since most of the node's containers stopped working
    /// at once: see [`crate::health::brake`].
    pub spares_unhealthy: bool,
}

impl Surroundings {
    /// Surroundings in which nothing holds a container back.
    pub const NONE: Self = Self {
        waits: None,
        suspension: None,
        former_waits: None,
        spares_unhealthy: false,
    };
}

/// Containers that one waits for before its first start; not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    /// Each of them, in the order of the spec.
    pub entries: Vec<WaitsEntry>,
    /// Time at which the last of them is waited for no more. `None`: never.
    pub until: Option<BootTime>,
    /// First time at which one of them is waited for no more. `None`: never.
    pub next: Option<BootTime>,
}

/// Container that another one waits for, and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitsEntry {
    /// Name of that container.
    pub name: ContainerName,
    /// The state that is waited for.
    pub condition: AfterCondition,
    /// State of that container now, in a phrase without a subject. `None`: nobody has asked for it
    /// ([`crate::order::tell`]).
    pub why: Option<String>,
    /// Time at which it is waited for no more. `None`: never.
    pub until: Option<BootTime>,
}

impl Waits {
    /// All of it in a sentence.
    #[must_use]
    pub fn message(&self) -> String {
        let entry = |entry: &WaitsEntry| {
            let word = entry.condition.as_str();
            let why = entry.why.as_ref().map(|why| format!(", which {why}"));
            format!("{} to be {word}{}", entry.name, why.unwrap_or_default())
        };
        let entries: Vec<_> = self.entries.iter().map(entry).collect();
        format!("waits for {}", entries.join("; for "))
    }
}
