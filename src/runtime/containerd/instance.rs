//! Instances of containers: brought up, looked at, stopped and removed, step by step, each of which
//! may be repeated.
//!
//! The container in containerd is the envelope of everything that bears an instance's name: it is
//! created before snapshot and task, and deleted after them. So a look at the containers finds
//! whatever a crash leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use containerd_client::types::Mount;
use state::id::InstanceName;
use tokio::sync::watch;
use tokio::time::Instant;

use self::exec::LiveExecs;
use self::hand_over::HandOver;
use self::image_lookup::ImageLookup;
use self::ipc_sysctls::IpcSysctls;
use self::own_ids::OwnIds;
pub(crate) use self::running::RunningTasks;
use super::config::ContainerdConfig;
use super::image::Images;
use super::rpc::client::ContainerdClient;
use super::rpc::tasks::TaskCalls;
use super::shim::lost::{EmptyShims, Shims};
use super::shim::remains::Remains;
use crate::oci::confinement::{ConfinementLayer, IdMapping};
use crate::oci::host::Host;

mod adjust;
mod devices;
mod disks;
mod exec;
mod files;
mod given;
mod hand_over;
mod host_accounts;
mod host_limits;
mod image_lookup;
mod image_root;
mod image_view;
mod ipc_sysctls;
mod launch;
mod mount_point;
mod observe;
mod oci_spec;
mod orphans;
mod own_ids;
mod program;
mod running;
mod stop;
mod unresponsive;

/// Instances in one containerd namespace, with the images that they need.
#[derive(Debug)]
pub(super) struct Instances {
    config: ContainerdConfig,
    client: ContainerdClient,
    images: Images,
    host: Host,
    tasks: TaskCalls,
    shims: Shims,
    remains: Remains,
    lookup: ImageLookup,
    ids: OwnIds,
    /// Instances without a container, as the last listing found them.
    orphans: Mutex<Vec<InstanceName>>,
    empty_shims: Mutex<EmptyShims>,
    /// Instances that this agent has begun to launch: a shim of theirs may be of a call of its own.
    begun: Mutex<BTreeSet<InstanceName>>,
    /// Instances whose shim does not answer, and since when as far as looks have told.
    silent: Mutex<BTreeMap<InstanceName, Instant>>,
    /// Programs that run beside first processes.
    execs: LiveExecs,
}

impl Instances {
    /// Layers that confine instances on this host, besides their capabilities and user namespaces.
    pub(super) fn confinement(&self) -> Vec<ConfinementLayer> {
        self.config.confinement.layers(&self.host)
    }

    /// Tasks that run.
    pub(super) fn running_tasks(self: &Arc<Self>) -> RunningTasks {
        RunningTasks(Arc::clone(self))
    }

    /// Ability of containerd and the kernel to map ids, as it becomes known.
    pub(super) fn id_mapping(&self) -> watch::Receiver<IdMapping> {
        self.ids.mapping()
    }

    /// Asks the containerd that is connected now whether it maps ids, where that counts.
    pub(super) async fn learn_id_mapping(&self) {
        if self.config.confinement.user_ids.is_none() {
            return;
        }
        if let Err(error) = self.ids.learn(&self.client, &self.config).await {
            tracing::debug!(?error, "id mapping not learned");
        }
    }

    /// Instances on the containerd of `client`.
    ///
    /// # Errors
    /// The host's facts (control groups, limits) cannot be read.
    pub(super) fn new(
        config: ContainerdConfig,
        client: ContainerdClient,
        images: Images,
    ) -> io::Result<Self> {
        image_root::clear_left(&config.run_dir);
        let execs = LiveExecs::begin(&config.run_dir);
        Ok(Self {
            lookup: ImageLookup::default(),
            ids: OwnIds::of(config.confinement.user_ids.clone()),
            tasks: TaskCalls::new(client.clone()),
            shims: Shims {
                namespace: config.namespace.clone(),
                socket: config.socket.clone(),
                programs: config
                    .runtimes
                    .values()
                    .chain([&config.oci_runtime])
                    .map(|runtime| runtime.shim.clone())
                    .collect(),
            },
            remains: Remains::of(&config.namespace, &config.socket),
            config,
            client,
            images,
            host: Host::read()?,
            orphans: Mutex::default(),
            empty_shims: Mutex::default(),
            begun: Mutex::default(),
            silent: Mutex::default(),
            execs,
        })
    }

    fn cgroups_path(&self, instance: InstanceName) -> String {
        format!("/{}/{instance}", self.config.namespace)
    }
}

/// Root file system of a container that is created, and the program that is to run in it.
#[derive(Debug)]
pub(crate) struct CreatedRootfs {
    mounts: Vec<Mount>,
    program: program::Program,
    /// Whether the device of tunnels is among its devices.
    gives_tunnels: bool,
    /// Things that the container is to be given. `None`: its ids are the host's.
    hand_over: Option<HandOver>,
    /// Sysctls that are set in its namespaces.
    sysctls: IpcSysctls,
}

impl CreatedRootfs {
    /// Whether the container has ids of its own.
    pub(super) const fn has_own_ids(&self) -> bool {
        self.hand_over.is_some()
    }
}
