//! Bringing an instance up: from whatever exists of it to a running task.

use containerd_client::services::v1 as api;
use containerd_client::services::v1::snapshots as snapshots_api;
use containerd_client::types::Mount;
use prost_types::Any;
use state::desired::Record;
use state::id::InstanceName;
use state::observed::Task;
use state::reason::Reason;

use super::client::{CallError, quick};
use super::unpack::{self, SNAPSHOTTER};
use super::{Containerd, labels, runc, user};
use crate::logs;
use crate::network::Attached;
use crate::oci::mounts;
use crate::oci::{self, Placement};
use crate::runtime::RuntimeError;

/// The shim that every containerd since 1.4 brings along.
const SHIM: &str = "io.containerd.runc.v2";
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

impl Containerd {
    pub(super) async fn bring_up(&self, record: &Record) -> Result<(), RuntimeError> {
        let instance = record.instance();
        // The record first: what is not ours is not touched, whatever its task looks like.
        let container = self.container(instance).await?;
        match self.task(instance).await? {
            Task::Running { .. } => return Ok(()),
            Task::Created { .. } => {
                self.network
                    .attach(instance, &record.name, &record.assignment)
                    .await?;
                return self.start(instance).await;
            }
            Task::Stopped(_) => self.delete_task(instance).await?,
            Task::Absent => {}
        }
        // Wires and record do not need each other: the paths in the spec are known before there is anything at them.
        let connecting = self
            .network
            .connect(instance, &record.name, &record.assignment);
        let (connected, laid_out) = tokio::join!(connecting, self.lay_out(record, container));
        let mounts = match (connected, laid_out) {
            (Ok(_), Ok(mounts)) => mounts,
            (connected, laid_out) => {
                // Without a record, nothing else knows of its wires.
                if let Err(error) = self.network.detach(instance).await {
                    tracing::debug!(%instance, %error, "left to the next comparison of the network");
                }
                connected?;
                return laid_out.map(drop);
            }
        };
        // Opening the host ports costs some 10 ms, which the 80 of the task's creation hide.
        let opening = self.network.publish(instance, &record.assignment);
        let (created, opened) = tokio::join!(self.create_task(record, mounts), opening);
        created?;
        opened?;
        self.start(instance).await
    }

    /// Makes sure of the container record and the snapshot, and answers the snapshot's mounts.
    async fn lay_out(
        &self,
        record: &Record,
        container: Option<api::Container>,
    ) -> Result<Vec<Mount>, RuntimeError> {
        let parent = match container {
            Some(container) if labels::are_of(&container.labels, record) => container
                .labels
                .get(labels::PARENT)
                .cloned()
                .unwrap_or_default(),
            Some(_) => {
                tracing::info!(instance = %record.instance(), "its container was made of another image or spec; it is made anew");
                self.discard(record.instance()).await?;
                self.create(record).await?
            }
            None => self.create(record).await?,
        };
        self.snapshot(record, &parent).await
    }

    /// The instance's container record.
    ///
    /// # Errors
    /// There is one that is not ours.
    pub(super) async fn container(
        &self,
        instance: InstanceName,
    ) -> Result<Option<api::Container>, RuntimeError> {
        match self.find(instance).await? {
            Some(container) if !labels::are_ours(&container.labels) => {
                let message = format!(
                    "containerd has a container {instance} that is not the agent's; remove it with the tool that made it"
                );
                Err(RuntimeError::failed(Reason::NameTaken, message))
            }
            found => Ok(found),
        }
    }

