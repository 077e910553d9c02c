//! Lengths of the waits before another attempt.

use std::time::Duration;

use state::history::Cause;
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
