//! The configuration read again while the agent runs, with the keys that have other values by now.

use std::sync::{Mutex, PoisonError};

use super::{Config, ConfigErrors, EffectiveValue, LoadedConfig};

/// The configuration, read again.
#[derive(Debug)]
pub struct Reloaded {
    /// The configuration as it is now, or every error in it.
    pub outcome: Result<Config, ConfigErrors>,
    /// Keys whose values differ from those that were read before.
    pub changed: Vec<&'static str>,
}

/// A way to read the configuration again, from where it was read at the start.
pub struct Reload {
    load: Box<dyn Fn() -> LoadedConfig + Send + Sync>,
    before: Mutex<Vec<EffectiveValue>>,
}

impl std::fmt::Debug for Reload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reload")
            .field("before", &self.before)
            .finish_non_exhaustive()
    }
}

impl Reload {
    /// A way to read again what was read as `before`.
    #[must_use]
    pub fn new(
        before: Vec<EffectiveValue>,
        load: impl Fn() -> LoadedConfig + Send + Sync + 'static,
    ) -> Self {
        Self {
            load: Box::new(load),
            before: Mutex::new(before),
        }
    }

    /// Reads the configuration again. Reads files; blocks.
    #[must_use]
    pub fn again(&self) -> Reloaded {
        let LoadedConfig { effective, outcome } = (self.load)();
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let both = before.iter().zip(&effective);
        let changed = both
            .filter(|(before, now)| before.value != now.value)
            .map(|(_, now)| now.key)
            .collect();
        if outcome.is_ok() {
            *before = effective;
        }
        Reloaded { outcome, changed }
    }
}
