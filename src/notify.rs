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

/// Interval of the signs of life where systemd asks for none.
const BEAT_DEFAULT: Duration = Duration::from_secs(30);

/// Interval at which the agent looks whether it lives: half of `WatchdogSec=`.
pub(crate) fn beat_interval() -> Duration {
    let asked = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero());
    asked.map_or(BEAT_DEFAULT, |interval| interval / 2)
}

/// Tells systemd that the agent lives, at this interval, as long as `stalled` names nothing that is
/// stuck, and tells `told` what it names: after a whole `WatchdogSec=` without a sign, systemd restarts
/// the agent. Ends with `cancel`.
pub(crate) async fn watchdog(
    every: Duration,
    stalled: impl Fn() -> Option<String>,
    told: impl Fn(Option<&str>),
    cancel: CancellationToken,
) {
    beat(
        every,
        stalled,
        told,
        || tell(&NotifyState::Watchdog),
        cancel,
    )
    .await;
}

async fn beat(
    interval: Duration,
    stalled: impl Fn() -> Option<String>,
    told: impl Fn(Option<&str>),
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
        let what = stalled();
        match &what {
            None => tell(),
            // Before the alarm: the line also comes where the journal of events is what is stuck.
            Some(what) => tracing::error!(what, "agent stuck; systemd restarts it if it watches"),
        }
        told(what.as_deref());
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
    use std::cell::{Cell, RefCell};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_beats_while_nothing_is_stuck_and_only_then() {
        let (stalled, beats, alarm) = (Cell::new(None), Cell::new(0), RefCell::new(None));
        let cancel = CancellationToken::new();
        let beating = beat(
            Duration::from_secs(5),
            || stalled.get().map(ToOwned::to_owned),
            |what| *alarm.borrow_mut() = what.map(ToOwned::to_owned),
            || beats.set(beats.get() + 1),
            cancel.clone(),
        );
        let watching = async {
            tokio::time::sleep(Duration::from_secs(21)).await;
            assert_eq!(beats.get(), 5);
            assert_eq!(*alarm.borrow(), None);
            stalled.set(Some("a turn"));
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(beats.get(), 5);
            assert_eq!(alarm.borrow().as_deref(), Some("a turn"));
            stalled.set(None);
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!((beats.get(), alarm.take()), (6, None));
            cancel.cancel();
        };
        tokio::join!(beating, watching);
    }
}
