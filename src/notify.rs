//! Messages to systemd (sd_notify(3)): ready, stopping, and signs of life. Silent without
//! systemd.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Tells systemd that the agent serves: units ordered after it are started.
pub(crate) fn ready() {
    tell(&NotifyState::Ready);
}

/// Tells systemd in a line how the agent does.
pub(crate) fn status(line: &str) {
    tell(&NotifyState::Status(line));
}

/// Tells systemd that the agent stops as it was asked to.
pub(crate) fn stopping() {
    tell(&NotifyState::Stopping);
}

/// Tells systemd that the agent lives, at half the interval of `WatchdogSec=`, as long as `stalled`
/// names nothing that is stuck: after a whole interval without a sign, systemd restarts the agent.
/// Ends with `cancel`, or at once if systemd does not ask.
pub(crate) async fn watchdog(
    stalled: impl Fn() -> Option<&'static str>,
    cancel: CancellationToken,
) {
    if let Some(interval) = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero()) {
        beat(
            interval / 2,
            stalled,
            || tell(&NotifyState::Watchdog),
            cancel,
        )
        .await;
    }
}

async fn beat(
    interval: Duration,
    stalled: impl Fn() -> Option<&'static str>,
    mut tell: impl FnMut(),
    cancel: CancellationToken,
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = cancel.cancelled() => return,
        }
        match stalled() {
            None => tell(),
            Some(what) => tracing::error!(what, "agent stalled; systemd restarts it"),
        }
    }
}

fn tell(state: &NotifyState<'_>) {
    // Nothing is worse for it: systemd acts on what it does not hear.
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, %state, "systemd not notified");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_beats_while_nothing_is_stuck_and_only_then() {
        let (stalled, beats) = (Cell::new(None), Cell::new(0));
        let cancel = CancellationToken::new();
        let beating = beat(
            Duration::from_secs(5),
            || stalled.get(),
            || beats.set(beats.get() + 1),
            cancel.clone(),
        );
        let watching = async {
            tokio::time::sleep(Duration::from_secs(21)).await;
            assert_eq!(beats.get(), 5);
            stalled.set(Some("a turn"));
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(beats.get(), 5);
            stalled.set(None);
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!(beats.get(), 6);
            cancel.cancel();
        };
        tokio::join!(beating, watching);
    }
}
