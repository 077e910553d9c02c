//! Launch of an instance: from whatever exists of it to a running task.

use containerd_client::services::v1 as api;
use containerd_client::types::Mount;
use state::desired::Record;
use state::id::InstanceName;
use state::observed::Task;
use state::reason::Reason;
use state::spec::Signal;

use super::{Instances, user_lookup};
use crate::oci::{self, Placement};
use crate::runtime::RuntimeError;
use crate::runtime::containerd::rpc::client::CallError;
use crate::runtime::containerd::rpc::snapshots::SNAPSHOTTER;
use crate::runtime::containerd::rpc::{containers, labels, snapshots};
use crate::runtime::containerd::shim::refusals;
use crate::runtime::engine::{LaunchStage, Sandbox};

impl Instances {
    /// Looks how far the instance got; a stopped task is deleted.
    pub(crate) async fn begin(
        &self,
        instance: InstanceName,
    ) -> Result<LaunchStage<Option<api::Container>>, RuntimeError> {
        // The container first: an unmanaged one is not touched, whatever its task looks like.
        let container = self.container(instance).await?;
        match self.task(instance).await? {
            Task::Running { .. } => return Ok(LaunchStage::Running),
            Task::Created { .. } => return Ok(LaunchStage::Created),
            Task::Stopped(_) => {
                self.delete_task(instance).await?;
            }
            Task::Absent => {}
            Task::Unresponsive => {
                let message = format!("the shim of {instance} does not answer");
                return Err(RuntimeError::failed(Reason::ShimUnresponsive, message));
            }
        }
        Ok(LaunchStage::NoTask(container))
    }

    /// Makes sure of the container and its snapshot, and answers the snapshot's mounts.
    pub(crate) async fn create(
        &self,
        record: &Record,
        container: Option<api::Container>,
        sandbox: &Sandbox,
    ) -> Result<Vec<Mount>, RuntimeError> {
        let parent = match container {
            Some(container) if labels::are_made_of(&container.labels, record) => container
                .labels
                .get(labels::PARENT)
                .cloned()
                .unwrap_or_default(),
            Some(_) => {
                tracing::info!(instance = %record.instance(), "recreating container: image or spec changed");
                self.discard(record.instance()).await?;
                self.create_container(record, sandbox).await?
            }
            None => self.create_container(record, sandbox).await?,
        };
        self.snapshot(record, &parent).await
    }

    /// Managed container of an instance; `None`: there is none.
    ///
    /// # Errors
    /// [`Reason::NameTaken`]: an unmanaged one has its name.
    pub(super) async fn container(
        &self,
        instance: InstanceName,
    ) -> Result<Option<api::Container>, RuntimeError> {
        match self.find(instance).await? {
            Some(container) if !labels::is_managed(&container.labels) => {
                let message = format!(
                    "containerd has a container {instance} that is not the agent's; remove it with the tool that made it"
                );
                Err(RuntimeError::failed(Reason::NameTaken, message))
            }
            found => Ok(found),
        }
    }

    /// Container of that name, managed or not.
    pub(super) async fn find(
        &self,
        instance: InstanceName,
    ) -> Result<Option<api::Container>, RuntimeError> {
        let found = containers::get(&self.client, instance).await;
        found.map_err(|error| error.into_error(Reason::CreateFailed, "look for a container"))
    }

    /// Creates the container, and answers the snapshot that its own is to be made from.
    async fn create_container(
        &self,
        record: &Record,
        sandbox: &Sandbox,
    ) -> Result<String, RuntimeError> {
        let instance = record.instance();
        let digest = record.image_digest.as_deref().unwrap_or_default();
        let image = self.images.local(&record.spec.image, digest).await?;
        let wanted = oci::wanted_user(&image.config, record);
        let user = user_lookup::lookup(
            &self.client,
            &wanted,
            &image.top_chain_id,
            &self.config.run_dir,
        )
        .await?;
        let place = Placement {
            netns: &sandbox.netns,
            cgroups_path: &self.cgroups_path(instance),
            mounts: &sandbox.mounts,
        };
        let spec = oci::spec(&image.config, record, &user, &self.host, place)?;
        let labels =
            labels::for_record(record, oci::stop_signal(&image.config), &image.top_chain_id);
        let runtime = self.config.oci_runtime.to_wire();
        let container = api::Container {
            image: record.spec.image.to_string(),
            snapshotter: SNAPSHOTTER.to_owned(),
            snapshot_key: instance.to_string(),
            ..containers::bare(instance, labels, runtime, spec)
        };
        containers::create(&self.client, container)
            .await
            .map_err(|error| error.into_error(Reason::CreateFailed, "create a container"))?;
        Ok(image.top_chain_id.clone())
    }

