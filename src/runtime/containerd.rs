//! Engine on containerd, over gRPC.
//!
//! In four layers: `rpc` are containerd's calls, `image` and `shim` stand on them, `instance` on
//! all three. A layer looks only down.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use containerd_client::services::v1 as api;
use serde_json::Value;
use state::desired::Record;
use state::failure::Failure;
use state::id::{ContainerId, InstanceName};
use state::observed::{Exit, Seen};
use state::policy::signers::SignatureDemand;
use state::reason::Reason;
use state::reference::ImageReference;
use state::spec::ImagePull;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use self::config::ContainerdConfig;
pub(crate) use self::config::ValueSources;
use self::image::Images;
pub(crate) use self::instance::RunningTasks;
use self::instance::{CreatedRootfs, Instances};
pub(crate) use self::look::{ContainerdLook, runc_version};
pub use self::rpc::client::ContainerdClient;
use self::rpc::{events, plugins};
pub use self::shim::oci_runtime::OciRuntime;
use self::shim::version;
use crate::archive::RootEngine;
use crate::exec::ExecEngine;
pub use crate::oci::confinement::{Confinement, ConfinementLayer, IdMapping};
use crate::runtime::engine::{EndedInstance, Engine, Existing, ImageVolumes, LaunchStage, Sandbox};
use crate::runtime::{PullProgress, RuntimeError, RuntimeEvent, RuntimeListing, StopOrder};

mod config;
pub mod image;
mod instance;
mod look;
mod rpc;
mod shim;

/// Containers on containerd, with the images that they need.
#[derive(Debug)]
pub struct Containerd {
    client: ContainerdClient,
    images: Images,
    instances: Arc<Instances>,
    socket: PathBuf,
}

impl Containerd {
    /// Engine on the containerd of `client`.
    ///
    /// # Errors
    /// The host's facts (control groups, limits) cannot be read.
    pub fn new(
        config: ContainerdConfig,
        client: ContainerdClient,
        images: Images,
    ) -> io::Result<Self> {
        Ok(Self {
            socket: config.socket.clone(),
            instances: Arc::new(Instances::new(config, client.clone(), images.clone())?),
            client,
            images,
        })
    }

    /// Layers that confine this node's containers, besides their capabilities and user namespaces.
    #[must_use]
    pub fn confinement(&self) -> Vec<ConfinementLayer> {
        self.instances.confinement()
    }

    /// Ability of containerd and the kernel to map ids, as it becomes known.
    #[must_use]
    pub fn id_mapping(&self) -> watch::Receiver<IdMapping> {
        self.instances.id_mapping()
    }

    /// Part of the engine that runs programs in containers.
    pub(crate) fn execs(&self) -> Arc<dyn ExecEngine> {
        Arc::clone(&self.instances) as _
    }

    /// Part of the engine that opens containers for archives.
    pub(crate) fn roots(&self) -> Arc<dyn RootEngine> {
        Arc::clone(&self.instances) as _
    }

    /// Tasks that run, for signals.
    pub(crate) fn tasks(&self) -> RunningTasks {
        self.instances.running_tasks()
    }

    /// Images that are on the node.
    pub(crate) fn images(&self) -> Images {
        self.images.clone()
    }

    /// The error of a look, with the place where containerd is expected.
    fn placed(&self, error: RuntimeError) -> RuntimeError {
        match error {
            RuntimeError::Unavailable(message) => {
                let socket = self.socket.display();
                RuntimeError::Unavailable(format!("{message} (its socket is {socket})"))
            }
            other @ (RuntimeError::ImageLost(_)
            | RuntimeError::Cancelled
            | RuntimeError::Failed(_)) => other,
        }
    }
}

/// Known faults of the containerd that answers and of the OCI runtime below it, in a sentence; runc
/// is looked for in `search_path`.
///
/// # Errors
/// [`RuntimeError::Unavailable`]: containerd does not answer.
pub async fn known_faults(
    client: &ContainerdClient,
    runtime: &OciRuntime,
    search_path: &OsStr,
) -> Result<Option<String>, RuntimeError> {
    let containerd = version::containerd_fault(&client.probe().await?);
    let program = runtime.binary_name.as_deref().unwrap_or("runc");
    let runc = version::runc_fault(program, search_path).await;
    let faults: Vec<String> = runc.into_iter().chain(containerd).collect();
    Ok((!faults.is_empty()).then(|| faults.join("; ")))
}

impl Engine for Containerd {
    type Container = Option<api::Container>;
    type Rootfs = CreatedRootfs;

    async fn list(&self) -> Result<RuntimeListing, RuntimeError> {
        let listed = self.instances.list().await;
        listed.map_err(|error| self.placed(error))
    }

