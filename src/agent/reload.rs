//! The configuration that was read again, as far as it counts in a running agent; and the alarms about
//! what does not.

use std::path::Path;

use state::alarm::Alarm;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::first_token;
use crate::api::CallerToken;
use crate::config::Reloaded;
use crate::journal::Journal;

/// Work that the last reload left undone. The default: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ReloadFaults {
    /// Faults for which the configuration is not taken.
    unusable: Option<String>,
    /// Keys with other values than those in force.
    waiting: Option<String>,
}

/// Takes in the configuration that was read again.
pub(super) fn take_in(
    reloaded: &Reloaded,
    token: &CallerToken,
    made: &Path,
    faults: &watch::Sender<ReloadFaults>,
) {
    let config = match &reloaded.outcome {
        Ok(config) => config,
        Err(errors) => {
            let text = errors.to_string();
            let unusable = text.lines().collect::<Vec<_>>().join("; ");
            faults.send_modify(|faults| faults.unusable = Some(unusable));
            return tracing::error!(%errors, "configuration not reloaded; the one before stays in force");
        }
    };
    let is_other_token = match &config.api.token {
        Some(new) => token.replace(new.clone()),
        None => take_made(token, made),
    };
    let (changed, waiting) = (reloaded.changed.join(" "), reloaded.waiting.join(" "));
    tracing::info!(changed, is_other_token, "configuration reloaded");
    if !waiting.is_empty() {
        tracing::warn!(
            keys = waiting,
            "changed configuration keys wait for a restart of the agent"
        );
    }
    faults.send_replace(ReloadFaults {
        unusable: None,
        waiting: Some(waiting).filter(|keys| !keys.is_empty()),
    });
}

/// Takes the token that the agent made, or makes one. True if it is another one than before.
fn take_made(token: &CallerToken, path: &Path) -> bool {
    match first_token::admin_token(path) {
        Ok(made) => token.replace(made),
        Err(error) => {
            let path = path.display();
            tracing::error!(%path, %error, "admin token not made; the token before stays in force");
            false
        }
    }
}

/// Raises and clears the alarms about the last reload.
pub(super) fn follow(
    mut faults: watch::Receiver<ReloadFaults>,
    journal: Journal,
    stop: CancellationToken,
    tracker: &TaskTracker,
) {
    tracker.spawn(async move {
        loop {
            let now = faults.borrow_and_update().clone();
            journal.set_alarm(Alarm::ConfigUnusable, "", now.unusable);
            journal.set_alarm(Alarm::ConfigWaits, "", now.waiting);
            let Some(Ok(())) = stop.run_until_cancelled(faults.changed()).await else {
                return;
            };
        }
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsString;

    use super::*;
    use crate::config::{Flags, LoadFor, Reload, load};
    use crate::lock::lock;
    use crate::metrics::Metrics;

    #[tokio::test(start_paused = true)]
    async fn a_configuration_that_cannot_be_taken_is_an_alarm_until_a_good_one_is_read() {
        let environment = std::sync::Arc::new(std::sync::Mutex::new(BTreeMap::from([
            ("NODE_ID", "one"),
            ("CHAS_LISTEN", "127.0.0.1"),
            ("CHAS_TOKEN", "0123456789abcdef"),
        ])));
        let loaded = {
            let environment = std::sync::Arc::clone(&environment);
            move || {
                let now = lock(&environment).clone();
                let read = |name: &str| now.get(name).map(OsString::from);
                load(&Flags::default(), &read, LoadFor::Run)
            }
        };
        let reload = Reload::new(loaded().effective, loaded);
        let (token, journal) = (CallerToken::new(None), Journal::new(Metrics::new()));
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let (faults, told) = watch::channel(ReloadFaults::default());
        follow(told, journal.clone(), stop.clone(), &tracker);
        let nowhere = Path::new("/nonexistent/token");
        for (key, value, expected) in [
            ("LOG_LEVEL", "LOUD", vec![(Alarm::ConfigUnusable, "LOUD")]),
            ("LOG_LEVEL", "DEBUG", vec![]),
            ("NODE_ID", "two", vec![(Alarm::ConfigWaits, "node.id")]),
            // What waits still does while a later change is at fault.
            (
                "LOG_LEVEL",
                "LOUD",
                vec![
                    (Alarm::ConfigUnusable, "LOUD"),
                    (Alarm::ConfigWaits, "node.id"),
                ],
            ),
            ("LOG_LEVEL", "DEBUG", vec![(Alarm::ConfigWaits, "node.id")]),
            ("NODE_ID", "one", vec![]),
        ] {
            lock(&environment).insert(key, value);
            take_in(&reload.again(), &token, nowhere, &faults);
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            let alarms = journal.alarms();
            let named: Vec<_> = alarms.iter().map(|standing| standing.alarm).collect();
            let expected_names: Vec<_> = expected.iter().map(|(alarm, _)| *alarm).collect();
            assert_eq!(named, expected_names, "{key}={value}");
            for (standing, (_, part)) in alarms.iter().zip(&expected) {
                assert!(standing.message.contains(part), "{standing:?}");
            }
        }
        stop.cancel();
        tracker.close();
        tracker.wait().await;
    }
}
