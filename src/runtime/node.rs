//! Runtime of a node: a container engine, and what is the node's own beside it (network, logs, volumes).

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use state::desired::{Addresses, Record};
use state::failure::Failure;
use state::id::{ContainerId, InstanceName};
use state::observed::{Exit, Seen, Task};
use state::policy::signers::SignatureDemand;
use state::reason::Reason;
use state::reference::ImageReference;
use state::spec::ImagePull;
use state::spec::network::NetworkMode;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::engine::{EndedInstance, Engine, LaunchStage, Sandbox};
use super::{
    PullProgress, Runtime, RuntimeError, RuntimeEvent, RuntimeListing, StopOrder, Swept,
    WantedRecords,
};
use crate::host_paths::{HostPaths, MountedPaths};
use crate::logs;
use crate::logs::keep::{Loggers, RunningContainer};
use crate::network::{NetnsLoan, NetworkDriver, NetworkError};
use crate::oci;
use crate::oci::mounts::Mount;
use crate::volumes::Volumes;

mod hand_over;
mod host_paths;
mod sweep;
mod volumes;

/// Leftovers that a sweep removes at once; the engine has limits of its own for what is costly.
const REMOVALS_MAX: usize = 8;

/// Runtime of one node, on the engine `E` and the network `N`.
#[derive(Debug)]
pub(crate) struct NodeRuntime<E, N> {
    engine: E,
    network: Arc<N>,
    logs: Loggers,
    volumes: Volumes,
    host_paths: HostPaths,
}

impl From<NetworkError> for RuntimeError {
    fn from(error: NetworkError) -> Self {
        Self::Failed(Failure::from(error))
    }
}

impl<E: Engine, N: NetworkDriver> NodeRuntime<E, N> {
    pub(crate) fn new(
        engine: E,
        network: Arc<N>,
        logs: Loggers,
        (volumes, host_paths): (Volumes, HostPaths),
    ) -> Self {
        Self {
            engine,
            network,
            logs,
            volumes,
            host_paths,
        }
    }

    fn sandbox(&self, record: &Record) -> Sandbox {
        let paths = self.network.paths(record.instance());
        let mount = if paths.writable && !record.spec.security.read_only_rootfs {
            Mount::writable
        } else {
            Mount::read_only
        };
        let mounts = [
            (paths.resolv_conf, "/etc/resolv.conf"),
            (paths.hosts, "/etc/hosts"),
            (paths.hostname, "/etc/hostname"),
        ];
        Sandbox {
            netns: (record.spec.network.mode != NetworkMode::Host).then_some(paths.netns),
            mounts: mounts
                .map(|(source, destination)| mount(source, destination))
                .into(),
            volumes: Vec::new(),
            sysfs: paths.sysfs,
        }
    }

    /// Makes the container and its place on the network, side by side: the paths in the container's
    /// spec are known before anything is at them.
    async fn create(
        &self,
        record: &Record,
        found: E::Container,
        held: &MountedPaths,
    ) -> Result<(Option<Addresses>, E::Rootfs), RuntimeError> {
        let instance = record.instance();
        let (names, network) = (sweep::names(record), &record.spec.network);
        let (connected, created) = tokio::join!(
            self.network
                .connect(instance, &names, &record.assignment, network),
            self.create_with_volumes(record, found, held)
        );
        match (connected, created) {
            (Ok(attached), Ok(rootfs)) => {
                if let Some(loan) = netns_loan(record, E::has_own_ids(&rootfs)) {
                    self.network.lend(instance, loan).await?;
                }
                Ok((attached.addresses, rootfs))
            }
            (connected, created) => {
                // Without a container, nothing else knows of its network.
                if let Err(error) = self.network.detach(instance).await {
                    tracing::debug!(%instance, %error, "network not detached, left to its repair");
                }
                let addresses = connected?.addresses;
                created.map(|rootfs| (addresses, rootfs))
            }
        }
    }

    /// Makes the container and its task, and answers its addresses.
    async fn create_task(
        &self,
        record: &Record,
        found: E::Container,
        held: &MountedPaths,
    ) -> Result<Option<Addresses>, RuntimeError> {
        let (addresses, rootfs) = self.create(record, found, held).await?;
        let assignment = addresses.map(|addresses| record.assignment.at(addresses));
        let output = self.logs.output(record);
        // Publishing the host ports costs some 10 ms, which the 80 of the task's creation hide.
        let (created, published) = tokio::join!(
            self.engine.create_task(record, rootfs, output),
            self.publish(record, assignment)
        );
        self.logs.keep(record, created?);
        published?;
        Ok(addresses)
    }

