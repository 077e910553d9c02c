//! Container engine: images, containers and tasks of a node, without what is the node's own
//! (network, logs). [`super::node`] puts the two together; [`super::containerd`] is an engine.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde_json::Value;
use state::desired::Record;
use state::failure::Failure;
use state::id::{ContainerId, InstanceName};
use state::observed::{Exit, Seen};
use state::policy::signers::SignatureDemand;
use state::reference::ImageReference;
use state::spec::ImagePull;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{PullProgress, RuntimeError, RuntimeEvent, RuntimeListing, StopOrder};
use crate::oci::mounts::Mount;
use crate::oci::volumes::VolumeDirectory;

/// Instance that exists, and the record that it was made of, where its labels hold one.
pub(crate) type Existing = (InstanceName, Option<Record>);

/// Place that the node gives to an instance: the parts of its sandbox that no engine makes.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    /// File that names the network namespace. `None`: it is the host's.
    pub(crate) netns: Option<PathBuf>,
    /// Files of the host to be seen in the container.
    pub(crate) mounts: Vec<Mount>,
    /// Directories of the host that are the container's volumes.
    pub(crate) volumes: Vec<VolumeDirectory>,
    /// Place of the kernel's file system (sysfs) of that network namespace, for an instance that
    /// cannot mount one itself.
    pub(crate) sysfs: PathBuf,
}

/// Instance of which no process is left.
#[derive(Debug)]
pub(crate) enum EndedInstance {
    /// Managed instance; how its task ended, if it ran.
    Managed(Option<Exit>),
    /// The name belongs to an unmanaged container, which was not touched.
    Unmanaged,
}

/// Volumes that the image of an instance says it has.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImageVolumes {
    /// Paths in the container.
    pub(crate) paths: Vec<String>,
    /// Directories of the host that the instance mounts, by their paths in it, also those of its
    /// record. Empty: it does not exist yet.
    pub(crate) mounted: BTreeMap<String, PathBuf>,
}

/// Progress of a launch that an engine found begun.
#[derive(Debug)]
pub(crate) enum LaunchStage<C> {
    /// The task runs.
    Running,
    /// The task is created, and only to be started.
    Created {
        /// First process of the task.
        pid: u32,
    },
    /// No task is there; `C` is the engine's container, or its absence.
    NoTask(C),
}