    /// The container record of that name, whoever made it.
    pub(super) async fn find(
        &self,
        instance: InstanceName,
    ) -> Result<Option<api::Container>, RuntimeError> {
        let request = api::GetContainerRequest {
            id: instance.to_string(),
        };
        match quick(self.client.containers().get(request)).await {
            Ok(reply) => Ok(reply.container),
            Err(CallError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates the container record, and answers the snapshot that its own is to be made from.
    async fn create(&self, record: &Record) -> Result<String, RuntimeError> {
        let instance = record.instance();
        let digest = record.image_digest.as_deref().unwrap_or_default();
        let image = self.images.local(&record.spec.image, digest).await?;
        let wanted = oci::wanted_user(&image.config, record);
        let user = user::lookup(
            &self.client,
            &wanted,
            &image.top_chain_id,
            &self.config.run_dir,
        )
        .await?;
        let attached = self.network.paths(instance);
        let place = Placement {
            netns: &attached.netns,
            cgroups_path: &self.cgroups_path(instance),
            mounts: &mounts_of(&attached),
        };
        let spec = oci::spec(&image.config, record, &user, &self.host, place)?;
        let container = api::Container {
            id: instance.to_string(),
            labels: labels::of(record, oci::stop_signal(&image.config), &image.top_chain_id),
            image: record.spec.image.to_string(),
            runtime: Some(api::container::Runtime {
                name: SHIM.to_owned(),
                options: None,
            }),
            spec: Some(Any {
                type_url: SPEC_TYPE.to_owned(),
                value: spec,
            }),
            snapshotter: SNAPSHOTTER.to_owned(),
            snapshot_key: instance.to_string(),
            ..api::Container::default()
        };
        let request = api::CreateContainerRequest {
            container: Some(container),
        };
        match quick(self.client.containers().create(request)).await {
            Ok(_) | Err(CallError::AlreadyExists) => Ok(image.top_chain_id.clone()),
            Err(error) => Err(error.into()),
        }
    }

    /// The mounts of its snapshot, which is made if it is not there. Only after the container record: what no record
    /// refers to, containerd's garbage collector may take at any moment.
    async fn snapshot(&self, record: &Record, parent: &str) -> Result<Vec<Mount>, RuntimeError> {
        let key = record.instance().to_string();
        let request = snapshots_api::PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: key.clone(),
            parent: parent.to_owned(),
            labels: labels::bare(record.instance()),
        };
        match quick(self.client.snapshots().prepare(request)).await {
            Ok(reply) => Ok(reply.mounts),
            Err(CallError::AlreadyExists) => {
                let request = snapshots_api::MountsRequest {
                    snapshotter: SNAPSHOTTER.to_owned(),
                    key,
                };
                let reply = quick(self.client.snapshots().mounts(request)).await;
                Ok(reply
                    .map_err(|error| unpack::refused(error, "mount a snapshot"))?
                    .mounts)
            }
            Err(CallError::NotFound(message)) => {
                self.images
                    .forget(record.image_digest.as_deref().unwrap_or_default());
                Err(RuntimeError::ImageLost(message))
            }
            Err(error) => Err(unpack::refused(error, "prepare a snapshot")),
        }
    }

    async fn create_task(&self, record: &Record, rootfs: Vec<Mount>) -> Result<(), RuntimeError> {
        let logs = logs::directory(&self.config.logs_dir, record.id);
        let output = logs::shim::uri(&self.config.executable, &logs, record.spec.logs);
        let request = api::CreateTaskRequest {
            container_id: record.instance().to_string(),
            rootfs,
            stdout: output.clone(),
            stderr: output,
            ..api::CreateTaskRequest::default()
        };
        match self.request_task(request).await {
            Ok(()) | Err(CallError::AlreadyExists) => Ok(()),
            Err(CallError::Unavailable(message)) => Err(RuntimeError::Unavailable(message)),
            Err(CallError::NotFound(message) | CallError::Refused(message)) => {
                // A shim that containerd has lost would answer the next try as well.
                self.end_lost_shim(record.instance()).await?;
                Err(refused(&message))
            }
        }
    }

    /// Asks for a task. Given up half-way, it would leave a shim that containerd does not know: so it has a task of its
    /// own, and no timeout.
    pub(super) async fn request_task(
        &self,
        request: api::CreateTaskRequest,
    ) -> Result<(), CallError> {
        let _slot = self.shims.acquire().await;
        let mut tasks = self.client.tasks();
        let created = self
            .creations
            .spawn(async move { tasks.create(request).await })
            .await;
        created
            .map_err(|error| CallError::Unavailable(error.to_string()))?
            .map(drop)
            .map_err(CallError::from)
    }

    async fn start(&self, instance: InstanceName) -> Result<(), RuntimeError> {
        let request = api::StartRequest {
            container_id: instance.to_string(),
            exec_id: String::new(),
        };
        // The slot is given back before a refused task is deleted, which takes one itself: with all of them held by refused
        // starts, each would wait for another for ever.
        let started = {
            let _slot = self.shims.acquire().await;
            quick(self.client.tasks().start(request)).await
        };
        match started {
            Ok(_) => Ok(()),
            Err(CallError::Unavailable(message)) => Err(RuntimeError::Unavailable(message)),
            Err(CallError::AlreadyExists) => Ok(()),
            Err(CallError::NotFound(message) | CallError::Refused(message)) => {
                // An earlier call may have started it whose answer was lost: what runs is not killed for that.
                if matches!(self.task(instance).await?, Task::Running { .. }) {
                    return Ok(());
                }
                // The task would stay as created, which a look takes for one that only has to be started.
                self.kill(instance, state::spec::Signal::KILL, true).await?;
                self.delete_task(instance).await?;
                Err(refused(&message))
            }
        }
    }
}

/// Mounts by which a container sees the files of its network.
fn mounts_of(attached: &Attached) -> [mounts::Mount; 3] {
    [
        mounts::Mount::read_only(&attached.resolv_conf, "/etc/resolv.conf"),
        mounts::Mount::read_only(&attached.hosts, "/etc/hosts"),
        mounts::Mount::read_only(&attached.hostname, "/etc/hostname"),
    ]
}

fn refused(message: &str) -> RuntimeError {
    let (reason, message) = runc::refusal(message);
    RuntimeError::failed(reason, message)
}
