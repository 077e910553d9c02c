//! Runtime on containerd, over gRPC, with the network of the agent.
//!
//! In four layers: `rpc` are containerd's calls, `image` and `shim` stand on them, `instance` on
//! all three, and this file puts network, logs and images beside the instances. A layer looks only
//! down.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use state::desired::Record;
use state::failure::Failure;
use state::id::{ContainerId, InstanceName};
use state::observed::Seen;
use state::reason::Reason;
use state::reference::ImageReference;
use state::spec::ImagePull;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::config::ContainerdConfig;
use self::image::Images;
use self::instance::Instances;
pub use self::rpc::client::ContainerdClient;
use self::rpc::events;
pub use self::shim::oci_runtime::OciRuntime;
use crate::logs;
use crate::network::NetworkDriver as _;
use crate::network::{BridgeNetwork, NetworkError};
use crate::runtime::{
    PullProgress, Runtime, RuntimeError, RuntimeEvent, RuntimeListing, StopOrder, Swept,
};

mod config;
pub mod image;
mod instance;
mod rpc;
mod shim;
mod sweep;

/// Containers on containerd, with the network and the images that they need.
#[derive(Debug)]
pub struct Containerd {
    client: ContainerdClient,
    network: Arc<BridgeNetwork>,
    images: Images,
    instances: Instances,
    logs_dir: PathBuf,
}

impl Containerd {
    /// Runtime on the containerd of `client`.
    ///
    /// # Errors
    /// The host's facts (control groups, limits) cannot be read.
    pub fn new(
        config: ContainerdConfig,
        client: ContainerdClient,
        network: Arc<BridgeNetwork>,
        images: Images,
    ) -> io::Result<Self> {
        Ok(Self {
            logs_dir: config.logs_dir.clone(),
            instances: Instances::new(
                config,
                client.clone(),
                Arc::clone(&network),
                images.clone(),
            )?,
            client,
            network,
            images,
        })
    }
}

impl From<NetworkError> for RuntimeError {
    fn from(error: NetworkError) -> Self {
        Self::Failed(Failure::from(error))
    }
}

impl Runtime for Containerd {
    async fn list(&self) -> Result<RuntimeListing, RuntimeError> {
        self.instances.list().await
    }

    async fn stored_records(&self) -> Result<Vec<(ContainerId, Value)>, RuntimeError> {
        self.instances.stored_records().await
    }

    async fn observe(&self, id: ContainerId) -> Result<Seen, RuntimeError> {
        self.instances.observe(id).await
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
        self.instances.launch(record).await
    }

    async fn stop(&self, instance: InstanceName, how: &StopOrder) -> Result<(), RuntimeError> {
        self.instances.stop(instance, how).await
    }

    async fn remove(&self, instance: InstanceName, how: &StopOrder) -> Result<(), RuntimeError> {
        self.instances.remove(instance, how).await
    }

    async fn remove_logs(&self, id: ContainerId) -> Result<(), RuntimeError> {
        let removed = logs::remove(&logs::directory(&self.logs_dir, id)).await;
        removed.map_err(|error| {
            let message = format!("the logs of {id} cannot be removed: {error}");
            RuntimeError::failed(Reason::RemoveFailed, message)
        })
    }

    /// Each kind of leftover is swept although another could not be: one task that cannot be ended
    /// must not keep the network from being repaired. The first error is answered when all is done.
    async fn sweep(&self, wanted: &[Record]) -> Result<Swept, RuntimeError> {
        // Without it nothing can be told to be in use, and so nothing is removed.
        let existing = self.instances.existing().await?;
        let mut swept = Swept::default();
        let orphans = self.instances.sweep_orphans(wanted, &mut swept).await;
        let shims = self.instances.sweep_lost_shims(wanted, &mut swept).await;
        let in_use = sweep::in_network(wanted, &existing);
        let network = self.network.repair(&in_use).await;
        let network = network
            .map(|lines| swept.removed.extend(lines))
            .map_err(RuntimeError::from);
        let images = self
            .images
            .sweep(&sweep::images_of(wanted, &existing))
            .await;
        let images = images.map(|lines| swept.removed.extend(lines));
        sweep::sweep_logs(&self.logs_dir, wanted, &mut swept).await;
        match orphans.and(shims).and(network).and(images) {
            Ok(()) => Ok(swept),
            Err(error) => {
                swept
                    .removed
                    .iter()
                    .for_each(|line| tracing::info!(what = %line, "swept"));
                Err(error)
            }
        }
    }

    async fn follow(&self, events: mpsc::Sender<RuntimeEvent>) {
        events::follow(&self.client, &events).await;
    }
}