/// Container engine, as the node's runtime uses it. Every call is idempotent. The calls that
/// [`super::Runtime`] has too mean the same here.
///
/// A launch is [`begin`](Self::begin), then [`create`](Self::create), [`create_task`] and
/// [`start`](Self::start); a removal is [`end`](Self::end), then [`discard`](Self::discard).
///
/// [`create_task`]: Self::create_task
pub(crate) trait Engine: Send + Sync + 'static {
    /// Container as a launch finds it, or its absence.
    type Container: Send + Sync;
    /// Root file system of a container that is created, for its task.
    type Rootfs: Send;

    /// Looks at every managed container; see [`super::Runtime::list`].
    fn list(&self) -> impl Future<Output = Result<RuntimeListing, RuntimeError>> + Send;

    /// Records stored in container labels; see [`super::Runtime::stored_records`].
    fn stored_records(
        &self,
    ) -> impl Future<Output = Result<Vec<(ContainerId, Value)>, RuntimeError>> + Send;

    /// Looks at a container; see [`super::Runtime::observe`].
    fn observe(&self, id: ContainerId) -> impl Future<Output = Result<Seen, RuntimeError>> + Send;

    /// Makes sure the image is on the node; see [`super::Runtime::ensure_image`].
    fn ensure_image(
        &self,
        reference: &ImageReference,
        wanted: (ImagePull, &[SignatureDemand]),
        progress: &PullProgress,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<String, RuntimeError>> + Send;

    /// Makes sure that an image is signed; see [`super::Runtime::ensure_signed`].
    fn ensure_signed(
        &self,
        reference: &ImageReference,
        digest: &str,
        wanted: (ImagePull, &[SignatureDemand]),
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Judges what an image says; see [`super::Runtime::judge_image`].
    fn judge_image(
        &self,
        record: &Record,
        own_ids: Option<&str>,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Managed instances that exist.
    fn existing(&self) -> impl Future<Output = Result<Vec<Existing>, RuntimeError>> + Send;

    /// Looks how far a launch got before. A task that has ended, or that was made of something else and
    /// waits to be started, is deleted.
    fn begin(
        &self,
        record: &Record,
    ) -> impl Future<Output = Result<LaunchStage<Self::Container>, RuntimeError>> + Send;

    /// Volumes that the image of an instance says it has: of one that exists as it was made, of
    /// another as its image says now.
    fn image_volumes(
        &self,
        record: &Record,
        found: &Self::Container,
    ) -> impl Future<Output = Result<ImageVolumes, RuntimeError>> + Send;

    /// Directories of the host in which the engine keeps its own.
    fn own_directories(&self) -> impl Future<Output = Result<Vec<PathBuf>, RuntimeError>> + Send;

    /// Does `work`, which may block, with the root directory of the record's image, which nobody
    /// changes meanwhile.
    fn in_image<T: Send + 'static>(
        &self,
        record: &Record,
        work: impl FnOnce(&OwnedFd) -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, RuntimeError>> + Send;

    /// Creates the container and its root file system, where they are not there already. The paths
    /// of `sandbox` need not exist yet.
    fn create(
        &self,
        record: &Record,
        found: Self::Container,
        sandbox: &Sandbox,
    ) -> impl Future<Output = Result<Self::Rootfs, RuntimeError>> + Send;

    /// Whether the container has ids of its own, so that it may not change its network namespace.
    fn has_own_ids(rootfs: &Self::Rootfs) -> bool;

    /// Creates the task, and answers its first process. Its output goes to the logger that the URI
    /// `output` names.
    fn create_task(
        &self,
        record: &Record,
        rootfs: Self::Rootfs,
        output: String,
    ) -> impl Future<Output = Result<u32, RuntimeError>> + Send;

    /// Starts the created task.
    fn start(
        &self,
        instance: InstanceName,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Brings an instance up to its record, apart from its log and the sizes of its volumes; see
    /// [`super::Runtime::adjust`]. `sizes`: whether these were set. If not, a task that runs gets its
    /// limits, and is not brought up; the answer is that failure with those of the limits.
    fn adjust(
        &self,
        record: &Record,
        sizes: Result<(), Failure>,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Ends an instance's task; see [`super::Runtime::stop`].
    fn stop(
        &self,
        instance: InstanceName,
        how: &StopOrder,
    ) -> impl Future<Output = Result<Option<Exit>, RuntimeError>> + Send;

    /// Sends an instance's task its stop signal; see [`super::Runtime::signal`].
    fn signal(
        &self,
        instance: InstanceName,
        how: &StopOrder,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Ends every process of an instance, before [`discard`](Self::discard).
    fn end(
        &self,
        instance: InstanceName,
        how: &StopOrder,
    ) -> impl Future<Output = Result<EndedInstance, RuntimeError>> + Send;

    /// Removes the container and its root file system. Only after [`end`](Self::end).
    fn discard(
        &self,
        instance: InstanceName,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Instances without a container that the last listing found. Each is answered once.
    fn take_orphans(&self) -> Vec<InstanceName>;

    /// Instances of which only OS processes are left, or what those made on the host, apart from the
    /// `wanted` ones. Of those, processes that look after nothing are ended where they are `resting`.
    fn lost(
        &self,
        wanted: &BTreeSet<InstanceName>,
        resting: &BTreeSet<InstanceName>,
    ) -> impl Future<Output = Result<Vec<InstanceName>, RuntimeError>> + Send;

    /// Ends programs that are run in instances and that nobody looks after, and answers a line for
    /// each.
    fn sweep_execs(&self) -> impl Future<Output = Vec<String>> + Send;

    /// Removes images that none of `in_use` needs, and answers a line for each. `None` as a digest:
    /// not pulled yet.
    fn sweep_images(
        &self,
        in_use: &[(ImageReference, Option<String>)],
    ) -> impl Future<Output = Result<Vec<String>, RuntimeError>> + Send;

    /// Tells which containers to look at again; see [`super::Runtime::follow`].
    fn follow(&self, events: mpsc::Sender<RuntimeEvent>) -> impl Future<Output = ()> + Send;
}
