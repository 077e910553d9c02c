//! Bodies of the requests and answers between a node and the CHaS API, and the checks of what CHaS
//! sends.

use std::time::Duration;

mod desired_state;
mod register;
mod report;

pub use desired_state::{SetReply, parse_set};
pub use register::{NodeCapacity, RegisterReply, Registration, SupportedSchemas};
pub use report::{
    ContainerReport, Heartbeat, PendingPrune, Report, ReportContent, ReportReply, ResourceUsage,
    SetError, SetFreshness, Vitals,
};
pub use state::capacity::CapacityReport;

/// Version of the desired state that this agent reads.
const SCHEMA: u64 = 1;
/// Interval that CHaS may ask for, in seconds; anything beyond is clamped.
const INTERVAL_S: std::ops::RangeInclusive<u64> = 1..=3600;

fn interval(seconds: Option<u64>) -> Option<Duration> {
    let (min, max) = INTERVAL_S.into_inner();
    seconds.map(|seconds| Duration::from_secs(seconds.clamp(min, max)))
}
