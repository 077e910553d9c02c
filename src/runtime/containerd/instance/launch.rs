//! Launch of an instance: from whatever exists of it to a running task.

use containerd_client::services::v1 as api;
use containerd_client::types::Mount;
use state::desired::Record;
use state::id::InstanceName;
use state::observed::Task;
use state::reason::Reason;
use state::spec::{HealthCheck, Signal};

use super::given::Opened;
use super::hand_over::HandOver;
use super::image_root::ImageRoot;
use super::ipc_sysctls::IpcSysctls;
use super::program::Program;
use super::{CreatedRootfs, Instances, devices};
use crate::oci;
use crate::oci::host_ids::HostIds;
use crate::oci::image::ImageConfig;
use crate::oci::volumes::MountPoint;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::rpc::client::CallError;
use crate::runtime::containerd::rpc::snapshots::SNAPSHOTTER;
use crate::runtime::containerd::rpc::{containers, labels, snapshots};
use crate::runtime::containerd::shim::refusals;
use crate::runtime::engine::{LaunchStage, Sandbox};

impl Instances {
    /// Looks how far the record's instance got. A stopped task is deleted, and so is one that waits to be
    /// started and was made of something else, as of an image that its tag stood for before, or is not
    /// of the restart that is asked for.
    pub(crate) async fn begin(
        &self,
        record: &Record,
    ) -> Result<LaunchStage<Option<api::Container>>, RuntimeError> {
        let instance = record.instance();
        // The container first: an unmanaged one is not touched, whatever its task looks like.
        let container = self.container(instance).await?;
        match self.task(instance).await? {
            Task::Running { .. } => return Ok(LaunchStage::Running),
            Task::Created { pid }
                if container.as_ref().is_some_and(|found| {
                    labels::are_made_of(&found.labels, record)
                        && labels::are_restarted(&found.labels, record)
                }) =>
            {
                let spec = container.and_then(|container| container.spec);
                let spec = spec.map(|spec| spec.value).unwrap_or_default();
                self.withhold_tunnels(record, &spec);
                let given = HandOver::of(&spec);
                let ids = given.as_ref().map(HandOver::ids);
                self.hand_over(instance, given, pid).await;
                let sysctls = IpcSysctls::of(&record.spec, ids);
                self.set_sysctls(instance, sysctls, pid).await?;
                self.throttle(record).await?;
                return Ok(LaunchStage::Created { pid });
            }
            task @ (Task::Created { .. } | Task::Stopped(_)) => {
                self.clear_task(instance, &task).await?;
            }
            Task::Absent => self.end_earlier_shim(instance).await?,
            Task::Unresponsive => {
                let message = format!("the shim of {instance} does not answer");
                return Err(RuntimeError::failed(Reason::ShimUnresponsive, message));
            }
        }
        Ok(LaunchStage::NoTask(container))
    }

    /// Deletes a task that has ended, or that waits to be started; one that runs is left alone.
    pub(super) async fn clear_task(
        &self,
        instance: InstanceName,
        task: &Task,
    ) -> Result<(), RuntimeError> {
        match task {
            Task::Created { .. } => {
                self.kill_hard(instance).await?;
                self.delete_task(instance).await?;
            }
            Task::Stopped(_) => {
                self.delete_task(instance).await?;
            }
            Task::Absent | Task::Running { .. } | Task::Unresponsive => {}
        }
        Ok(())
    }

