//! Adjustment of an instance that exists: limits of its task, and containerd's copy of what it was
//! made of. Killed at any point it begins again, since the copy is brought up last.

use state::desired::Record;
use state::failure::Failure;
use state::id::InstanceName;
use state::observed::Task;
use state::reason::Reason;

use super::Instances;
use crate::oci;
use crate::oci::limits::LiveLimit;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::rpc::client::CallError;
use crate::runtime::containerd::rpc::{containers, labels};
use crate::runtime::containerd::shim::refusals;

impl Instances {
    /// Brings the record's instance up to it: its task first, so that its labels say what is true.
    pub(crate) async fn adjust(
        &self,
        record: &Record,
        sizes: Result<(), Failure>,
    ) -> Result<(), RuntimeError> {
        let instance = record.instance();
        let Some(mut container) = self.container(instance).await? else {
            return Ok(());
        };
        let task = self.task(instance).await?;
        let spec = container.spec.as_ref();
        let spec = spec.map(|spec| spec.value.as_slice()).unwrap_or_default();
        if !labels::can_become(
            &container.labels,
            spec,
            record,
            &self.config.values.key.node_key(),
        ) {
            return self.give_up(instance, &task).await;
        }
        match task {
            Task::Running { .. } => {
                // A limit that is refused holds up no value.
                let replaced = self.replace_secrets(record, spec).await;
                with_sizes(self.limit(record, spec).await, sizes)?;
                replaced?;
            }
            // Nothing of it has run: the launch makes it anew, within its limits, and sets the sizes.
            Task::Created { .. } => {
                self.kill_hard(instance).await?;
                self.delete_task(instance).await?;
            }
            Task::Stopped(_) | Task::Absent | Task::Unresponsive => {}
        }
        let cgroup = self.host.cgroup;
        if let Some(spec) = &mut container.spec {
            spec.value = oci::limits::renewed(&spec.value, &record.spec.resources, cgroup)
                .ok_or_else(|| unlike(instance))?;
        }
        container.labels = labels::brought_up(&container.labels, record);
        let updated = containers::update(&self.client, container).await;
        // One that is gone meanwhile is for the next look.
        updated.map(drop).map_err(|error| {
            error.into_error(Reason::CreateFailed, "change the labels of a container")
        })
    }

    /// Sets every limit of a task. One that is refused keeps none of the others from being set.
    async fn limit(&self, record: &Record, oci_spec: &[u8]) -> Result<(), RuntimeError> {
        // What the host cannot keep is not asked for: the runtime may take it in silence.
        let mut refused = self.live_faults(record).await;
        let (instance, cgroup) = (record.instance(), self.host.cgroup);
        let released = cgroup.released(&self.cgroups_path(instance));
        for limit in oci::limits::live(&record.spec.resources, cgroup, &released) {
            let is_faulty = |fault: &String| fault.split(' ').next() == Some(limit.field);
            if !refused.iter().any(is_faulty) {
                refused.extend(self.set_limit(instance, &limit).await?);
            }
        }
        // runc sets the devices of a control group anew together with any limit.
        self.withhold_tunnels(record, oci_spec);
        if let Err(error) = self.set_throttles(record).await {
            let error = error.to_string();
            if !refused.iter().any(|fault| error.contains(fault)) {
                refused.push(format!("resources.io cannot be changed: {error}"));
            }
        }
        if refused.is_empty() {
            return Ok(());
        }
        // It may have ended meanwhile: then it gets them all with its next start.
        if !matches!(self.task(instance).await?, Task::Running { .. }) {
            return Ok(());
        }
        let message = format!(
            "{}; the container runs on with the limit that it had",
            refused.join("; ")
        );
        Err(RuntimeError::failed(Reason::LimitRefused, message))
    }

    /// Sets one limit. Answers the refusal, if it is refused.
    async fn set_limit(
        &self,
        instance: InstanceName,
        limit: &LiveLimit,
    ) -> Result<Option<String>, RuntimeError> {
        let (path, cgroup) = (self.cgroups_path(instance), self.host.cgroup);
        // Version 2 takes a limit below what is used, and kills for it.
        if let Some(bytes) = limit.memory_bytes()
            && let Some(used) = cgroup.memory_in_use(&path).filter(|used| *used > bytes)
        {
            return Ok(Some(format!(
                "{} cannot be {bytes} bytes: {used} are in use",
                limit.field
            )));
        }
        match self.tasks.limit(instance, &limit.resources).await {
            Ok(()) => Ok(None),
            Err(CallError::Refused(text)) => {
                let (field, text) = (limit.field, refusals::tail(&text));
                Ok(Some(format!("{field} cannot be changed: {text}")))
            }
            Err(error) => Err(error.into_error(Reason::LimitRefused, "limit a task")),
        }
    }

    /// Takes an instance away that was made of something else, for the next launch to make it; a
    /// removal that was cut short leaves one, and so does a state that was lost. One that runs is
    /// not ended for that.
    async fn give_up(&self, instance: InstanceName, task: &Task) -> Result<(), RuntimeError> {
        if matches!(task, Task::Running { .. } | Task::Unresponsive) {
            return Err(unlike(instance));
        }
        self.clear_task(instance, task).await?;
        tracing::info!(%instance, "recreating container: image or spec changed");
        self.discard(instance).await
    }
}

/// Outcome of limits, and of the sizes of volumes: of two refusals, both are told.
fn with_sizes(
    limits: Result<(), RuntimeError>,
    sizes: Result<(), Failure>,
) -> Result<(), RuntimeError> {
    match (limits, sizes) {
        (limits, Ok(())) => limits,
        (Err(RuntimeError::Failed(limits)), Err(sizes)) => {
            let message = format!("{sizes}; {limits}");
            Err(RuntimeError::failed(limits.reason, message))
        }
        (Ok(()), Err(sizes)) => Err(sizes.into()),
        (Err(error), Err(_)) => Err(error),
    }
}

/// Error of an instance that is not what its record says in more than a live part.
fn unlike(instance: InstanceName) -> RuntimeError {
    let message = format!(
        "container {instance} was not made of what is desired, and cannot become it while it runs; \
         restart it"
    );
    RuntimeError::failed(Reason::CreateFailed, message)
}