    async fn stored_records(&self) -> Result<Vec<(ContainerId, Value)>, RuntimeError> {
        self.instances.stored_records().await
    }

    async fn observe(&self, id: ContainerId) -> Result<Seen, RuntimeError> {
        let seen = self.instances.observe(id).await;
        seen.map_err(|error| self.placed(error))
    }

    async fn ensure_image(
        &self,
        reference: &ImageReference,
        wanted: (ImagePull, &[SignatureDemand]),
        progress: &PullProgress,
        cancel: &CancellationToken,
    ) -> Result<String, RuntimeError> {
        self.images
            .ensure(reference, wanted, progress, cancel)
            .await
    }

    async fn ensure_signed(
        &self,
        reference: &ImageReference,
        digest: &str,
        wanted: (ImagePull, &[SignatureDemand]),
        cancel: &CancellationToken,
    ) -> Result<(), RuntimeError> {
        self.images
            .ensure_signed(reference, digest, wanted, cancel)
            .await
    }

    async fn judge_image(
        &self,
        record: &Record,
        own_ids: Option<&str>,
    ) -> Result<(), RuntimeError> {
        self.instances.judge_image(record, own_ids).await
    }

    async fn existing(&self) -> Result<Vec<Existing>, RuntimeError> {
        self.instances.existing().await
    }

    async fn begin(&self, record: &Record) -> Result<LaunchStage<Self::Container>, RuntimeError> {
        self.instances.begin(record).await
    }

    async fn image_volumes(
        &self,
        record: &Record,
        found: &Self::Container,
    ) -> Result<ImageVolumes, RuntimeError> {
        self.instances.image_volumes(record, found.as_ref()).await
    }

    async fn own_directories(&self) -> Result<Vec<PathBuf>, RuntimeError> {
        let asked = plugins::own_directories(&self.client).await;
        asked.map_err(|error| error.into_error(Reason::CreateFailed, "tell its directories"))
    }

    async fn in_image<T: Send + 'static>(
        &self,
        record: &Record,
        work: impl FnOnce(&OwnedFd) -> T + Send + 'static,
    ) -> Result<T, RuntimeError> {
        self.instances.in_image(record, work).await
    }

    async fn create(
        &self,
        record: &Record,
        found: Self::Container,
        sandbox: &Sandbox,
    ) -> Result<Self::Rootfs, RuntimeError> {
        self.instances.create(record, found, sandbox).await
    }

    fn has_own_ids(rootfs: &Self::Rootfs) -> bool {
        rootfs.has_own_ids()
    }

    async fn create_task(
        &self,
        record: &Record,
        rootfs: Self::Rootfs,
        output: String,
    ) -> Result<u32, RuntimeError> {
        self.instances.create_task(record, rootfs, output).await
    }

    async fn start(&self, instance: InstanceName) -> Result<(), RuntimeError> {
        self.instances.start(instance).await
    }

    async fn adjust(
        &self,
        record: &Record,
        sizes: Result<(), Failure>,
    ) -> Result<(), RuntimeError> {
        self.instances.adjust(record, sizes).await
    }

    async fn stop(
        &self,
        instance: InstanceName,
        how: &StopOrder,
    ) -> Result<Option<Exit>, RuntimeError> {
        self.instances.stop(instance, how).await
    }

    async fn signal(&self, instance: InstanceName, how: &StopOrder) -> Result<(), RuntimeError> {
        self.instances.signal(instance, how).await
    }

    async fn end(
        &self,
        instance: InstanceName,
        how: &StopOrder,
    ) -> Result<EndedInstance, RuntimeError> {
        self.instances.end(instance, how).await
    }

    async fn discard(&self, instance: InstanceName) -> Result<(), RuntimeError> {
        self.instances.discard(instance).await
    }

    fn take_orphans(&self) -> Vec<InstanceName> {
        self.instances.take_orphans()
    }

    async fn lost(
        &self,
        wanted: &BTreeSet<InstanceName>,
        resting: &BTreeSet<InstanceName>,
    ) -> Result<Vec<InstanceName>, RuntimeError> {
        self.instances.lost(wanted, resting).await
    }

    async fn sweep_execs(&self) -> Vec<String> {
        let mut removed = self.instances.sweep_execs().await;
        removed.extend(self.instances.sweep_values().await);
        removed
    }

    async fn sweep_images(
        &self,
        in_use: &[(ImageReference, Option<String>)],
    ) -> Result<Vec<String>, RuntimeError> {
        self.images.sweep(in_use).await
    }

    async fn follow(&self, events: mpsc::Sender<RuntimeEvent>) {
        let connected = || self.instances.learn_id_mapping();
        events::follow(&self.client, &events, connected).await;
    }
}
