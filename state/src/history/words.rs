//! Sentences on how a container ended.

use super::CRASH_LOOP_EXITS;
use crate::desired::Record;
use crate::observed::Exit;
use crate::reason::Reason;

/// Reason and sentence for an exit that a restart follows.
///
/// `ended_for`: the answer of its probe for which it was stopped, if that is so.
pub(super) fn explain(
    record: &Record,
    exit: &Exit,
    exits: u32,
    ended_for: Option<&str>,
) -> (Reason, String) {
    let (reason, how) = match ended_for {
        Some(why) => (Reason::Unhealthy, how_it_was_ended(why)),
        None => (exit.reason(), how_it_ended(record, exit)),
    };
    if reason == Reason::OutOfMemory || exits < CRASH_LOOP_EXITS {
        return (reason, how);
    }
    let nth = ordinal(exits);
    (
        Reason::CrashLoop,
        format!("{how}, for the {nth} time in a row; its log says more"),
    )
}

/// Sentence without a subject on the end of a process whose probe failed.
pub(crate) fn how_it_was_ended(why: &str) -> String {
    format!("was stopped since {why}")
}

/// Sentence without a subject on how a process ended.
pub(crate) fn how_it_ended(record: &Record, exit: &Exit) -> String {
    match (exit.reason(), exit.signal()) {
        (Reason::OutOfMemory, _) if record.spec.resources.memory.is_none() => {
            "was killed by the kernel because the node ran out of memory; \
             give this container and its neighbours a limit (resources.memory)"
                .to_owned()
        }
        (Reason::OutOfMemory, _) => "used more memory than its limit, and the kernel killed it; \
             raise resources.memory"
            .to_owned(),
        (Reason::ShimLost, _) => {
            "was lost together with its containerd-shim-runc-v2, which somebody ended".to_owned()
        }
        (_, Some(signal)) => format!("ended by signal {signal}"),
        (_, None) => format!("ended with exit code {}", exit.code),
    }
}

/// A number's ordinal in English: 1st, 2nd, 3rd, 11th, 21st.
pub(super) fn ordinal(number: u32) -> String {
    let suffix = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{suffix}")
}
