//! Looks at containerd: its managed containers, their tasks and leftovers, as facts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use containerd_client::services::v1 as api;
use containerd_client::types::v1::{Process, Status};
use serde_json::Value;
use state::desired::Record;
use state::id::{ContainerId, InstanceName};
use state::observed::{Exit, Instance, Seen, Task};
use state::reason::Reason;

use super::Instances;
use crate::lock::lock;
use crate::runtime::containerd::rpc::client::CallError;
use crate::runtime::containerd::rpc::{containers, labels, snapshots};
use crate::runtime::containerd::shim::process;
use crate::runtime::{RuntimeError, RuntimeListing, UnmanagedContainer};

/// Error of a look of which nothing but success was expected.
fn failed(doing: &'static str) -> impl FnOnce(CallError) -> RuntimeError {
    move |error| error.into_error(Reason::CreateFailed, doing)
}

impl Instances {
    /// Every generation of one container.
    pub(crate) async fn observe(&self, id: ContainerId) -> Result<Seen, RuntimeError> {
        let filter = format!(
            "{},labels.\"{}\"=={id}",
            labels::managed_filter(),
            labels::ID
        );
        let found = containers::list(&self.client, Some(filter))
            .await
            .map_err(failed("list containers"))?;
        let mut seen = Seen::default();
        for instance in found
            .iter()
            .filter_map(|container| container.id.parse::<InstanceName>().ok())
            .filter(|name| name.id == id)
        {
            let task = self.task(instance).await?;
            let found = self.with_memory_kills(instance, task);
            seen.instances.insert(instance.generation, found);
        }
        Ok(seen)
    }

    /// State of an instance's task.
    pub(super) async fn task(&self, instance: InstanceName) -> Result<Task, RuntimeError> {
        let process = self
            .tasks
            .get(instance)
            .await
            .map_err(failed("look at a task"))?;
        process.map_or(Ok(Task::Absent), |process| self.state(instance, &process))
    }

    fn state(&self, instance: InstanceName, process: &Process) -> Result<Task, RuntimeError> {
        match process.status() {
            Status::Created => Ok(Task::Created { pid: process.pid }),
            Status::Running | Status::Paused | Status::Pausing => Ok(Task::Running {
                pid: process.pid,
                since: process::began(process.pid),
            }),
            Status::Stopped => Ok(Task::Stopped(Exit {
                code: process.exit_status,
                at: time(process.exited_at.as_ref()),
                out_of_memory: false,
            })),
            // The shim's answer to containerd timed out.
            Status::Unknown => Err(RuntimeError::Unavailable(format!(
                "the shim of {instance} does not answer"
            ))),
        }
    }

    /// Instance with this task, and the kernel's count of the processes that it killed in there.
    fn with_memory_kills(&self, instance: InstanceName, task: Task) -> Instance {
        let kills = || {
            let path = self.cgroups_path(instance);
            self.host.cgroup.out_of_memory_kills(&path)
        };
        let memory_kills = match &task {
            Task::Absent | Task::Created { .. } => None,
            Task::Stopped(_) => kills(),
            // The count grows before the process ends: asked in between, the kill of the first
            // process would pass for that of a child.
            Task::Running { pid, .. } => {
                kills().filter(|&count| count == 0 || !process::is_ending(*pid))
            }
        };
        Instance { task, memory_kills }
    }

    /// Managed containers by name, as containerd has them.
    async fn managed(&self) -> Result<Vec<(InstanceName, api::Container)>, RuntimeError> {
        let found = containers::list(&self.client, Some(labels::managed_filter()))
            .await
            .map_err(failed("list containers"))?;
        let managed = found
            .into_iter()
            .filter(|container| labels::is_managed(&container.labels));
        Ok(managed
            .filter_map(|container| Some((container.id.parse().ok()?, container)))
            .collect())
    }

