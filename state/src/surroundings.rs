//! Surroundings of a container: what holds it back although nothing of itself does. Plain data; who
//! finds it out is [`crate::order`].

use crate::contact::Silence;
use crate::cordon::CordonedBy;
use crate::id::ContainerName;
use crate::reason::Reason;
use crate::spec::AfterCondition;
use crate::time::BootTime;

/// All that stands outside of a container, and decides about it as its record does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Containers that this one waits for. `None`: it may be started.
    pub waits: Option<Waits>,
    /// Cause for which it is not to run for a while. `None`: it may.
    pub suspension: Option<Suspension>,
    /// Containers that the generation before waits for, which serves and is to be started again first.
    /// `None`: it may be started, or there is none.
    pub former_waits: Option<Waits>,
    /// Whether nothing is ended for its health, since most of the node's containers stopped working
    /// at once: see [`crate::health::brake`].
    pub spares_unhealthy: bool,
    /// Holders of the node's cordon, which keeps back what is new.
    pub cordon: CordonedBy,
}

impl Surroundings {
    /// Surroundings in which nothing holds a container back.
    pub const NONE: Self = Self {
        waits: None,
        suspension: None,
        former_waits: None,
        spares_unhealthy: false,
        cordon: CordonedBy {
            chas: false,
            operator: false,
        },
    };
}

/// Cause for which a container rests for a while, although it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspension {
    /// CHaS does not answer.
    Silent(Silence),
    /// The node is drained.
    Drained {
        /// Whether its turn to be stopped has come; until then what runs of it, runs on.
        is_due: bool,
    },
}

impl Suspension {
    /// Whether what runs of the container is to be stopped now.
    #[must_use]
    pub const fn is_certain(&self) -> bool {
        match self {
            Self::Silent(silence) => silence.is_certain,
            Self::Drained { is_due } => *is_due,
        }
    }

    /// The reason of a container that rests for it.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Silent(_) => Reason::Disconnected,
            Self::Drained { .. } => Reason::NodeDrained,
        }
    }

    /// All of it in a sentence, which is the same for as long as it lasts.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Silent(silence) => silence.message(),
            Self::Drained { .. } => {
                "an operator drains the node; the container starts again when that is over"
                    .to_owned()
            }
        }
    }

    /// The one of two causes that decides: the node's drain, unless the other stops the container now and
    /// that does not.
    #[must_use]
    pub const fn either(drained: Option<Self>, silent: Option<Self>) -> Option<Self> {
        match (drained, silent) {
            (Some(drained), Some(silent)) if !drained.is_certain() && silent.is_certain() => {
                Some(silent)
            }
            (Some(drained), _) => Some(drained),
            (None, silent) => silent,
        }
    }
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
