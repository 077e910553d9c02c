//! Signals that do not end the agent: SIGHUP reads again what can be read again, and the others,
//! which would end a process that does not know them, are only told.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Calls `reload`, which may block, for each SIGHUP until `stop`; SIGUSR1 and SIGUSR2 mean nothing
/// here, and do nothing.
///
/// # Errors
/// The system refuses a signal handler.
pub(crate) fn follow(
    tracker: &TaskTracker,
    stop: CancellationToken,
    reload: impl Fn() + Send + Sync + 'static,
) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let (mut first, mut second) = (
        signal(SignalKind::user_defined1())?,
        signal(SignalKind::user_defined2())?,
    );
    let reload = Arc::new(reload);
    tracker.spawn(async move {
        loop {
            let ignored = tokio::select! {
                () = stop.cancelled() => return,
                _ = hangup.recv() => {
                    let reload = Arc::clone(&reload);
                    // One after the other; signals that come meanwhile are one.
                    let _panicked = tokio::task::spawn_blocking(move || reload()).await;
                    continue;
                }
                _ = first.recv() => "SIGUSR1",
                _ = second.recv() => "SIGUSR2",
            };
            tracing::info!(
                signal = ignored,
                "signal ignored: it means nothing to the agent"
            );
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_hangup_reloads_and_the_others_do_nothing() {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let (reloads, mut reloaded) = mpsc::unbounded_channel();
        follow(&tracker, stop.clone(), move || {
            let _test_is_over = reloads.send(());
        })
        .unwrap();
        for signal in [Signal::USR1, Signal::USR2, Signal::HUP] {
            kill_process(getpid(), signal).unwrap();
        }
        reloaded.recv().await.unwrap();
        kill_process(getpid(), Signal::HUP).unwrap();
        reloaded.recv().await.unwrap();
        stop.cancel();
        tracker.close();
        tracker.wait().await;
    }
}
