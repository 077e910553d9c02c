//! What goes over the line between a node and the CHaS API, and what of its answers is believed.

use std::time::Duration;

mod desired_state;
mod register;
mod report;

pub use desired_state::{Listing, listing};
pub use register::{Capacity, Registration, Speaks, Welcome};
pub use report::{
    Acknowledgement, Aside, Content, Freshness, Heartbeat, PendingPrune, Report, Reported,
    Resources, SetFault, Vitals,
};

/// The version of the desired state that this agent reads.
const SCHEMA: u64 = 1;
/// What CHaS may wish for as a pace.
const PACE: std::ops::RangeInclusive<u64> = 1..=3600;

fn pace(seconds: Option<u64>) -> Option<Duration> {
    seconds.map(|seconds| Duration::from_secs(seconds.clamp(*PACE.start(), *PACE.end())))
}
