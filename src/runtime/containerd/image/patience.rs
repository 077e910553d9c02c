//! Retries within a pull, after failures that may pass: as long as it advances, and a bounded
//! number of times.

use std::time::Duration;

use state::failure::Failure;

use crate::backoff;
use crate::registry::{RegistryConfig, RegistryError};
use crate::runtime::PullProgress;

/// Tries for one blob, even if each brings a little: a line that breaks every 50 MB still delivers
/// 12 GB.
const ATTEMPTS_IN_ALL_MAX: u32 = 256;

/// Tries that one blob or manifest has cost so far.
#[derive(Debug)]
pub(crate) struct Patience<'a> {
    config: &'a RegistryConfig,
    advanced: bool,
    in_vain: u32,
    in_all: u32,
}

impl<'a> Patience<'a> {
    /// Patience of a pull that has not tried yet.
    pub(crate) fn new(config: &'a RegistryConfig) -> Self {
        Self {
            config,
            advanced: false,
            in_vain: 0,
            in_all: 0,
        }
    }

    /// Notes that the last try brought something, although it failed.
    pub(crate) fn advanced(&mut self) {
        self.advanced = true;
    }

    /// Waits before another try.
    ///
    /// # Errors
    /// The failure itself, when another try cannot help, or there were enough, or the registry
    /// wants to be left alone for longer than a pull waits.
    pub(crate) async fn wait_after(
        &mut self,
        error: RegistryError,
        progress: &PullProgress,
    ) -> Result<(), Failure> {
        self.in_vain = if std::mem::take(&mut self.advanced) {
            0
        } else {
            self.in_vain + 1
        };
        self.in_all += 1;
        let asked = match &error {
            RegistryError::Lasting(_) => return Err(error.into()),
            RegistryError::Passing(failure) => failure.retry_after.unwrap_or(Duration::ZERO),
        };
        let enough = self.in_vain >= self.config.attempts_max || self.in_all >= ATTEMPTS_IN_ALL_MAX;
        if enough || asked > self.config.retry_max {
            return Err(error.into());
        }
        let own = backoff::delay(
            self.config.retry_initial,
            self.config.retry_max,
            self.in_vain.saturating_sub(1),
        );
        tracing::debug!(%error, wait = ?own.max(asked), "request failed; retrying");
        progress.set_fault(Some(error.to_string()));
        tokio::time::sleep(own.max(asked)).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use state::reason::Reason;
    use tokio::time::Instant;

    use super::*;

    fn passing(retry_after_secs: Option<u64>) -> RegistryError {
        let busy = Failure::new(Reason::RegistryError, "busy");
        let wait = retry_after_secs.map(Duration::from_secs);
        RegistryError::Passing(busy.with_retry_after(wait))
    }

    #[tokio::test(start_paused = true)]
    async fn tries_in_vain_are_bounded_and_those_that_advance_are_not_counted() {
        let config = RegistryConfig::default();
        let mut patience = Patience::new(&config);
        for _ in 0..50 {
            patience.advanced();
            patience
                .wait_after(passing(None), &PullProgress::default())
                .await
                .unwrap();
        }
        patience.advanced();
        for _ in 0..config.attempts_max {
            patience
                .wait_after(passing(None), &PullProgress::default())
                .await
                .unwrap();
        }
        assert!(
            patience
                .wait_after(passing(None), &PullProgress::default())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn even_a_pull_that_advances_ends() {
        let config = RegistryConfig::default();
        let mut patience = Patience::new(&config);
        let mut tries = 0;
        while patience
            .wait_after(passing(None), &PullProgress::default())
            .await
            .is_ok()
        {
            patience.advanced();
            tries += 1;
        }
        assert_eq!(tries + 1, ATTEMPTS_IN_ALL_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_retry_after_is_waited_for_and_a_long_one_is_passed_on() {
        let config = RegistryConfig::default();
        let (mut patience, started) = (Patience::new(&config), Instant::now());
        patience
            .wait_after(passing(Some(7)), &PullProgress::default())
            .await
            .unwrap();
        assert!(started.elapsed() >= Duration::from_secs(7));
        let error = patience
            .wait_after(passing(Some(600)), &PullProgress::default())
            .await
            .unwrap_err();
        let long = Some(Duration::from_secs(600));
        assert_eq!(error.retry_after, long, "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_pass_is_not_tried_again() {
        let config = RegistryConfig::default();
        let error = RegistryError::lasting(Reason::ImageNotFound, "none");
        assert!(
            Patience::new(&config)
                .wait_after(error, &PullProgress::default())
                .await
                .is_err()
        );
    }
}
