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
/// with the failure before, which was something else (as a disk that could not be told of it). Who takes
/// it away again and again must not have the registry asked for it without a pause.
pub(super) fn is_next_pull(
    (reason, attempts): (Reason, u32),
    is_revival: bool,
    history: &History,
) -> bool {
    let is_first = !is_revival && !history.is_image_lost();
    reason == Reason::ImageLost && (attempts == 0 || is_first)
}

#[cfg(test)]
mod tests {
    use state::time::BootTime;

    use super::*;

    /// History after a step that failed for this reason.
    fn failed(history: &mut History, reason: Reason) {
        let (now, wait) = (BootTime::default(), Duration::ZERO);
        history.record_failure(Cause::Start, reason, String::new(), now, wait);
    }

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
            if let Some(last) = last {
                failed(&mut history, last);
            }
            let found = is_next_pull((reason, attempts), is_revival, &history);
            assert_eq!(found, is_next, "{last:?} {reason} {attempts}");
        }
    }

    #[test]
    fn an_image_that_is_lost_after_each_pull_is_pulled_ever_more_seldom() {
        let mut history = History::default();
        let mut waits = Vec::new();
        for _ in 0..12 {
            let lost = (Reason::ImageLost, history.attempts);
            waits.push(match is_next_pull(lost, false, &history) {
                true => Duration::ZERO,
                false => attempt_delay(Cause::Start, lost.0, lost.1, |_| Duration::ZERO),
            });
            failed(&mut history, Reason::ImageLost);
            history.record_pull();
            assert_eq!(
                history.backoff, None,
                "it is tried with the new one at once"
            );
        }
        assert_eq!(waits[0], Duration::ZERO);
        assert!(
            waits[1..].is_sorted() && waits[1] > Duration::ZERO,
            "{waits:?}"
        );
        assert_eq!(waits[11], Duration::from_secs(150));
        history.record_start(BootTime::default());
        let lost = (Reason::ImageLost, history.attempts);
        assert!(
            is_next_pull(lost, false, &history),
            "a start is as good as new"
        );
    }
}