    /// Managed containers, each with the record that it was made of, where its labels hold one.
    pub(crate) async fn existing(
        &self,
    ) -> Result<Vec<(InstanceName, Option<Record>)>, RuntimeError> {
        let managed = self.managed().await?.into_iter();
        Ok(managed
            .map(|(name, container)| (name, labels::record(&container.labels)))
            .collect())
    }

    /// Record of each managed container, of its newest generation, its environment filled in from
    /// the OCI spec.
    pub(crate) async fn stored_records(&self) -> Result<Vec<(ContainerId, Value)>, RuntimeError> {
        let mut newest: BTreeMap<ContainerId, (u64, Value)> = BTreeMap::new();
        for (name, container) in self.managed().await? {
            if newest
                .get(&name.id)
                .is_none_or(|(generation, _)| *generation < name.generation)
            {
                let spec = container
                    .spec
                    .as_ref()
                    .map(|spec| spec.value.as_slice())
                    .unwrap_or_default();
                newest.insert(
                    name.id,
                    (
                        name.generation,
                        labels::stored_record(&container.labels, spec),
                    ),
                );
            }
        }
        Ok(newest
            .into_iter()
            .map(|(id, (_, record))| (id, record))
            .collect())
    }

    /// Every managed container with its task, and every unmanaged one. Notes the orphans, for the
    /// next sweep.
    pub(crate) async fn list(&self) -> Result<RuntimeListing, RuntimeError> {
        let containers = containers::list(&self.client, None)
            .await
            .map_err(failed("list containers"))?;
        let processes = self.tasks.list().await.map_err(failed("list tasks"))?;
        let mut tasks: BTreeMap<&str, &Process> = processes
            .iter()
            .map(|process| (process.id.as_str(), process))
            .collect();
        let mut listing = RuntimeListing::default();
        for container in &containers {
            let process = tasks.remove(container.id.as_str());
            let managed = labels::is_managed(&container.labels);
            match container.id.parse::<InstanceName>() {
                Ok(name) if managed => {
                    let task =
                        process.map_or(Ok(Task::Absent), |process| self.state(name, process))?;
                    let instance = self.with_memory_kills(name, task);
                    let seen = listing.managed.entry(name.id).or_default();
                    seen.instances.insert(name.generation, instance);
                }
                _ => listing.unmanaged.push(UnmanagedContainer {
                    id: container.id.clone(),
                    image: container.image.clone(),
                    running: process.is_some_and(|process| process.status() == Status::Running),
                }),
            }
        }
        let without_container = tasks.into_keys().collect();
        self.note_orphans(without_container, &containers).await?;
        Ok(listing)
    }

    /// Notes the instances of which there is a task or a snapshot, and no container.
    async fn note_orphans(
        &self,
        tasks: Vec<&str>,
        containers: &[api::Container],
    ) -> Result<(), RuntimeError> {
        let known: BTreeSet<&str> = containers
            .iter()
            .map(|container| container.id.as_str())
            .collect();
        let snapshots = snapshots::list(&self.client)
            .await
            .map_err(failed("list snapshots"))?;
        // An unmanaged snapshot is none of an instance although it is named like one.
        let snapshots = snapshots
            .iter()
            .filter(|info| labels::is_managed(&info.labels) && !known.contains(info.name.as_str()));
        let orphans: BTreeSet<InstanceName> = tasks
            .into_iter()
            .chain(snapshots.map(|info| info.name.as_str()))
            .filter_map(|name| name.parse().ok())
            .collect();
        *lock(&self.orphans) = orphans.into_iter().collect();
        Ok(())
    }
}

/// Time of a timestamp of containerd, which puts events that did not happen into the year 1.
fn time(stamp: Option<&prost_types::Timestamp>) -> SystemTime {
    let since = stamp.and_then(|stamp| {
        Some(Duration::new(
            stamp.seconds.try_into().ok()?,
            stamp.nanos.try_into().ok()?,
        ))
    });
    SystemTime::UNIX_EPOCH + since.unwrap_or_default()
}
