//! Looking: what containerd has of ours, as facts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use containerd_client::services::v1 as api;
use containerd_client::services::v1::snapshots as snapshots_api;
use containerd_client::types::v1::{Process, Status};
use serde_json::Value;
use state::desired::Record;
use state::id::{ContainerId, InstanceName};
use state::observed::{Exit, Instance, Seen, Task};
use state::time::BootTime;

use super::client::{CallError, quick};
use super::unpack::SNAPSHOTTER;
use super::{Containerd, labels};
use crate::runtime::{Foreign, Listing, RuntimeError};

/// The exit code of a process that SIGKILL ended: 128 + 9.
const KILLED: u32 = 137;

impl Containerd {
    pub(super) async fn look(&self, id: ContainerId) -> Result<Seen, RuntimeError> {
        let filter = format!("{},labels.\"{}\"=={id}", labels::ours(), labels::ID);
        let request = api::ListContainersRequest {
            filters: vec![filter],
        };
        let found = quick(self.client.containers().list(request))
            .await?
            .containers;
        let mut seen = Seen::default();
        for instance in found
            .iter()
            .filter_map(|container| container.id.parse::<InstanceName>().ok())
            .filter(|name| name.id == id)
        {
            let task = self.task(instance).await?;
            seen.instances
                .insert(instance.generation, Instance { task });
        }
        Ok(seen)
    }

    /// The state of an instance's task.
    pub(super) async fn task(&self, instance: InstanceName) -> Result<Task, RuntimeError> {
        let request = api::GetRequest {
            container_id: instance.to_string(),
            exec_id: String::new(),
        };
        match quick(self.client.tasks().get(request)).await {
            Ok(reply) => reply
                .process
                .map_or(Ok(Task::Absent), |process| self.state(instance, &process)),
            Err(CallError::NotFound(_)) => Ok(Task::Absent),
            Err(error) => Err(error.into()),
        }
    }

    fn state(&self, instance: InstanceName, process: &Process) -> Result<Task, RuntimeError> {
        match process.status() {
            Status::Created => Ok(Task::Created { pid: process.pid }),
            Status::Running | Status::Paused | Status::Pausing => Ok(Task::Running {
                pid: process.pid,
                since: began(process.pid),
            }),
            Status::Stopped => {
                let kills = || {
                    self.host
                        .cgroup
                        .out_of_memory_kills(&self.cgroups_path(instance))
                        .unwrap_or(0)
                };
                let out_of_memory = process.exit_status == KILLED && kills() > 0;
                Ok(Task::Stopped(Exit {
                    code: process.exit_status,
                    at: time(process.exited_at.as_ref()),
                    out_of_memory,
                }))
            }
            // The shim did not answer containerd in time.
            Status::Unknown => Err(RuntimeError::Unavailable(format!(
                "the shim of {instance} does not answer"
            ))),
        }
    }

    /// Our containers as containerd has them, each with the record that it was made of, where its labels hold one.
    pub(super) async fn existing(
        &self,
    ) -> Result<Vec<(InstanceName, Option<Record>)>, RuntimeError> {
        let request = api::ListContainersRequest {
            filters: vec![labels::ours()],
        };
        let found = quick(self.client.containers().list(request))
            .await?
            .containers;
        let named = |container: &api::Container| {
            Some((
                container.id.parse().ok()?,
                labels::record(&container.labels),
            ))
        };
        Ok(found
            .iter()
            .filter(|container| labels::are_ours(&container.labels))
            .filter_map(named)
            .collect())
    }

