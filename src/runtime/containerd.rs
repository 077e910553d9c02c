//! The real runtime: containerd over gRPC, with the agent's own network.
//!
//! A container record in containerd is the envelope of everything that bears an instance's name: it is created before
//! snapshot and task, and deleted after them. So whatever a crash leaves, a look at the records finds it.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use state::desired::Record;
use state::failure::Failure;
use state::id::{ContainerId, InstanceName};
use state::observed::Seen;
use state::reason::Reason;
use state::reference::ImageReference;
use state::spec::ImagePull;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::network::{Network, NetworkError};
use crate::oci::host::Host;
use crate::runtime::{
    Listing, PullProgress, Runtime, RuntimeError, RuntimeEvent, StopOrder, Swept,
};
use client::Client;
use image::Images;

pub mod client;
mod content;
mod durable;
mod events;
pub mod image;
mod labels;
mod launch;
mod lease;
mod observe;
mod runc;
mod shim;
mod stop;
mod sweep;
mod unpack;
mod user;

/// Shims being started or ended at once, for each processor: beyond twice as many, everything only takes longer.
const SHIMS_PER_CORE: usize = 2;

/// Where this containerd is, and where what is ours lies.
#[derive(Clone, Debug)]
pub struct ContainerdConfig {
    /// The socket that it listens on, which its shims have among their arguments.
    pub socket: PathBuf,
    /// Its namespace for us; also the directory of our control groups.
    pub namespace: String,
    /// The containers' logs, a directory each.
    pub logs_dir: PathBuf,
    /// This program, which the shim starts as each container's logging process.
    pub executable: PathBuf,
    /// For mounts that last a moment.
    pub run_dir: PathBuf,
}

/// containerd, with the network and the images that containers on it need.
#[derive(Debug)]
pub struct Containerd {
    config: ContainerdConfig,
    client: Client,
    network: Arc<Network>,
    images: Images,
    host: Host,
    shims: Semaphore,
    /// Task creations under way, which must not be given up with whoever waits for them.
    creations: TaskTracker,
    /// What the last listing found of ours without a container record.
    orphans: Mutex<Vec<InstanceName>>,
}

impl Containerd {
    /// A runtime on the containerd that `client` speaks to.
    ///
    /// # Errors
    /// The host's facts (control groups, limits) cannot be read.
    pub fn new(
        config: ContainerdConfig,
        client: Client,
        network: Arc<Network>,
        images: Images,
    ) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Ok(Self {
            config,
            client,
            network,
            images,
            host: Host::read()?,
            shims: Semaphore::new(SHIMS_PER_CORE * cores),
            creations: TaskTracker::new(),
            orphans: Mutex::default(),
        })
    }

    fn cgroups_path(&self, instance: InstanceName) -> String {
        format!("/{}/{instance}", self.config.namespace)
    }
}

impl From<NetworkError> for RuntimeError {
    fn from(error: NetworkError) -> Self {
        Self::Failed(Failure::from(error))
    }
}

impl Runtime for Containerd {
    async fn list(&self) -> Result<Listing, RuntimeError> {
        self.listing().await
    }

    async fn salvage(&self) -> Result<Vec<(ContainerId, Value)>, RuntimeError> {
        self.copies().await
    }

    async fn observe(&self, id: ContainerId) -> Result<Seen, RuntimeError> {
        self.look(id).await
    }

    async fn ensure_image(
        &self,
        reference: &ImageReference,
        pull: ImagePull,
        progress: &PullProgress,
        cancel: &CancellationToken,
    ) -> Result<String, RuntimeError> {
        self.images.ensure(reference, pull, progress, cancel).await
    }

    async fn launch(&self, record: &Record) -> Result<(), RuntimeError> {
        self.bring_up(record).await
    }

    async fn stop(&self, instance: InstanceName, how: &StopOrder) -> Result<(), RuntimeError> {
        self.end_task(instance, how).await
    }

    async fn remove(&self, instance: InstanceName, how: &StopOrder) -> Result<(), RuntimeError> {
        self.take_away(instance, how).await
    }

    async fn forget(&self, id: ContainerId) -> Result<(), RuntimeError> {
        let removed = crate::logs::remove(&crate::logs::directory(&self.config.logs_dir, id)).await;
        removed.map_err(|error| {
            RuntimeError::failed(
                Reason::RemoveFailed,
                format!("its logs cannot be removed: {error}"),
            )
        })
    }

    async fn sweep(&self, wanted: &[Record]) -> Result<Swept, RuntimeError> {
        self.clear_leftovers(wanted).await
    }

    async fn follow(&self, events: mpsc::Sender<RuntimeEvent>) {
        events::follow(&self.client, &events).await;
    }
}
