//! Flags of orders about the node as such.

use std::time::Duration;

use clap::Args;

use super::duration;

/// Order of a drain, and its end.
pub(super) const DRAIN_HELP: &str = "\
What runs is stopped in order: first what others were not started after (`after`), of these the lowest priority; each \
with its\nstop signal and its time. Nothing is started any more, also after a reboot, until `uncordon`, which starts all of it \
again: what\nis asked for stays as it is. Containers that the agent does not manage run on.\n\nExit codes: 0 nothing runs any \
more that is stopped; 1 refused, the answer was no, or it is not done in time, and\ngoes on.";

/// Flags of `drain`.
#[derive(Args, Clone, Debug)]
pub struct DrainFlags {
    /// Asks no question
    #[arg(short, long)]
    pub(in crate::client) yes: bool,
    /// Answers when the order is stored, without waiting until it is done
    #[arg(long)]
    pub(in crate::client) no_wait: bool,
    /// Longest wait, after which it goes on
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub(in crate::client) timeout: Duration,
}