    /// Makes the container, once its volumes are there.
    async fn create_with_volumes(
        &self,
        record: &Record,
        found: E::Container,
        held: &MountedPaths,
    ) -> Result<E::Rootfs, RuntimeError> {
        let mut volumes = volumes::prepare(&self.engine, &self.volumes, record, &found).await?;
        volumes.extend(host_paths::volumes(record, held));
        let sandbox = Sandbox {
            volumes,
            ..self.sandbox(record)
        };
        self.engine.create(record, found, &sandbox).await
    }

    async fn remove_each(
        &self,
        instances: Vec<InstanceName>,
        what: &str,
        swept: &mut Swept,
    ) -> Result<(), RuntimeError> {
        let mut first = Ok(());
        // Side by side: one that does not end holds up none of the others.
        let removals = instances.into_iter().map(|instance| async move {
            let removed = self.remove(instance, &StopOrder::AT_ONCE).await;
            (instance, removed)
        });
        let mut removals = stream::iter(removals).buffer_unordered(REMOVALS_MAX);
        while let Some((instance, removed)) = removals.next().await {
            match removed {
                Ok(_) => drop(swept.removed.insert(format!("{what} {instance}"))),
                Err(error) => first = first.and(Err(error)),
            }
        }
        first
    }
}

/// Preparations in the netns of a container; `None`: the OCI runtime makes them.
fn netns_loan(record: &Record, has_own_ids: bool) -> Option<NetnsLoan> {
    let is_asked = oci::asked_network_sysctls(&record.spec).next().is_some();
    (has_own_ids || is_asked).then(|| NetnsLoan {
        sysctls: oci::network_sysctls(&record.spec),
        shows_sysfs: has_own_ids,
        is_host: record.spec.network.mode == NetworkMode::Host,
    })
}

impl<E: Engine, N: NetworkDriver> Runtime for NodeRuntime<E, N> {
    async fn list(&self) -> Result<RuntimeListing, RuntimeError> {
        self.engine.list().await
    }

    async fn stored_records(&self) -> Result<Vec<(ContainerId, Value)>, RuntimeError> {
        self.engine.stored_records().await
    }

    async fn observe(&self, id: ContainerId) -> Result<Seen, RuntimeError> {
        self.engine.observe(id).await
    }

    async fn ensure_image(
        &self,
        reference: &ImageReference,
        wanted: (ImagePull, &[SignatureDemand]),
        progress: &PullProgress,
        cancel: &CancellationToken,
    ) -> Result<String, RuntimeError> {
        self.engine
            .ensure_image(reference, wanted, progress, cancel)
            .await
    }

    async fn ensure_signed(
        &self,
        reference: &ImageReference,
        digest: &str,
        wanted: (ImagePull, &[SignatureDemand]),
        cancel: &CancellationToken,
    ) -> Result<(), RuntimeError> {
        self.engine
            .ensure_signed(reference, digest, wanted, cancel)
            .await
    }

    async fn judge_image(
        &self,
        record: &Record,
        own_ids: Option<&str>,
    ) -> Result<(), RuntimeError> {
        self.look_at_host_paths(record).await?;
        self.volumes.look_at_sizes(volumes::sizes(record)).await?;
        self.engine.judge_image(record, own_ids).await
    }

    async fn launch(&self, record: &Record) -> Result<Option<Addresses>, RuntimeError> {
        let instance = record.instance();
        let found = match self.engine.begin(record).await? {
            LaunchStage::Running => return Ok(None),
            LaunchStage::Created { pid } => {
                let (assignment, network) = (&record.assignment, &record.spec.network);
                let names = sweep::names(record);
                let connecting = self.network.connect(instance, &names, assignment, network);
                let addresses = connecting.await?.addresses;
                let place = addresses.map(|addresses| assignment.at(addresses));
                self.publish(record, place).await?;
                self.logs.keep(record, pid);
                self.engine.start(instance).await?;
                return Ok(addresses);
            }
            LaunchStage::NoTask(found) => found,
        };
        let held = self.hold_host_paths(record).await?;
        let created = self.create_task(record, found, &held).await;
        held.release().await;
        let addresses = created?;
        self.engine.start(instance).await?;
        Ok(addresses)
    }

    async fn check_ports(&self, record: &Record) -> Result<(), RuntimeError> {
        self.can_serve(record).await
    }

    async fn hand_over(
        &self,
        record: &Record,
        other: InstanceName,
    ) -> Result<Option<usize>, RuntimeError> {
        self.serve(record, other).await
    }

    async fn signal(&self, instance: InstanceName, how: &StopOrder) -> Result<(), RuntimeError> {
        self.engine.signal(instance, how).await
    }

