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
use super::unpack::SNAPSHOTTER;
use super::{Containerd, labels, oci, runc, user};
use crate::logs;
use crate::runtime::RuntimeError;

/// The shim that every containerd since 1.4 brings along.
const SHIM: &str = "io.containerd.runc.v2";
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

impl Containerd {
    pub(super) async fn bring_up(&self, record: &Record) -> Result<(), RuntimeError> {
        let instance = record.instance();
        match self.task(instance).await? {
            Task::Running { .. } => return Ok(()),
            Task::Created { .. } => {
                self.attach(record).await?;
                return self.start(instance).await;
            }
            Task::Stopped(_) => self.delete_task(instance).await?,
            Task::Absent => {}
        }
        // Neither needs the other; the task needs both. Each takes milliseconds: nft here, containerd's database there.
        let (attached, mounts) = tokio::join!(self.attach(record), self.root_filesystem(record));
        let mounts = mounts?;
        attached?;
        self.create_task(record, mounts).await?;
        self.start(instance).await
    }

    /// The mounts of its own snapshot, below a container record; both are made if they are not there.
    async fn root_filesystem(&self, record: &Record) -> Result<Vec<Mount>, RuntimeError> {
        let parent = match self.container(record.instance()).await? {
            // After a reboot its netns is made anew; the paths in its spec are the same again.
            Some(container) => container.labels.get(labels::PARENT).cloned().unwrap_or_default(),
            None => self.create(record).await?,
        };
        self.snapshot(record, &parent).await
    }

    /// The instance's container record.
    ///
    /// # Errors
    /// There is one that is not ours.
    pub(super) async fn container(&self, instance: InstanceName) -> Result<Option<api::Container>, RuntimeError> {
        let request = api::GetContainerRequest { id: instance.to_string() };
        let found = match quick(self.client.containers().get(request)).await {
            Ok(reply) => reply.container,
            Err(CallError::NotFound(_)) => None,
            Err(error) => return Err(error.into()),
        };
        match found {
            Some(container) if container.labels.get(labels::MANAGED).is_none_or(|value| value != "1") => {
                let message = format!(
                    "containerd has a container {instance} that is not the agent's; remove it with the tool that made it"
                );
                Err(RuntimeError::failed(Reason::CreateFailed, message))
            }
            found => Ok(found),
        }
    }

    /// Attaches it to the network. What a failure leaves of it is taken away: nothing runs in it yet, and there may be no
    /// container record that would tell of it.
    async fn attach(&self, record: &Record) -> Result<(), RuntimeError> {
        let attached = self.network.attach(record.instance(), &record.name, &record.assignment).await;
        if attached.is_err()
            && let Err(error) = self.network.detach(record.instance()).await
        {
            tracing::debug!(instance = %record.instance(), %error, "left to the next comparison of the network");
        }
        attached?;
        Ok(())
    }

    /// Creates the container record, and answers the snapshot that its own is to be made from.
    async fn create(&self, record: &Record) -> Result<String, RuntimeError> {
        let instance = record.instance();
        let digest = record.image_digest.as_deref().unwrap_or_default();
        let image = self.images.local(&record.spec.image, digest).await?;
        let wanted = oci::wanted_user(&image.config, record);
        let user = user::lookup(&self.client, &wanted, &image.top_chain_id, &self.config.run_dir).await?;
        let paths = self.network.paths(instance);
        let spec = oci::spec(&image.config, record, &user, &paths, &self.host, &self.cgroups_path(instance))?;
        let container = api::Container {
            id: instance.to_string(),
            labels: labels::of(record, oci::stop_signal(&image.config), &image.top_chain_id),
            image: record.spec.image.to_string(),
            runtime: Some(api::container::Runtime { name: SHIM.to_owned(), options: None }),
            spec: Some(Any { type_url: SPEC_TYPE.to_owned(), value: spec }),
            snapshotter: SNAPSHOTTER.to_owned(),
            snapshot_key: instance.to_string(),
            ..api::Container::default()
        };
        let request = api::CreateContainerRequest { container: Some(container) };
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
            ..snapshots_api::PrepareSnapshotRequest::default()
        };
        match quick(self.client.snapshots().prepare(request)).await {
            Ok(reply) => Ok(reply.mounts),
            Err(CallError::AlreadyExists) => {
                let request = snapshots_api::MountsRequest { snapshotter: SNAPSHOTTER.to_owned(), key };
                Ok(quick(self.client.snapshots().mounts(request)).await?.mounts)
            }
            Err(CallError::NotFound(message)) => {
                self.images.forget(record.image_digest.as_deref().unwrap_or_default());
                Err(RuntimeError::ImageLost(message))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Creates the task. Given up half-way, it would leave a shim that containerd does not know: so it has a task of its
    /// own, and no timeout.
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
        let _slot = self.shims.acquire().await;
        let mut tasks = self.client.tasks();
        let created = self.creations.spawn(async move { tasks.create(request).await }).await;
        let created = created.map_err(|error| RuntimeError::Unavailable(error.to_string()))?;
        match created.map_err(CallError::from) {
            Ok(_) | Err(CallError::AlreadyExists) => Ok(()),
            Err(CallError::Unavailable(message)) => Err(RuntimeError::Unavailable(message)),
            Err(CallError::NotFound(message) | CallError::Refused(message)) => Err(refused(&message)),
        }
    }

    async fn start(&self, instance: InstanceName) -> Result<(), RuntimeError> {
        let request = api::StartRequest { container_id: instance.to_string(), exec_id: String::new() };
        let _slot = self.shims.acquire().await;
        match quick(self.client.tasks().start(request)).await {
            Ok(_) => Ok(()),
            Err(CallError::Unavailable(message)) => Err(RuntimeError::Unavailable(message)),
            Err(CallError::AlreadyExists) => Ok(()),
            Err(CallError::NotFound(message) | CallError::Refused(message)) => {
                // The task would stay as created, which a look takes for one that only has to be started.
                self.kill(instance, state::spec::Signal::KILL, true).await?;
                self.delete_task(instance).await?;
                Err(refused(&message))
            }
        }
    }
}

fn refused(message: &str) -> RuntimeError {
    let (reason, message) = runc::refusal(message);
    RuntimeError::failed(reason, message)
}