    /// Mounts of the instance's snapshot, which is made if it is absent. Only after the container:
    /// a snapshot that no container refers to may be taken by containerd's garbage collector at any
    /// moment.
    async fn snapshot(&self, record: &Record, parent: &str) -> Result<Vec<Mount>, RuntimeError> {
        let key = record.instance().to_string();
        let labels = labels::minimal_for(record.instance());
        match snapshots::prepare(&self.client, &key, parent, labels).await {
            Ok(mounts) => Ok(mounts),
            Err(CallError::AlreadyExists) => snapshots::mounts(&self.client, &key)
                .await
                .map_err(|error| error.into_error(Reason::SnapshotFailed, "mount a snapshot")),
            Err(CallError::NotFound(message)) => {
                self.images
                    .invalidate(record.image_digest.as_deref().unwrap_or_default());
                Err(RuntimeError::ImageLost(message))
            }
            Err(error) => Err(error.into_error(Reason::SnapshotFailed, "prepare a snapshot")),
        }
    }

    /// Creates the task; its output goes to the logger that the URI `output` names.
    pub(crate) async fn create_task(
        &self,
        record: &Record,
        rootfs: Vec<Mount>,
        output: String,
    ) -> Result<(), RuntimeError> {
        let request = api::CreateTaskRequest {
            container_id: record.instance().to_string(),
            rootfs,
            stdout: output.clone(),
            stderr: output,
            ..api::CreateTaskRequest::default()
        };
        match self.tasks.create(request).await {
            Ok(()) | Err(CallError::AlreadyExists) => Ok(()),
            Err(CallError::Unavailable(message)) => Err(RuntimeError::Unavailable(message)),
            Err(CallError::ShimUnresponsive(message)) => {
                // containerd has no task yet, and the shim would hold up the next try as well.
                self.end_lost_shim(record.instance()).await?;
                Err(RuntimeError::failed(Reason::ShimUnresponsive, message))
            }
            Err(CallError::NotFound(message) | CallError::Refused(message)) => {
                // A shim that containerd has lost would answer the next try as well.
                self.end_lost_shim(record.instance()).await?;
                // So would what is left of a creation that was cut off.
                self.remains.take_away(record.instance()).await?;
                Err(refusals::refusal(&message).into())
            }
        }
    }

    /// Starts the created task.
    pub(crate) async fn start(&self, instance: InstanceName) -> Result<(), RuntimeError> {
        // Its slot is given back before a refused task is deleted, which takes one itself: with all
        // of them taken by refused starts, each would wait for another for ever.
        match self.tasks.start(instance).await {
            Ok(()) | Err(CallError::AlreadyExists) => Ok(()),
            Err(CallError::Unavailable(message)) => Err(RuntimeError::Unavailable(message)),
            Err(CallError::ShimUnresponsive(message)) => {
                Err(RuntimeError::failed(Reason::ShimUnresponsive, message))
            }
            Err(CallError::NotFound(message) | CallError::Refused(message)) => {
                // An earlier call may have started it whose answer was lost: a running task is not
                // killed for that.
                if matches!(self.task(instance).await?, Task::Running { .. }) {
                    return Ok(());
                }
                // The task would stay as created, which a look takes for one that only has to be
                // started.
                self.kill(instance, Signal::KILL, true).await?;
                self.delete_task(instance).await?;
                Err(refusals::refusal(&message).into())
            }
        }
    }
}