    async fn adjust(&self, record: &Record) -> Result<(), RuntimeError> {
        // A disk that is full keeps no container from its limits, nor from its next start: with that
        // its logger has them.
        if let Err(error) = self.logs.limit(record).await {
            tracing::warn!(container = %record.name, %error, "log limits not changed");
        }
        let sizes = self.volumes.bound(volumes::sizes(record)).await;
        self.engine.adjust(record, sizes).await
    }

    async fn stop(
        &self,
        instance: InstanceName,
        how: &StopOrder,
    ) -> Result<Option<Exit>, RuntimeError> {
        self.engine.stop(instance, how).await
    }

    async fn remove(
        &self,
        instance: InstanceName,
        how: &StopOrder,
    ) -> Result<Option<Exit>, RuntimeError> {
        let ended = self.engine.end(instance, how).await?;
        let detached = self.network.detach(instance).await;
        let EndedInstance::Managed(exit) = ended else {
            return Ok(detached.map(|()| None)?);
        };
        let removed = match detached {
            Ok(()) => self.engine.discard(instance).await,
            Err(error) => Err(error.into()),
        };
        if let (Err(_), Some(exit)) = (&removed, &exit) {
            // The next try finds no task that could tell.
            tracing::info!(%instance, exit_code = exit.code, "container exited, not removed yet");
        }
        removed.map(|()| exit)
    }

    async fn remove_logs(&self, id: ContainerId) -> Result<(), RuntimeError> {
        self.logs.end(id).await;
        let removed = logs::remove(&self.logs.directory(id)).await;
        removed.map_err(|error| {
            let message = format!("the logs of {id} cannot be removed: {error}");
            RuntimeError::failed(Reason::RemoveFailed, message)
        })?;
        let removed = self.volumes.remove_of_images(id).await;
        removed.map_err(|error| {
            let message = format!("the volumes of {id} cannot be removed: {error}");
            RuntimeError::failed(Reason::RemoveFailed, message)
        })
    }

    /// Each kind of leftover is swept although another could not be: one task that cannot be ended
    /// must not keep the network from being repaired. The first error is answered when all is done.
    async fn sweep(&self, wanted: &WantedRecords) -> Result<Swept, RuntimeError> {
        // Without it nothing can be told to be in use, and so nothing is removed.
        let existing = self.engine.existing().await?;
        let mut swept = Swept::default();
        swept.removed.extend(self.engine.sweep_execs().await);
        let ids = wanted.ids();
        let mut orphans = self.engine.take_orphans();
        orphans.retain(|orphan| !ids.contains(&orphan.id));
        let orphans = self.remove_each(orphans, "orphan", &mut swept).await;
        let lost = self.sweep_lost(wanted, &mut swept).await;
        let in_use = sweep::in_network(&wanted.records, &existing);
        let network = self.network.repair(&in_use, &wanted.unreadable).await;
        let network = network
            .map(|lines| swept.removed.extend(lines))
            .map_err(RuntimeError::from);
        let images = self.sweep_images(wanted, &existing, &mut swept).await;
        sweep::sweep_logs(&self.logs, &ids, &existing, &mut swept).await;
        sweep::sweep_volumes(&self.volumes, &ids, &existing, &mut swept).await;
        self.sweep_host_paths(&mut swept).await;
        match orphans.and(lost).and(network).and(images) {
            Ok(()) => Ok(swept),
            Err(error) => {
                swept
                    .removed
                    .iter()
                    .for_each(|line| tracing::info!(what = %line, "leftover swept"));
                Err(error)
            }
        }
    }

    async fn keep_logs(&self, listing: &RuntimeListing, records: &[Arc<Record>]) {
        let instances = listing.managed.iter().flat_map(|(id, seen)| {
            let (id, of_id) = (*id, seen.instances.iter());
            of_id.map(move |(&generation, seen)| (InstanceName { id, generation }, &seen.task))
        });
        let records: HashMap<_, &Record> = records
            .iter()
            .map(|record| (record.id, &**record))
            .collect();
        let running: Vec<_> = instances
            .filter_map(|(instance, task)| match task {
                Task::Running { pid, .. } => Some(RunningContainer {
                    instance,
                    first: *pid,
                    record: records
                        .get(&instance.id)
                        .map(|record| record.of_instance(instance).unwrap_or(record)),
                }),
                Task::Absent | Task::Created { .. } | Task::Stopped(_) | Task::Unresponsive => None,
            })
            .collect();
        self.logs.adopt(&running).await;
    }

    async fn follow(&self, events: mpsc::Sender<RuntimeEvent>) {
        self.engine.follow(events).await;
    }
}
