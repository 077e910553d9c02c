//! The configuration read again while the agent runs, with the keys that have other values by now.

use std::sync::{Mutex, PoisonError};

use super::{Config, ConfigErrors, EffectiveValue, LoadedConfig};

/// Keys whose new values are in force once they are read again. The files that keys name are read
/// each time that they are needed.
const RELOADED: [&str; 3] = ["api.token", "api.token_file", "logging.level"];

/// The configuration, read again.
#[derive(Debug)]
pub struct Reloaded {
    /// The configuration as it is now, or every error in it.
    pub outcome: Result<Config, ConfigErrors>,
    /// Keys with other values than before, which are in force from now on.
    pub changed: Vec<&'static str>,
    /// Keys with other values than those in force, which they get with the next start.
    pub waiting: Vec<&'static str>,
}

/// A way to read the configuration again, from where it was read at the start.
pub struct Reload {
    load: Box<dyn Fn() -> LoadedConfig + Send + Sync>,
    /// The values in force.
    in_force: Mutex<Vec<EffectiveValue>>,
}

impl std::fmt::Debug for Reload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reload")
            .field("in_force", &self.in_force)
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
            in_force: Mutex::new(before),
        }
    }

    /// Reads the configuration again. Reads files; blocks.
    #[must_use]
    pub fn again(&self) -> Reloaded {
        let LoadedConfig { effective, outcome } = (self.load)();
        let (mut changed, mut waiting) = (Vec::new(), Vec::new());
        if outcome.is_ok() {
            let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
            let both = in_force.iter_mut().zip(effective);
            for (before, now) in both.filter(|(before, now)| before.value != now.value) {
                if RELOADED.contains(&now.key) {
                    changed.push(now.key);
                    *before = now;
                } else {
                    waiting.push(now.key);
                }
            }
        }
        Reloaded {
            outcome,
            changed,
            waiting,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsString;
    use std::sync::Arc;

    use super::*;
    use crate::config::{Flags, LoadFor, load};

    type Environment = BTreeMap<&'static str, String>;

    fn loaded(environment: &Environment) -> LoadedConfig {
        let read = |name: &str| environment.get(name).map(OsString::from);
        load(&Flags::default(), &read, LoadFor::Run)
    }

    #[test]
    fn what_waits_for_a_restart_waits_until_it_is_as_at_the_start() {
        let start = Environment::from([
            ("NODE_ID", "one".to_owned()),
            ("CHAS_LISTEN", "127.0.0.1".to_owned()),
            ("CHAS_TOKEN", "0123456789abcdef".to_owned()),
        ]);
        let environment = Arc::new(Mutex::new(start.clone()));
        let read = Arc::clone(&environment);
        let reload = Reload::new(loaded(&start).effective, move || {
            loaded(&read.lock().unwrap())
        });
        let again = |change: &dyn Fn(&mut Environment)| {
            change(&mut environment.lock().unwrap());
            let again = reload.again();
            assert!(again.outcome.is_ok(), "{:?}", again.outcome);
            (again.changed, again.waiting)
        };
        assert_eq!(again(&|_| {}), (vec![], vec![]));
        let (changed, waiting) = again(&|now| {
            now.insert("NODE_ID", "two".to_owned());
            now.insert("LOG_LEVEL", "DEBUG".to_owned());
            now.remove("CHAS_TOKEN");
        });
        assert_eq!(changed, ["api.token", "logging.level"]);
        assert_eq!(waiting, ["node.id"]);
        // It waits as long as nobody starts the agent again, or takes the change back.
        assert_eq!(again(&|_| {}), (vec![], vec!["node.id"]));
        let back = again(&|now| {
            now.insert("NODE_ID", "one".to_owned());
            now.insert("CHAS_TOKEN", "another-0123456789".to_owned());
        });
        assert_eq!(back, (vec!["api.token"], vec![]));
    }
}
