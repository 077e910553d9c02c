//! The silence of a registry: how long it is borne where something waits for its answer.

use std::time::Duration;

use state::desired::Record;
use state::reason::Reason;

use crate::runtime::{PullProgress, RuntimeError};

/// Interval between two looks whether it has answered.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Ends when a registry has not answered for `limit`. The wait for another pull is none for a
/// registry, and once anything is to be fetched it has answered.
pub(super) async fn unanswered(progress: &PullProgress, limit: Duration) {
    let mut silent = Duration::ZERO;
    while silent < limit {
        tokio::time::sleep(LOOK_EVERY).await;
        if progress.get().1 > 0 {
            return std::future::pending().await;
        }
        if !progress.is_waiting() {
            silent += LOOK_EVERY;
        }
    }
}

/// The failure of a registry that has not answered for `limit`.
pub(super) fn silence(record: &Record, limit: Duration, progress: &PullProgress) -> RuntimeError {
    let (image, seconds) = (&record.spec.image, limit.as_secs());
    let fault = progress.noted().map(|fault| format!(" ({fault})"));
    let message = format!(
        "registry {} did not say within {seconds}s what {image} stands for{}",
        image.registry(),
        fault.unwrap_or_default()
    );
    RuntimeError::failed(Reason::RegistryTimeout, message)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(15);

    #[tokio::test(start_paused = true)]
    async fn a_registry_is_waited_for_as_long_as_the_limit_and_another_pull_is_not_counted() {
        let (progress, began) = (PullProgress::default(), Instant::now());
        unanswered(&progress, LIMIT).await;
        assert_eq!(began.elapsed(), LIMIT);
        let note = progress.note("waits for another pull".to_owned());
        let wait = unanswered(&progress, LIMIT);
        let mut wait = std::pin::pin!(wait);
        let long = Duration::from_secs(3600);
        assert!(tokio::time::timeout(long, &mut wait).await.is_err());
        drop(note);
        progress.add_total(1);
        assert!(tokio::time::timeout(long, &mut wait).await.is_err());
    }
}