    /// Makes sure of the container and its snapshot, and of the volumes in it.
    pub(crate) async fn create(
        &self,
        record: &Record,
        container: Option<api::Container>,
        sandbox: &Sandbox,
    ) -> Result<CreatedRootfs, RuntimeError> {
        self.check_limits(record).await?;
        let is_made = |found: &api::Container| labels::are_made_of(&found.labels, record);
        let is_new = !container.as_ref().is_some_and(is_made);
        let values = self.values(record, is_new)?;
        let (parent, spec) = match container {
            Some(container) if !is_new => {
                let container = self
                    .with_devices((record, container), sandbox, &values)
                    .await?;
                let container = self.with_restart(record, container).await?;
                let parent = container.labels.get(labels::PARENT).cloned();
                let spec = container.spec.map(|spec| spec.value);
                (parent.unwrap_or_default(), spec.unwrap_or_default())
            }
            Some(_) => {
                tracing::info!(instance = %record.instance(), "recreating container: image or spec changed");
                self.discard(record.instance()).await?;
                self.create_container(record, sandbox, values.opened())
                    .await?
            }
            None => {
                self.create_container(record, sandbox, values.opened())
                    .await?
            }
        };
        let mut program = Program::of(&spec);
        if let Some(path) = self.give(record.instance(), &spec, values).await? {
            program = program.searched_in(&path);
        }
        program.denial()?;
        let hand_over = HandOver::of(&spec);
        let ids = hand_over.as_ref().map(HandOver::ids);
        let mounts = self.snapshot(record, &parent, ids).await?;
        let are_for = |ids| mounts.iter().all(|mount| snapshots::is_mapped(mount, ids));
        if !ids.is_none_or(are_for) {
            return Err(self.unmapped(record.instance(), is_new).await?);
        }
        let volumes = oci::volumes::to_be_made(&spec, &sandbox.volumes);
        self.make_volumes(record.instance(), &mounts, ids, volumes)
            .await?;
        Ok(CreatedRootfs {
            mounts,
            gives_tunnels: devices::gives_tunnels(record, &spec),
            program,
            hand_over,
            sysctls: IpcSysctls::of(&record.spec, ids),
        })
    }

    /// A container that exists, with the number of the restart that it is launched for. It has no task
    /// now: one that a look finds later is of that restart.
    async fn with_restart(
        &self,
        record: &Record,
        mut container: api::Container,
    ) -> Result<api::Container, RuntimeError> {
        if labels::are_restarted(&container.labels, record) {
            return Ok(container);
        }
        container.labels.extend(labels::restart_label(record));
        let updated = containers::update(&self.client, container.clone()).await;
        updated.map_err(|error| {
            error.into_error(Reason::CreateFailed, "change the labels of a container")
        })?;
        Ok(container)
    }

