//! Lengths of the waits before another attempt.

use std::time::Duration;

use state::history::{Cause, History};
use state::reason::{Kind, Reason};

/// Waits between attempts of a step that failed.
pub(super) fn attempt_delay(
    cause: Cause,
    reason: Reason,
    attempts: u32,
    draw: fn(Duration) -> Duration,
) -> Duration {
    // What a registry refused is somebody else's to mend, and asking again costs them something.
    let first = match (cause, reason.kind()) {
        (Cause::Start, Kind::Image) => Duration::from_secs(10),
        (Cause::Start | Cause::End | Cause::Exit, _) => Duration::from_secs(1),
    };
    let ceiling = first
        .saturating_mul(1 << attempts.min(9))
        .min(Duration::from_mins(5));
    ceiling / 2 + draw(ceiling / 2)
}

/// Whether what follows a step that failed so is a pull at once: the image is found to be lost, and was not
/// with the attempt before, which failed for something else (as a disk that could not be told of it).
pub(super) fn is_next_pull(
    (reason, attempts): (Reason, u32),
    is_revival: bool,
    history: &History,
) -> bool {
    let last = history.backoff.as_ref().map(|backoff| backoff.reason);
    let is_first = !is_revival && last != Some(Reason::ImageLost);
    reason == Reason::ImageLost && (attempts == 0 || is_first)
}

#[cfg(test)]
mod tests {
    use state::history::Backoff;
    use state::time::BootTime;

    use super::*;

    #[test]
    fn a_lost_image_is_pulled_at_once_whatever_failed_before_and_not_again_and_again() {
        for (last, reason, attempts, is_revival, is_next) in [
            (None, Reason::ImageLost, 0, false, true),
            // The disk could not be told that it is lost, for minutes.
            (
                Some(Reason::StateUnwritable),
                Reason::ImageLost,
                9,
                false,
                true,
            ),
            (Some(Reason::ImageLost), Reason::ImageLost, 1, false, false),
            (
                Some(Reason::StateUnwritable),
                Reason::ImageLost,
                1,
                true,
                false,
            ),
            (None, Reason::CreateFailed, 0, false, false),
        ] {
            let mut history = History::default();
            history.backoff = last.map(|reason| Backoff {
                cause: Cause::Start,
                reason,
                message: String::new(),
                retry_at: BootTime::default(),
            });
            let found = is_next_pull((reason, attempts), is_revival, &history);
            assert_eq!(found, is_next, "{last:?} {reason} {attempts}");
        }
    }
}