    /// The record of each of our containers, of its newest generation, its environment filled in from the OCI spec.
    pub(super) async fn copies(&self) -> Result<Vec<(ContainerId, Value)>, RuntimeError> {
        let request = api::ListContainersRequest {
            filters: vec![labels::ours()],
        };
        let found = quick(self.client.containers().list(request))
            .await?
            .containers;
        let mut newest: BTreeMap<ContainerId, (u64, Value)> = BTreeMap::new();
        for container in found
            .iter()
            .filter(|container| labels::are_ours(&container.labels))
        {
            let Ok(name) = container.id.parse::<InstanceName>() else {
                continue;
            };
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
                    (name.generation, labels::copy(&container.labels, spec)),
                );
            }
        }
        Ok(newest
            .into_iter()
            .map(|(id, (_, copy))| (id, copy))
            .collect())
    }

    pub(super) async fn listing(&self) -> Result<Listing, RuntimeError> {
        let containers = quick(
            self.client
                .containers()
                .list(api::ListContainersRequest::default()),
        )
        .await?
        .containers;
        let processes = quick(self.client.tasks().list(api::ListTasksRequest::default()))
            .await?
            .tasks;
        let mut tasks: BTreeMap<&str, &Process> = processes
            .iter()
            .map(|process| (process.id.as_str(), process))
            .collect();
        let mut listing = Listing::default();
        for container in &containers {
            let process = tasks.remove(container.id.as_str());
            let managed = labels::are_ours(&container.labels);
            match container.id.parse::<InstanceName>() {
                Ok(name) if managed => {
                    let task =
                        process.map_or(Ok(Task::Absent), |process| self.state(name, process))?;
                    let instance = Instance { task };
                    listing
                        .ours
                        .entry(name.id)
                        .or_default()
                        .instances
                        .insert(name.generation, instance);
                }
                _ => listing.foreign.push(Foreign {
                    id: container.id.clone(),
                    image: container.image.clone(),
                    running: process.is_some_and(|process| process.status() == Status::Running),
                }),
            }
        }
        let known: BTreeSet<&str> = containers
            .iter()
            .map(|container| container.id.as_str())
            .collect();
        let mut orphans: BTreeSet<InstanceName> =
            tasks.keys().filter_map(|id| id.parse().ok()).collect();
        orphans.extend(
            self.snapshots()
                .await?
                .iter()
                .filter(|key| !known.contains(key.as_str()))
                .filter_map(|key| key.parse::<InstanceName>().ok()),
        );
        *self.orphans.lock().unwrap_or_else(PoisonError::into_inner) =
            orphans.into_iter().collect();
        Ok(listing)
    }

    /// The keys of the snapshots that are ours.
    async fn snapshots(&self) -> Result<Vec<String>, RuntimeError> {
        let request = snapshots_api::ListSnapshotsRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            filters: Vec::new(),
        };
        let mut stream = quick(self.client.snapshots().list(request)).await?;
        let mut keys = Vec::new();
        while let Some(page) = stream.message().await.map_err(CallError::from)? {
            // Another's snapshot is not ours for being called as ours are.
            keys.extend(
                page.info
                    .into_iter()
                    .filter(|info| labels::are_ours(&info.labels))
                    .map(|info| info.name),
            );
        }
        Ok(keys)
    }
}

/// When a process began, from the 22nd field of `/proc/<pid>/stat`: clock ticks since boot (proc(5)).
pub(super) fn began(pid: u32) -> Option<BootTime> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may hold anything.
    let ticks: u64 = stat
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()?;
    let per_second = rustix::param::clock_ticks_per_second();
    Some(BootTime(Duration::from_millis(
        ticks.checked_mul(1000)? / per_second,
    )))
}

/// containerd's timestamps; what did not happen is in the year 1.
fn time(stamp: Option<&prost_types::Timestamp>) -> SystemTime {
    let since = stamp.and_then(|stamp| {
        Some(Duration::new(
            stamp.seconds.try_into().ok()?,
            stamp.nanos.try_into().ok()?,
        ))
    });
    SystemTime::UNIX_EPOCH + since.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_s_beginning_is_read_from_the_kernel() {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let now = BootTime(Duration::try_from(now).unwrap());
        let ours = began(std::process::id()).unwrap();
        assert!(
            ours <= now && now.since(ours) < Duration::from_secs(3600),
            "{ours:?} {now:?}"
        );
        assert_eq!(began(u32::MAX), None);
    }
}
