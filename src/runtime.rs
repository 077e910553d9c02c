//! What the reconciler may ask of a container runtime. Each call is idempotent: what is already done is not an error.
//!
//! `containerd` is the real one. Nothing outside it names a gRPC type.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use state::desired::Record;
use state::failure::Failure;
use state::id::{ContainerId, InstanceName};
use state::observed::Seen;
use state::reason::Reason;
use state::reference::ImageReference;
use state::spec::{ImagePull, Signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub mod containerd;
pub mod memory;

/// A container runtime, as the reconciler sees it.
pub trait Runtime: Send + Sync + 'static {
    /// Looks at everything that bears our label, and names what does not.
    ///
    /// A listing is whole or an error: nothing may be concluded from a part of one.
    fn list(&self) -> impl Future<Output = Result<Listing, RuntimeError>> + Send;

    /// The copies of records that the runtime holds: for each of our containers, the record that its newest generation was
    /// made of, as JSON; `Null` where there is none to read.
    fn salvage(
        &self,
    ) -> impl Future<Output = Result<Vec<(ContainerId, Value)>, RuntimeError>> + Send;

    /// Looks at one container, every generation of it.
    fn observe(&self, id: ContainerId) -> impl Future<Output = Result<Seen, RuntimeError>> + Send;

    /// Makes sure the image is on the node, unpacked and complete, and answers its digest.
    ///
    /// Costs nothing beyond a look when the image is there and `pull` does not ask for more. `cancel` ends it at the
    /// next await with [`RuntimeError::Cancelled`]; what was fetched is kept for the next attempt.
    fn ensure_image(
        &self,
        reference: &ImageReference,
        pull: ImagePull,
        progress: &PullProgress,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<String, RuntimeError>> + Send;

    /// Makes the record's generation run: creates what is missing of it (network, container, snapshot, task; a stopped
    /// task is taken away first, container and snapshot are used again) and starts it.
    ///
    /// Must not be dropped before it ends (a cancelled task creation leaves a process that nobody knows).
    ///
    /// # Errors
    /// [`RuntimeError::ImageLost`] if the image `record.image_digest` names is not on the node (any more).
    fn launch(&self, record: &Record) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Ends the instance's task: signal, grace, SIGKILL. Container, snapshot and network are kept.
    fn stop(
        &self,
        instance: InstanceName,
        how: &StopOrder,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Ends the instance's task as `stop` does and takes away everything that bears the instance's name.
    fn remove(
        &self,
        instance: InstanceName,
        how: &StopOrder,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Takes away what a container keeps over its generations: its logs. Only once no instance of it is left.
    fn forget(&self, id: ContainerId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Takes away what belongs to no instance: snapshots, netns, leases, processes, log files, images nobody wants, and
    /// settles the network with what is assigned. `wanted` is everything desired, including what is being removed.
    fn sweep(&self, wanted: &[Record]) -> impl Future<Output = Result<Swept, RuntimeError>> + Send;

    /// Tells `events` which containers to look at again, for ever; reconnects by itself.
    fn follow(&self, events: mpsc::Sender<RuntimeEvent>) -> impl Future<Output = ()> + Send;
}

/// How a task is to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopOrder {
    /// The signal asked for; `None`: the image's, or SIGTERM.
    pub signal: Option<Signal>,
    /// How long it may take before SIGKILL.
    pub grace: Duration,
}

/// One whole look at the runtime.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// What bears our label, by container id.
    pub ours: BTreeMap<ContainerId, Seen>,
    /// What does not; it is shown and never touched.
    pub foreign: Vec<Foreign>,
}

/// A container in our containerd namespace that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// containerd's id of it.
    pub id: String,
    /// The image's name, as its creator recorded it.
    pub image: String,
    /// It has a running task.
    pub running: bool,
}

/// What a sweep took away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// A line for each thing, as in `snapshot 0123456789ab-1`.
    pub removed: BTreeSet<String>,
}

/// A hint that something changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// Look at this one.
    Changed(ContainerId),
    /// Look at everything: the stream is (again) live, and what happened before is unknown.
    Connected,
    /// The runtime cannot be reached.
    Disconnected,
}

/// How far a pull is. Written by the puller, read by whoever shows it.
#[derive(Debug, Default)]
pub struct PullProgress {
    fetched_bytes: AtomicU64,
    total_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

impl PullProgress {
    /// The bytes to fetch in all became known, or more.
    pub fn add_total(&self, bytes: u64) {
        self.total_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// That many more bytes are on the node.
    pub fn add_fetched(&self, bytes: u64) {
        self.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// That many bytes came from the registry, whatever becomes of them.
    pub fn add_received(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that came from the registry, those of failed tries included.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Bytes fetched and bytes to fetch in all. Both 0: not known yet.
    #[must_use]
    pub fn get(&self) -> (u64, u64) {
        (
            self.fetched_bytes.load(Ordering::Relaxed),
            self.total_bytes.load(Ordering::Relaxed),
        )
    }
}

/// Why the runtime did not do it, cut by what the reconciler does next.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The runtime is unreachable or does not answer: nothing counts against the container; try when it is back.
    #[error("the container runtime does not answer: {0}")]
    Unavailable(String),
    /// The image is not on the node (any more): fetch it, then launch again.
    #[error("the image is not on the node: {0}")]
    ImageLost(String),
    /// The caller's token ended it.
    #[error("cancelled")]
    Cancelled,
    /// It failed for a reason of the container's own: show it, and try again after a wait.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl RuntimeError {
    /// A failure of the container's own, with nothing known about when to try again.
    pub fn failed(reason: Reason, message: impl Into<String>) -> Self {
        Self::Failed(Failure::new(reason, message))
    }
}
