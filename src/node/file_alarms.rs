//! Alarms about files that the configuration names: those for registries, and those with secrets.
//! They are cleared when the files are mended.

use std::time::Duration;

use state::alarm::Alarm;
use tokio::time::MissedTickBehavior;

use crate::journal::Journal;

/// Faults that are told; the others are counted.
const TOLD_MAX: usize = 8;

/// Raises and clears an alarm with every `interval`, by what `look` finds. It never ends.
pub(crate) async fn follow(
    alarm: Alarm,
    look: impl Fn() -> Vec<String> + Clone + Send + 'static,
    interval: Duration,
    journal: Journal,
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match tokio::task::spawn_blocking(look.clone()).await {
            Ok(faults) => journal.set_alarm(alarm, "", told(&faults)),
            Err(error) => tracing::debug!(%error, %alarm, "files not looked at"),
        }
    }
}

fn told(faults: &[String]) -> Option<String> {
    let more = faults.len().saturating_sub(TOLD_MAX);
    let mut told = faults[..faults.len() - more].join("; ");
    if more > 0 {
        told += &format!("; and {more} more of these");
    }
    (!faults.is_empty()).then_some(told)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::lock::lock;
    use crate::metrics::Metrics;

    #[test]
    fn many_faults_are_counted() {
        let faults: Vec<_> = (0..10).map(|n| format!("fault {n}")).collect();
        let told = told(&faults).unwrap();
        assert!(told.starts_with("fault 0; fault 1"), "{told}");
        assert!(told.ends_with("fault 7; and 2 more of these"), "{told}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_file_raises_the_alarm_and_a_mended_one_clears_it() {
        let faults = Arc::new(Mutex::new(Vec::new()));
        let journal = Journal::new(Metrics::new());
        let looked = Arc::clone(&faults);
        let look = move || lock(&looked).clone();
        let interval = Duration::from_secs(30);
        let tracker = tokio_util::task::TaskTracker::new();
        tracker.spawn(follow(
            Alarm::RegistryFileUnusable,
            look,
            interval,
            journal.clone(),
        ));
        for now in [vec!["a is bad", "b is bad"], vec!["b is bad"], vec![]] {
            *lock(&faults) = now.iter().map(ToString::to_string).collect();
            tokio::time::sleep(interval + Duration::from_secs(1)).await;
            let standing: Vec<_> = journal.alarms().into_iter().collect();
            let expected = (!now.is_empty()).then(|| now.join("; "));
            let told: Option<&str> = standing.first().map(|kept| kept.message.as_str());
            assert_eq!(told, expected.as_deref());
            assert!(
                standing
                    .iter()
                    .all(|kept| kept.alarm == Alarm::RegistryFileUnusable)
            );
        }
    }
}
