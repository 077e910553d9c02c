//! Container runtime as the reconciler sees it. Each call is idempotent: a step that is done
//! already is not an error.
//!
//! `node` is the runtime of a node: it puts network and logs beside an `engine`. `containerd` is that
//! engine; nothing outside it names a gRPC type.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use state::desired::{Addresses, Record};
use state::failure::Failure;
use state::id::{ContainerId, InstanceName};
use state::observed::{Exit, Seen};
use state::policy::signers::SignatureDemand;
use state::reason::Reason;
use state::reference::ImageReference;
use state::spec::{ImagePull, Signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub mod containerd;
pub(crate) mod engine;
pub(crate) mod node;
mod progress;
mod stored_image;

pub use self::progress::{PullNote, PullProgress};
pub(crate) use self::stored_image::StoredImage;

/// Container runtime, as the reconciler sees it.
pub trait Runtime: Send + Sync + 'static {
    /// Looks at every managed container, and names the unmanaged ones.
    ///
    /// A listing is complete or an error: nothing may be concluded from a part of one.
    fn list(&self) -> impl Future<Output = Result<RuntimeListing, RuntimeError>> + Send;

    /// Records stored in container labels, for rebuilding a lost store: for each managed container,
    /// the record that each of its instances was made of, the newest one last, as JSON; `Null` where the
    /// labels hold none.
    fn stored_records(
        &self,
    ) -> impl Future<Output = Result<Vec<(ContainerId, Value)>, RuntimeError>> + Send;

    /// Looks at one container, every generation of it.
    fn observe(&self, id: ContainerId) -> impl Future<Output = Result<Seen, RuntimeError>> + Send;

    /// Makes sure the image is on the node, unpacked and complete, and answers its digest.
    ///
    /// Costs nothing beyond a look when the image is there and the wanted pull does not ask for more.
    /// Of an image that is not signed as every demand says, nothing is unpacked.
    /// `cancel` ends it at the next await with [`RuntimeError::Cancelled`]; what was fetched is
    /// kept for the next attempt.
    fn ensure_image(
        &self,
        reference: &ImageReference,
        wanted: (ImagePull, &[SignatureDemand]),
        progress: &PullProgress,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<String, RuntimeError>> + Send;

    /// Makes sure that an image that is on the node, by its digest, is signed as every demand says;
    /// a registry is asked only where that is not known yet.
    ///
    /// # Errors
    /// [`Reason::PolicyDenied`] where it is not; what the registry answers where nobody knows;
    /// [`RuntimeError::ImageLost`] where too little of the image is left to tell.
    fn ensure_signed(
        &self,
        reference: &ImageReference,
        digest: &str,
        wanted: (ImagePull, &[SignatureDemand]),
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Judges what the image of `record` says by the policy: its working directory, and, by the rule
    /// `own_ids`, what would give the container the host's ids. An image that is not on the node is
    /// not judged.
    ///
    /// # Errors
    /// [`Reason::PolicyDenied`]; or the image cannot be looked at.
    fn judge_image(
        &self,
        record: &Record,
        own_ids: Option<&str>,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Makes the record's generation run: creates what is missing of it (network, container,
    /// snapshot, task; a stopped task is deleted first, container and snapshot are used again) and
    /// starts it. One that stands back ([`Record::stands_back`]) gets no host ports yet.
    ///
    /// Answers the container's addresses, which the caller stores if they are others than before;
    /// `None` if the task ran already.
    ///
    /// Must not be dropped before it ends (a cancelled task creation leaves a process that
    /// containerd does not know).
    ///
    /// # Errors
    /// [`RuntimeError::ImageLost`] if the image `record.image_digest` names is not on the node (any
    /// more).
    fn launch(
        &self,
        record: &Record,
    ) -> impl Future<Output = Result<Option<Addresses>, RuntimeError>> + Send;

    /// Checks that the host ports of the record's instance could be opened now, beside those that its
    /// container has already.
    ///
    /// # Errors
    /// [`Reason::PortTaken`] if somebody else has one.
    fn check_ports(&self, record: &Record)
    -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Gives host ports and names to the record's instance, which runs, and answers how many
    /// connections came in to the instance `other` of the same container and are not over; `None`:
    /// they could not be counted.
    fn hand_over(
        &self,
        record: &Record,
        other: InstanceName,
    ) -> impl Future<Output = Result<Option<usize>, RuntimeError>> + Send;

    /// Sends the instance's task the signal that it is stopped with, if it runs, and waits for nothing.
    fn signal(
        &self,
        instance: InstanceName,
        how: &StopOrder,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Brings what exists of the record's instance up to the record: the limits of its task and of
    /// its log, and the runtime's own copy of the record, in this order, so that the copy says what
    /// is true. What runs, runs on. What was made of something else is taken away if it does not
    /// run; the next launch makes it.
    ///
    /// # Errors
    /// [`Reason::LimitRefused`] if the kernel or the runtime refuses a limit. The others are set
    /// all the same, and what is refused stays as it was.
    fn adjust(&self, record: &Record) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Ends the instance's task: signal, grace, SIGKILL. Container, snapshot and network are kept.
    /// Answers how it ended; `None` if nothing of it ran.
    fn stop(
        &self,
        instance: InstanceName,
        how: &StopOrder,
    ) -> impl Future<Output = Result<Option<Exit>, RuntimeError>> + Send;

    /// Ends the instance's task as `stop` does and removes everything that bears the instance's
    /// name. Answers how the task ended; `None` if nothing of it ran.
    fn remove(
        &self,
        instance: InstanceName,
        how: &StopOrder,
    ) -> impl Future<Output = Result<Option<Exit>, RuntimeError>> + Send;

    /// Removes what a container keeps over its generations: its logs, and the volumes that its images
    /// gave it. Only once no instance of it is left.
    fn remove_logs(&self, id: ContainerId)
    -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Removes leftovers: snapshots, netns, leases, processes, log files, volumes of images and images
    /// that belong to no instance; and repairs the network by what is assigned.
    fn sweep(
        &self,
        wanted: &WantedRecords,
    ) -> impl Future<Output = Result<Swept, RuntimeError>> + Send;

    /// Sees to it that the output of every container that runs is written to its log, in a process
    /// that may have died. `records` are those that are readable.
    fn keep_logs(
        &self,
        listing: &RuntimeListing,
        records: &[Arc<Record>],
    ) -> impl Future<Output = ()> + Send {
        let _nothing_to_keep = (listing, records);
        async {}
    }

    /// Tells `events` which containers to look at again, for ever; reconnects by itself.
    fn follow(&self, events: mpsc::Sender<RuntimeEvent>) -> impl Future<Output = ()> + Send;
}

/// Manner in which a task is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopOrder {
    /// Signal asked for; `None`: the image's, or SIGTERM.
    pub signal: Option<Signal>,
    /// Time before SIGKILL.
    pub grace: Duration,
}

impl StopOrder {
    /// The image's signal or SIGTERM, and SIGKILL right after it.
    pub const AT_ONCE: Self = Self {
        signal: None,
        grace: Duration::ZERO,
    };
}

/// Everything desired, as a sweep is told of it.
#[derive(Clone, Debug, Default)]
pub struct WantedRecords {
    /// Records, also those whose containers are being removed.
    pub records: Vec<Record>,
    /// Containers whose records this agent cannot read. Nothing of theirs is known to be a leftover,
    /// so all of it is left as it is.
    pub unreadable: BTreeSet<ContainerId>,
    /// Whether no image may be removed: an entry of the store is unreadable, and may need any.
    pub keeps_images: bool,
}

impl WantedRecords {
    /// Containers that have a record, readable or not.
    #[must_use]
    pub fn ids(&self) -> BTreeSet<ContainerId> {
        let readable = self.records.iter().map(|record| record.id);
        readable.chain(self.unreadable.iter().copied()).collect()
    }
}

/// Complete look at the runtime.
#[derive(Clone, Debug, Default)]
pub struct RuntimeListing {
    /// Managed containers by id.
    pub managed: BTreeMap<ContainerId, Seen>,
    /// Unmanaged containers, which are shown and never touched.
    pub unmanaged: Vec<UnmanagedContainer>,
}

/// Container in the agent's containerd namespace without the agent's labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnmanagedContainer {
    /// Id in the runtime.
    pub id: String,
    /// Name of the image, as the container's creator wrote it.
    pub image: String,
    /// Whether its task runs.
    pub running: bool,
}

/// Leftovers that a sweep removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Line for each thing, as in `snapshot 0123456789ab-1`.
    pub removed: BTreeSet<String>,
}

/// Hint that something changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// Look at this container.
    Changed(ContainerId),
    /// Memory of this container ran out: the kernel is about to kill a process of it, so look in a
    /// moment.
    MemoryShort(ContainerId),
    /// Look at everything: the stream is (again) live, and what happened before is unknown.
    Connected,
    /// The runtime is unreachable.
    Disconnected,
}

/// Error of a call to the runtime, cut by what the reconciler does next.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The runtime is unreachable or does not answer: nothing counts against the container; try
    /// when it is back.
    #[error("the container runtime does not answer: {0}")]
    Unavailable(String),
    /// The image is not on the node (any more): fetch it, then launch again.
    #[error("the image is not on the node: {0}")]
    ImageLost(String),
    /// The caller's token ended the call.
    #[error("cancelled")]
    Cancelled,
    /// A step failed for a reason of the container's own: show it, and try again after a wait.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl RuntimeError {
    /// Failure of the container's own, with nothing known about when to try again.
    pub fn failed(reason: Reason, message: impl Into<String>) -> Self {
        Self::Failed(Failure::new(reason, message))
    }
}
