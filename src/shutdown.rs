//! SIGTERM and SIGINT: the first signal asks the agent to stop, the second ends the process at
//! once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A token that the first SIGTERM or SIGINT cancels; the agent may cancel it too. Requires a tokio
/// runtime.
///
/// The second signal ends the process with exit code 128 + its number from within the signal
/// handler, so that it works even where the runtime hangs.
///
/// # Errors
/// The system refuses a signal handler.
pub(crate) fn on_signal(tracker: &TaskTracker) -> io::Result<CancellationToken> {
    let asked = Arc::new(AtomicBool::new(false));
    for number in [SIGTERM, SIGINT] {
        // The order matters: the first signal finds the flag unset, and sets it.
        signal_hook::flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&asked))?;
        signal_hook::flag::register(number, Arc::clone(&asked))?;
    }
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tracker.spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = cancelled.cancelled() => return,
        };
        tracing::info!(
            signal = name,
            "stop requested; a second signal ends the process at once"
        );
        cancelled.cancel();
    });
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_signal_cancels_and_the_task_ends_either_way() {
        let tracker = TaskTracker::new();
        let by_hand = on_signal(&tracker).unwrap();
        by_hand.cancel();
        tracker.close();
        tracker.wait().await;
        tracker.reopen();
        let by_signal = on_signal(&tracker).unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
            .unwrap();
        by_signal.cancelled().await;
        tracker.close();
        tracker.wait().await;
    }
}
