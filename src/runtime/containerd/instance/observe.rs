//! Looks at containerd: its managed containers, their tasks and leftovers, as facts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use containerd_client::services::v1 as api;
use containerd_client::types::v1::{Process, Status};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
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

/// Looks at single tasks at once, where shims do not answer: each may take two seconds.
const LOOKS_MAX: usize = 64;

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
        for container in &found {
            let Some(name) = container.id.parse::<InstanceName>().ok() else {
                continue;
            };
            if name.id == id {
                let task = self.task(name).await?;
                let instance = self.instance(name, task, container);
                seen.instances.insert(name.generation, instance);
            }
        }
        Ok(seen)
    }

    /// State of an instance's task.
    pub(super) async fn task(&self, instance: InstanceName) -> Result<Task, RuntimeError> {
        let task = match self.tasks.get(instance).await {
            Ok(process) => process.map_or(Task::Absent, |process| state(&process)),
            Err(CallError::ShimUnresponsive(_)) => Task::Unresponsive,
            Err(error) => return Err(failed("look at a task")(error)),
        };
        self.note_silence(instance, &task);
        Ok(task)
    }

    /// Instance with this task, what its container says that it carries, and the kernel's count of
    /// the processes that it killed in there.
    fn instance(&self, name: InstanceName, task: Task, container: &api::Container) -> Instance {
        let kills = || {
            let path = self.cgroups_path(name);
            self.host.cgroup.out_of_memory_kills(&path)
        };
        let memory_kills = match &task {
            Task::Absent | Task::Created { .. } | Task::Unresponsive => None,
            Task::Stopped(_) => kills(),
            // The count grows before the process ends: asked in between, the kill of the first
            // process would pass for that of a child.
            Task::Running { pid, .. } => {
                self.remains.learn(*pid);
                kills().filter(|&count| count == 0 || !process::is_ending(*pid))
            }
        };
        Instance {
            task,
            memory_kills,
            carries: labels::carried(&container.labels),
            restart: labels::restart(&container.labels),
            image_check: labels::image_check(&container.labels).map(Arc::new),
        }
    }

    /// Managed containers by name, as containerd has them.
    pub(super) async fn managed(
        &self,
    ) -> Result<Vec<(InstanceName, api::Container)>, RuntimeError> {
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

    /// Record of each managed instance, by container and generation, its environment filled in from the
    /// OCI spec.
    pub(crate) async fn stored_records(&self) -> Result<Vec<(ContainerId, Value)>, RuntimeError> {
        let mut records = BTreeMap::new();
        for (name, container) in self.managed().await? {
            let spec = container.spec.as_ref().map(|spec| spec.value.as_slice());
            let record = labels::stored_record(&container.labels, spec.unwrap_or_default());
            records.insert((name.id, name.generation), record);
        }
        let records = records.into_iter();
        Ok(records.map(|((id, _), record)| (id, record)).collect())
    }

    /// Every managed container with its task, and every unmanaged one. Notes the orphans, for the
    /// next sweep.
    pub(crate) async fn list(&self) -> Result<RuntimeListing, RuntimeError> {
        let containers = containers::list(&self.client, None)
            .await
            .map_err(failed("list containers"))?;
        let mut tasks = self.tasks_of(&containers).await?;
        let mut listing = RuntimeListing::default();
        for container in &containers {
            let task = tasks.remove(&container.id).unwrap_or_default();
            let managed = labels::is_managed(&container.labels);
            match container.id.parse::<InstanceName>() {
                Ok(name) if managed => {
                    self.note_silence(name, &task);
                    let instance = self.instance(name, task, container);
                    let seen = listing.managed.entry(name.id).or_default();
                    seen.instances.insert(name.generation, instance);
                }
                _ => listing.unmanaged.push(UnmanagedContainer {
                    id: container.id.clone(),
                    image: container.image.clone(),
                    running: matches!(task, Task::Running { .. }),
                }),
            }
        }
        let is_listed = |name: &InstanceName| listing.managed.contains_key(&name.id);
        lock(&self.silent).retain(|name, _| is_listed(name));
        let without_container = tasks.into_keys().collect();
        self.note_orphans(without_container, &containers).await?;
        Ok(listing)
    }

    /// Tasks by name. Where shims that do not answer hold up the listing, each container is asked
    /// for its own, side by side; a task without a container has to wait for the next listing then.
    async fn tasks_of(
        &self,
        containers: &[api::Container],
    ) -> Result<BTreeMap<String, Task>, RuntimeError> {
        if let Some(listed) = self.tasks.list().await.map_err(failed("list tasks"))? {
            let tasks = listed.iter();
            return Ok(tasks
                .map(|process| (process.id.clone(), state(process)))
                .collect());
        }
        let ids: Vec<_> = containers
            .iter()
            .map(|container| container.id.clone())
            .collect();
        let looks = ids.into_iter().map(|id| async move {
            let task = match self.tasks.find(&id).await {
                Ok(process) => process.map_or(Task::Absent, |process| state(&process)),
                Err(CallError::ShimUnresponsive(_)) => Task::Unresponsive,
                Err(error) => return Err(failed("look at a task")(error)),
            };
            Ok((id, task))
        });
        let looks = stream::iter(looks).buffer_unordered(LOOKS_MAX);
        looks.try_collect().await
    }

    /// Notes the instances of which there is a task or a snapshot, and no container.
    async fn note_orphans(
        &self,
        tasks: Vec<String>,
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
            .iter()
            .chain(snapshots.map(|info| &info.name))
            .filter_map(|name| name.parse().ok())
            .collect();
        *lock(&self.orphans) = orphans.into_iter().collect();
        Ok(())
    }
}

/// State of a task, by its first process as containerd tells of it.
fn state(process: &Process) -> Task {
    match process.status() {
        Status::Created => Task::Created { pid: process.pid },
        Status::Running | Status::Paused | Status::Pausing => Task::Running {
            pid: process.pid,
            since: process::began(process.pid),
        },
        Status::Stopped => Task::Stopped(Exit {
            code: process.exit_status,
            at: time(process.exited_at.as_ref()),
            out_of_memory: false,
        }),
        // The shim's answer to containerd timed out.
        Status::Unknown => Task::Unresponsive,
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
