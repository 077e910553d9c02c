//! Removal of all that the agent made on this node, by the runtime that the reconciler removes with: once
//! no agent runs, and nothing is desired any more.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use state::blobs::Blobs;
use state::id::InstanceName;
use state::seal::KeyPlace;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::host_paths::host_paths;
use super::registries::{registry_config, room_config};
use super::rooms::{AgentRuntime, bridge_config, engine, loggers};
use crate::cause;
use crate::config::Config;
use crate::journal::Journal;
use crate::network::{BridgeNetwork, NetworkDriver as _};
use crate::runtime::containerd::image::Images;
use crate::runtime::containerd::{ContainerdClient, ValueSources};
use crate::runtime::node::NodeRuntime;
use crate::runtime::{Runtime as _, StopOrder, WantedRecords};
use crate::secrets::SecretMemory;
use crate::volumes::Volumes;

/// Removals at once.
const REMOVALS_MAX: usize = 8;
/// Time between asking a container to stop and killing it.
const GRACE: Duration = Duration::from_secs(10);
/// Directory below the one for what a reboot ends that is never made.
const NOWHERE: &str = "no-volumes";

/// The rooms that remove.
#[derive(Debug)]
pub(crate) struct NodeRemoval {
    runtime: AgentRuntime,
    network: Arc<BridgeNetwork>,
    images: Images,
}

/// Outcome of a removal.
#[derive(Clone, Debug, Default)]
pub(crate) struct RemovedNode {
    /// Line for each thing that was removed.
    pub(crate) removed: Vec<String>,
    /// Sentence for each that could not be.
    pub(crate) faults: Vec<String>,
}

impl NodeRemoval {
    /// The rooms, by the configuration; nothing is looked at yet. `keeps_volumes`: also those that images
    /// gave their containers stay.
    ///
    /// # Errors
    /// The host's facts cannot be read.
    pub(crate) fn new(config: &Config, keeps_volumes: bool) -> anyhow::Result<Self> {
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let network = Arc::new(BridgeNetwork::new(bridge_config(config)));
        let client = ContainerdClient::new(&config.containerd.socket, &config.containerd.namespace);
        let images = Images::new(client.clone(), registry_config(config), room_config(config))?;
        // Nothing is started, and so no value is opened.
        let values = ValueSources {
            key: KeyPlace::default(),
            blobs: Blobs::of(&config.state.dir),
            memory: SecretMemory::new(&config.state.run_dir),
        };
        let engine = engine(config, images.clone(), client, values)?;
        let loggers = loggers(config, &Journal::default(), &stop, &tracker)?;
        // A sweep removes the volumes of images that no record asks for: where there are none, none.
        let volumes: PathBuf = match keeps_volumes {
            true => config.state.run_dir.join(NOWHERE),
            false => config.state.dir.clone(),
        };
        let volumes = (Volumes::new(volumes), host_paths(config));
        Ok(Self {
            runtime: NodeRuntime::new(engine, Arc::clone(&network), loggers, volumes),
            network,
            images,
        })
    }

    /// The managed instances, and the ids of unmanaged containers in the agent's namespace, which stay.
    ///
    /// # Errors
    /// containerd does not answer, in words.
    pub(crate) async fn look(&self) -> Result<(Vec<InstanceName>, Vec<String>), String> {
        let listed = self.runtime.list().await;
        let listing = listed.map_err(|error| error.to_string())?;
        let instances: BTreeMap<_, _> = listing.managed;
        let managed = instances.iter().flat_map(|(&id, seen)| {
            let generations = seen.instances.keys();
            generations.map(move |&generation| InstanceName { id, generation })
        });
        let unmanaged = listing.unmanaged.into_iter().map(|container| container.id);
        Ok((managed.collect(), unmanaged.collect()))
    }

    /// Removes these instances, what is left of others, images, and the network. As much as possible is
    /// removed.
    pub(crate) async fn remove(&self, instances: Vec<InstanceName>) -> RemovedNode {
        let mut done = RemovedNode::default();
        let how = StopOrder {
            signal: None,
            grace: GRACE,
        };
        let removals = instances
            .into_iter()
            .map(|instance| async move { (instance, self.runtime.remove(instance, &how).await) });
        let mut removals = stream::iter(removals).buffer_unordered(REMOVALS_MAX);
        while let Some((instance, removed)) = removals.next().await {
            match removed {
                Ok(_) => done.removed.push(format!("container {instance}")),
                Err(error) => done.faults.push(format!("container {instance}: {error}")),
            }
        }
        match self.runtime.sweep(&WantedRecords::default()).await {
            Ok(swept) => done.removed.extend(swept.removed),
            Err(error) => done.faults.push(format!("left-overs: {error}")),
        }
        if done.faults.is_empty() {
            // Those that were pulled ahead, and are to be kept for a while.
            match self.images.sweep_all().await {
                Ok(lines) => done.removed.extend(lines),
                Err(error) => done.faults.push(format!("images: {error}")),
            }
        }
        match self.network.teardown().await {
            Ok(()) => done.removed.push("the network: bridge, rules".to_owned()),
            Err(error) => {
                let why = cause::all(&error);
                done.faults.push(format!("the network: {why}"));
            }
        }
        done
    }
}
