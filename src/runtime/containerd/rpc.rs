//! Calls to containerd, a file for each of its services. This layer knows no image, instance or
//! shim.

pub(super) mod client;
pub(super) mod containers;
pub(super) mod content;
pub(super) mod events;
pub(super) mod gc;
pub(super) mod labels;
pub(super) mod lease;
pub(super) mod plugins;
pub(super) mod snapshots;
pub(super) mod tasks;