    /// Makes the directories of volumes where the image has none. Nothing else has the snapshot
    /// mounted: there is no task.
    async fn make_volumes(
        &self,
        instance: InstanceName,
        mounts: &[Mount],
        ids: Option<HostIds>,
        points: Vec<MountPoint>,
    ) -> Result<(), RuntimeError> {
        if points.is_empty() {
            return Ok(());
        }
        let (mounts, run_dir) = (mounts.to_vec(), self.config.run_dir.clone());
        let made = tokio::task::spawn_blocking(move || {
            let root = ImageRoot::open_writable(&mounts, &run_dir, &instance.to_string())?;
            root.make_points(&points, ids)
        });
        let made = made
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)));
        made.map_err(|error| {
            let message = format!("the image has no place for the volume at {error}");
            RuntimeError::failed(Reason::MountFailed, message)
        })
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

    /// Creates the container, and answers the snapshot that its own is to be made from, and its OCI
    /// spec.
    async fn create_container(
        &self,
        record: &Record,
        sandbox: &Sandbox,
        values: Option<&Opened>,
    ) -> Result<(String, Vec<u8>), RuntimeError> {
        let instance = record.instance();
        let (image, spec) = self.oci_spec(record, sandbox, values).await?;
        let stop_signal = oci::stop_signal(&image.config, record)?;
        let mut labels = labels::for_record(record, stop_signal, &image.top_chain_id);
        labels.extend(image_check(record, &image.config));
        let runtime = self.config.runtime_for(&record.spec)?.to_wire();
        let container = api::Container {
            image: record.spec.image.to_string(),
            snapshotter: SNAPSHOTTER.to_owned(),
            snapshot_key: instance.to_string(),
            ..containers::bare(instance, labels, runtime, spec.clone())
        };
        containers::create(&self.client, container)
            .await
            .map_err(|error| error.into_error(Reason::CreateFailed, "create a container"))?;
        Ok((image.top_chain_id.clone(), spec))
    }

    /// Mounts of the instance's snapshot, which is made if it is absent. Only after the container:
    /// a snapshot that no container refers to may be taken by containerd's garbage collector at any
    /// moment.
    async fn snapshot(
        &self,
        record: &Record,
        parent: &str,
        ids: Option<HostIds>,
    ) -> Result<Vec<Mount>, RuntimeError> {
        let key = record.instance().to_string();
        let mut labels = labels::minimal_for(record.instance());
        labels.extend(ids.map(snapshots::mapping_labels).into_iter().flatten());
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

    /// Creates the task, and answers its first process; its output goes to the logger that the URI
    /// `output` names.
    pub(crate) async fn create_task(
        &self,
        record: &Record,
        rootfs: CreatedRootfs,
        output: String,
    ) -> Result<u32, RuntimeError> {
        let request = api::CreateTaskRequest {
            container_id: record.instance().to_string(),
            rootfs: rootfs.mounts.clone(),
            stdout: output.clone(),
            stderr: output,
            ..api::CreateTaskRequest::default()
        };
        match self.tasks.create(request).await {
            Ok(pid) => self.take_over(record, rootfs, pid).await,
            Err(CallError::AlreadyExists) => match self.task(record.instance()).await? {
                // By a try whose answer was lost.
                Task::Created { pid } => self.take_over(record, rootfs, pid).await,
                Task::Running { pid, .. } => Ok(pid),
                // The start answers what became of it.
                Task::Absent | Task::Stopped(_) | Task::Unresponsive => Ok(0),
            },
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

    /// Looks at a created task's program and gives it what it lacks, and answers its first process.
    async fn take_over(
        &self,
        record: &Record,
        rootfs: CreatedRootfs,
        pid: u32,
    ) -> Result<u32, RuntimeError> {
        let instance = record.instance();
        if !rootfs.gives_tunnels {
            self.deny_tunnels(instance);
        }
        self.check_program(instance, rootfs.program, pid).await?;
        self.hand_over(instance, rootfs.hand_over, pid).await;
        self.set_sysctls(instance, rootfs.sysctls, pid).await?;
        self.throttle(record).await?;
        Ok(pid)
    }

    /// Takes a created task back whose program the kernel will refuse.
    async fn check_program(
        &self,
        instance: InstanceName,
        program: Program,
        pid: u32,
    ) -> Result<(), RuntimeError> {
        let look = tokio::task::spawn_blocking(move || program.refusal(pid));
        let Some(refusal) = look.await.ok().flatten() else {
            return Ok(());
        };
        self.kill(instance, Signal::KILL, true).await?;
        self.delete_task(instance).await?;
        Err(refusal.into())
    }

    /// Gives a created task what it is to write to, where the OCI runtime cannot.
    async fn hand_over(&self, instance: InstanceName, given: Option<HandOver>, pid: u32) {
        let Some(given) = given else {
            return;
        };
        let giving = tokio::task::spawn_blocking(move || given.give(instance, pid));
        if let Err(error) = giving.await {
            tracing::warn!(%instance, %error, "files not given to their container");
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

/// Label with the image's HEALTHCHECK, if it has one that can be used.
fn image_check(record: &Record, image: &ImageConfig) -> Option<(String, String)> {
    let shell = image.shell.as_array().into_iter().flatten();
    let shell: Option<Vec<_>> = shell.map(|word| word.as_str().map(str::to_owned)).collect();
    let check = HealthCheck::of_image(&image.healthcheck, &shell.unwrap_or_default());
    let label = check.map(|check| {
        let too_long = || "is too long".to_owned();
        check
            .map(|check| labels::image_check_label(&check).ok_or_else(too_long))
            .transpose()
    });
    label.flatten().unwrap_or_else(|fault| {
        let (container, image) = (&record.name, &record.spec.image);
        tracing::warn!(%container, %image, %fault, "image's HEALTHCHECK not used");
        None
    })
}
