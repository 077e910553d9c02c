//! Shims and the OCI runtime below them: which one serves a container, the words it refuses with,
//! shims that containerd has lost, and what a killed one leaves on the host. This layer knows no image and no instance.

pub(super) mod lost;
pub(super) mod oci_runtime;
pub(super) mod process;
pub(super) mod refusals;
pub(super) mod remains;
pub(super) mod version;
