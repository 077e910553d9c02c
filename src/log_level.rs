//! Level of the agent's own log: the configured one, or another for a while, after which it falls back.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::lock::lock;

/// Level of the log, as callers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevelView {
    /// Level in force.
    pub level: String,
    /// Level that is configured.
    pub configured: String,
    /// Time at which the configured one is in force again. `None`: it is.
    pub until: Option<SystemTime>,
}

/// Level of the log. Clones are about the same.
#[derive(Clone)]
pub struct LogLevel(Arc<Dial>);

struct Dial {
    /// Puts a level in force; false if it is none.
    apply: Box<dyn Fn(&str) -> bool + Send + Sync>,
    levels: Mutex<Levels>,
    changed: Notify,
}

#[derive(Debug)]
struct Levels {
    configured: String,
    other: Option<OtherLevel>,
}

/// Level that is in force for a while.
#[derive(Clone, Debug)]
struct OtherLevel {
    level: String,
    end: Instant,
    until: SystemTime,
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLevel")
            .field("levels", &self.0.levels)
            .finish_non_exhaustive()
    }
}

impl LogLevel {
    /// The level of a log on which the configured one is in force; `apply` puts another one in force, and
    /// answers whether it is one.
    pub fn new(configured: &str, apply: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        let levels = Levels {
            configured: configured.to_owned(),
            other: None,
        };
        Self(Arc::new(Dial {
            apply: Box::new(apply),
            levels: Mutex::new(levels),
            changed: Notify::new(),
        }))
    }

    /// The level now.
    #[must_use]
    pub fn now(&self) -> LogLevelView {
        let levels = lock(&self.0.levels);
        let configured = levels.configured.clone();
        let other = levels.other.clone();
        LogLevelView {
            level: other
                .as_ref()
                .map_or_else(|| configured.clone(), |other| other.level.clone()),
            until: other.map(|other| other.until),
            configured,
        }
    }

    /// Takes what is configured now. Where that is another level than before, it is in force at once,
    /// and ends one that is in force for a while; the same as before ends none.
    pub fn configure(&self, level: &str) {
        let mut levels = lock(&self.0.levels);
        if levels.configured == level {
            return;
        }
        if (self.0.apply)(level) {
            level.clone_into(&mut levels.configured);
            let ended = levels.other.take().map(|other| other.level);
            tracing::info!(now = level, ended, "log level configured");
        } else {
            tracing::warn!(asked = level, "log level not changed");
        }
    }

    /// Puts another level in force for a time, in the place of one that was before. False if it is none.
    #[must_use]
    pub fn set_for(&self, level: &str, time: Duration) -> bool {
        let mut levels = lock(&self.0.levels);
        // By the level before, which may show it when the new one does not, or the other way round.
        tracing::info!(to = level, seconds = time.as_secs(), "log level changes");
        if !(self.0.apply)(level) {
            return false;
        }
        tracing::info!(now = level, seconds = time.as_secs(), "log level changed");
        levels.other = Some(OtherLevel {
            level: level.to_owned(),
            end: Instant::now() + time,
            until: SystemTime::now() + time,
        });
        drop(levels);
        self.0.changed.notify_one();
        true
    }

    /// Lets each other level fall back at its end, for ever.
    pub async fn keep(self) {
        loop {
            let end = lock(&self.0.levels).other.as_ref().map(|other| other.end);
            let Some(end) = end else {
                self.0.changed.notified().await;
                continue;
            };
            tokio::select! {
                () = sleep_until(end) => self.fall_back(),
                () = self.0.changed.notified() => {}
            }
        }
    }

    fn fall_back(&self) {
        let mut levels = lock(&self.0.levels);
        let is_over = |other: &OtherLevel| other.end <= Instant::now();
        if levels.other.as_ref().is_some_and(is_over) {
            levels.other = None;
            let level = levels.configured.as_str();
            if (self.0.apply)(level) {
                tracing::info!(now = level, "log level as configured again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A level whose log takes any but `nonsense`, and what is in force there.
    fn level() -> (LogLevel, Arc<Mutex<String>>) {
        let in_force = Arc::new(Mutex::new("info".to_owned()));
        let given = Arc::clone(&in_force);
        let level = LogLevel::new("info", move |level| {
            let is_one = level != "nonsense";
            if is_one {
                level.clone_into(&mut lock(&given));
            }
            is_one
        });
        (level, in_force)
    }

    #[tokio::test(start_paused = true)]
    async fn another_level_is_in_force_for_its_time_and_falls_back() {
        let (level, in_force) = level();
        let keeping = level.clone().keep();
        let using = async {
            let now = || lock(&in_force).clone();
            assert!(level.set_for("debug", Duration::from_secs(60)));
            assert_eq!(now(), "debug");
            assert!(level.now().until.is_some());
            tokio::time::sleep(Duration::from_secs(59)).await;
            assert_eq!(now(), "debug");
            // A later order counts from its own moment.
            assert!(level.set_for("trace", Duration::from_secs(60)));
            tokio::time::sleep(Duration::from_secs(59)).await;
            assert_eq!(now(), "trace");
            tokio::time::sleep(Duration::from_secs(2)).await;
            let view = level.now();
            assert_eq!((now().as_str(), view.until), ("info", None));
            assert_eq!(
                (view.level.as_str(), view.configured.as_str()),
                ("info", "info")
            );
        };
        tokio::select! {
            () = keeping => {}
            () = using => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_configured_anew_ends_another_level_and_what_is_none_changes_nothing() {
        let (level, in_force) = level();
        let now = || lock(&in_force).clone();
        assert!(!level.set_for("nonsense", Duration::from_secs(60)));
        assert_eq!((now().as_str(), level.now().until), ("info", None));
        assert!(level.set_for("debug", Duration::from_secs(60)));
        level.configure("nonsense");
        assert_eq!(now(), "debug");
        // A reload for something else leaves it as it is.
        level.configure("info");
        assert_eq!(now(), "debug");
        assert!(level.now().until.is_some());
        level.configure("warn");
        assert_eq!(now(), "warn");
        let view = level.now();
        assert_eq!((view.level.as_str(), view.until), ("warn", None));
    }
}
