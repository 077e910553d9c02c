//! SIGTERM and SIGINT: the first asks the agent to end, the second ends the process whatever it is doing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A token that is cancelled by the first SIGTERM or SIGINT; anybody may cancel it too. Needs a tokio runtime.
///
/// The second signal ends the process with 128 + its number out of the signal handler itself, so that it does even where
/// the runtime is stuck.
///
/// # Errors
/// The system refuses to have a signal handled.
pub fn on_signal(tracker: &TaskTracker) -> io::Result<CancellationToken> {
    let asked = Arc::new(AtomicBool::new(false));
    for number in [SIGTERM, SIGINT] {
        // In this order: the first signal finds the flag unset, and sets it.
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
        tracing::info!(signal = name, "asked to end; a second signal ends at once");
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
