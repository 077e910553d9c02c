//! Container runtime in memory, which outlives the agent. What its calls cost, what of them fails
//! and who watches, its circumstances say.
//!
//! A crate of tests includes this file by its path, and names `runtime` at its root.

#![allow(dead_code, reason = "no crate of tests uses all of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use state::desired::{Addresses, Record};
use state::id::{ContainerId, InstanceName};
use state::observed::{CarriedSpec, Exit, Instance, Seen, Task};
use state::policy::signers::SignatureDemand;
use state::reason::Reason;
use state::reference::ImageReference;
use state::spec::ImagePull;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::runtime::{
    PullProgress, Runtime, RuntimeError, RuntimeEvent, RuntimeListing, StopOrder, Swept,
    UnmanagedContainer, WantedRecords,
};

pub(crate) use circumstances::{Call, Circumstances, Misdeed, Step};

#[path = "circumstances.rs"]
mod circumstances;
#[path = "dying.rs"]
mod dying;
#[path = "ports.rs"]
mod ports;
#[path = "restarted.rs"]
mod restarted;

/// Generation of a container, as far as it exists.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) task: Task,
    /// The kernel's count of processes of it that it killed for want of memory.
    pub(crate) memory_kills: Option<u64>,
    /// Record that it was made of, as its labels hold it.
    pub(crate) label: Value,
    /// Number of the restart after which its task was created last.
    pub(crate) restart: u64,
}

/// Contents of the runtime.
#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub(crate) instances: BTreeMap<InstanceName, Made>,
    pub(crate) images: BTreeSet<String>,
    /// Digests of tags that were moved.
    tags: BTreeMap<String, String>,
    pub(crate) unmanaged: Vec<UnmanagedContainer>,
    /// Events to tell, by time and order.
    hints: BTreeMap<(Instant, u64), RuntimeEvent>,
    count: u64,
    /// Calls under way, by container.
    busy: BTreeMap<ContainerId, usize>,
    /// Instance that has the host ports of its container.
    pub(crate) ports: BTreeMap<ContainerId, InstanceName>,
    /// Sentence on a host port that somebody else has, if there is one.
    pub(crate) taken_port: Option<String>,
    /// Whether connections cannot be counted.
    pub(crate) is_uncountable: bool,
    /// Whether processes take no notice of a stop signal.
    pub(crate) is_deaf: bool,
    /// Processes that were sent a stop signal, and the time at which they end.
    dying: BTreeMap<InstanceName, Instant>,
    /// Denial of every image, if there is one.
    pub(crate) image_denial: Option<String>,
}

/// Runtime in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryRuntime<C> {
    inner: Mutex<Inner>,
    told: Notify,
    pub(crate) circumstances: C,
}

/// Call for one container, until it ends or is dropped with the agent.
struct Busy<'a, C>(&'a MemoryRuntime<C>, ContainerId);

impl<C> Drop for Busy<'_, C> {
    fn drop(&mut self) {
        if let Some(calls) = self.0.inner().busy.get_mut(&self.1) {
            *calls -= 1;
        }
    }
}

/// Record as labels hold it.
fn label(record: &Record) -> Value {
    let mut copy = record.clone();
    (copy.update, copy.rolled_back) = (None, None);
    serde_json::to_value(copy).unwrap()
}

fn digest(reference: &ImageReference) -> String {
    format!("digest of {reference}")
}

impl<C> MemoryRuntime<C> {
    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// The agent begins (again): what it was to be told before is lost.
    pub(crate) fn new_life(&self) {
        let mut inner = self.inner();
        inner.hints.clear();
        inner.busy.clear();
    }

    /// Tells whoever follows, after a while.
    pub(crate) fn hint(&self, late: Duration, event: RuntimeEvent) {
        let mut inner = self.inner();
        inner.count += 1;
        let key = (Instant::now() + late, inner.count);
        inner.hints.insert(key, event);
        drop(inner);
        self.told.notify_one();
    }

    /// Lets a tag stand for another image.
    pub(crate) fn move_tag(&self, reference: &str, digest: &str) {
        let moved = (reference.to_owned(), digest.to_owned());
        self.inner().tags.extend([moved]);
    }

    /// Digest of the image that an instance was made of.
    pub(crate) fn image_of(&self, name: InstanceName) -> Option<String> {
        let inner = self.inner();
        let label = &inner.instances.get(&name)?.label;
        label["image_digest"].as_str().map(str::to_owned)
    }

    /// Instances that run now.
    pub(crate) fn running(&self) -> BTreeSet<InstanceName> {
        let inner = self.inner();
        let running = inner
            .instances
            .iter()
            .filter(|(_, made)| matches!(made.task, Task::Running { .. }));
        running.map(|(name, _)| *name).collect()
    }

    /// Instances that exist, running or not.
    pub(crate) fn instances(&self) -> BTreeSet<InstanceName> {
        self.inner().instances.keys().copied().collect()
    }

    /// Makes an instance, also anew where its image or spec is another one.
    fn make(&self, name: InstanceName, made: Made) {
        let mut inner = self.inner();
        let there = inner.instances.entry(name).or_insert_with(|| made.clone());
        let parts = ["image_digest", "spec_hash"];
        let is_other = parts
            .iter()
            .any(|part| there.label[part] != made.label[part]);
        if is_other && there.task == Task::Absent {
            *there = made;
        }
    }

    fn task(&self, name: InstanceName) -> Task {
        let inner = self.inner();
        let made = inner.instances.get(&name);
        made.map(|made| made.task.clone()).unwrap_or_default()
    }

    /// All that exists of a container.
    pub(crate) fn seen(&self, id: ContainerId) -> Seen {
        let inner = self.inner();
        let of_id = inner.instances.iter().filter(|(name, _)| name.id == id);
        let instance = |made: &Made| Instance {
            memory_kills: made.memory_kills,
            carries: serde_json::from_value(made.label.clone())
                .ok()
                .map(|record| CarriedSpec::of(&record)),
            restart: made.restart,
            ..Instance::from(made.task.clone())
        };
        Seen {
            instances: of_id
                .map(|(name, made)| (name.generation, instance(made)))
                .collect(),
        }
    }
}

impl<C: Circumstances> MemoryRuntime<C> {
    fn tell(&self, id: ContainerId) {
        for late in self.circumstances.event_delays() {
            self.hint(late, RuntimeEvent::Changed(id));
        }
    }

    fn begin(&self, id: ContainerId) -> Busy<'_, C> {
        let mut inner = self.inner();
        let calls = inner.busy.entry(id).or_default();
        *calls += 1;
        let calls = *calls;
        drop(inner);
        self.circumstances.saw(Step::Calls(id, calls));
        Busy(self, id)
    }

    fn set(&self, name: InstanceName, task: Task) {
        let mut inner = self.inner();
        if let Some(made) = inner.instances.get_mut(&name) {
            made.task = task;
        }
        let exists = |(other, made): &(&InstanceName, &Made)| {
            other.id == name.id && made.task != Task::Absent
        };
        let tasks = inner.instances.iter().filter(exists).count();
        drop(inner);
        self.circumstances.saw(Step::Tasks(name.id, tasks));
    }

    async fn end_task(
        &self,
        name: InstanceName,
        how: &StopOrder,
        call: Call,
    ) -> Result<Option<Exit>, RuntimeError> {
        self.inner().dying.remove(&name);
        let ran = matches!(self.task(name), Task::Running { .. });
        if ran {
            self.circumstances.saw(Step::Ends(name, call));
            tokio::time::sleep(self.circumstances.ending_time(how.grace)).await;
        }
        self.circumstances.part().await?;
        self.circumstances.saw(Step::Ended(name));
        // It may have ended by itself meanwhile.
        let ended = match self.task(name) {
            Task::Stopped(exit) => Some(exit),
            Task::Running { .. } if ran => {
                let mut inner = self.inner();
                inner.count += 1;
                Some(Exit {
                    code: 143,
                    at: SystemTime::UNIX_EPOCH + Duration::from_secs(inner.count),
                    out_of_memory: false,
                })
            }
            Task::Running { .. } | Task::Created { .. } | Task::Unresponsive | Task::Absent => None,
        };
        self.set(name, Task::Absent);
        self.tell(name.id);
        Ok(ended)
    }
}

impl<C: Circumstances> Runtime for MemoryRuntime<C> {
    async fn list(&self) -> Result<RuntimeListing, RuntimeError> {
        self.circumstances.part().await?;
        self.end_dying();
        let ids: BTreeSet<_> = self.instances().iter().map(|name| name.id).collect();
        let managed = ids.into_iter().map(|id| (id, self.seen(id))).collect();
        let unmanaged = self.inner().unmanaged.clone();
        self.circumstances.part().await?;
        Ok(RuntimeListing { managed, unmanaged })
    }

    async fn stored_records(&self) -> Result<Vec<(ContainerId, Value)>, RuntimeError> {
        self.circumstances.part().await?;
        let inner = self.inner();
        let label = |made: &Made| {
            let mut label = made.label.clone();
            label["restarts_asked"] = made.restart.into();
            label
        };
        let labels = inner.instances.iter();
        Ok(labels.map(|(name, made)| (name.id, label(made))).collect())
    }

    async fn observe(&self, id: ContainerId) -> Result<Seen, RuntimeError> {
        let _busy = self.begin(id);
        self.circumstances.saw(Step::Look);
        self.circumstances.part().await?;
        self.end_dying();
        let seen = self.seen(id);
        self.circumstances.part().await?;
        Ok(seen)
    }

    async fn ensure_image(
        &self,
        reference: &ImageReference,
        _: (ImagePull, &[SignatureDemand]),
        _: &PullProgress,
        cancel: &CancellationToken,
    ) -> Result<String, RuntimeError> {
        self.circumstances.saw(Step::Pull(reference));
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(RuntimeError::Cancelled),
            () = tokio::time::sleep(self.circumstances.pull_time()) => {}
        }
        self.circumstances.first_part(Call::EnsureImage).await?;
        let moved = self.inner().tags.get(&reference.to_string()).cloned();
        let digest = moved.unwrap_or_else(|| digest(reference));
        if self.circumstances.keeps_image() {
            self.inner().images.insert(digest.clone());
        }
        self.circumstances.part().await?;
        Ok(digest)
    }

    async fn ensure_signed(
        &self,
        _: &ImageReference,
        _: &str,
        _: (ImagePull, &[SignatureDemand]),
        _: &CancellationToken,
    ) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn judge_image(&self, _: &Record, _: Option<&str>) -> Result<(), RuntimeError> {
        let denial = self.inner().image_denial.clone();
        denial.map_or(Ok(()), |denial| {
            Err(RuntimeError::failed(Reason::PolicyDenied, denial))
        })
    }

    async fn launch(&self, record: &Record) -> Result<Option<Addresses>, RuntimeError> {
        let (_busy, name) = (self.begin(record.id), record.instance());
        self.circumstances.saw(Step::Launch(record));
        self.circumstances.first_part(Call::Launch).await?;
        // A stopped task is taken away first, and so is a created one of another restart.
        if matches!(self.task(name), Task::Stopped(_)) || self.is_created_before(record) {
            self.set(name, Task::Absent);
        }
        self.circumstances.part().await?;
        let digest = record.image_digest.clone().unwrap_or_default();
        let needs_image = !matches!(self.task(name), Task::Created { .. });
        if needs_image && !self.inner().images.contains(&digest) {
            return Err(RuntimeError::ImageLost(digest));
        }
        let is_hidden = self.circumstances.misbehaves(Misdeed::HidesRestart);
        let restart = if is_hidden { 0 } else { record.restarts_asked };
        let made = Made {
            task: Task::Absent,
            memory_kills: None,
            label: label(record),
            restart,
        };
        self.make(name, made);
        self.circumstances.part().await?;
        self.tell_restart(name, restart);
        self.circumstances.part().await?;
        if !record.stands_back() || self.circumstances.misbehaves(Misdeed::TakesPorts) {
            self.publish(name);
        }
        if matches!(self.task(name), Task::Running { .. }) {
            return Ok(None);
        }
        self.set(name, Task::Created { pid: 1 });
        self.circumstances.part().await?;
        let (pid, since) = (1, None);
        self.set(name, Task::Running { pid, since });
        self.circumstances.saw(Step::Runs(name, self.others(name)));
        self.tell(record.id);
        self.circumstances.part().await?;
        Ok(self.circumstances.addresses(record))
    }

    async fn check_ports(&self, _: &Record) -> Result<(), RuntimeError> {
        let taken = self.inner().taken_port.clone();
        taken.map_or(Ok(()), |taken| {
            Err(RuntimeError::failed(Reason::PortTaken, taken))
        })
    }

    async fn hand_over(
        &self,
        record: &Record,
        _: InstanceName,
    ) -> Result<Option<usize>, RuntimeError> {
        let _busy = self.begin(record.id);
        self.circumstances.saw(Step::HandOver(record));
        self.circumstances.first_part(Call::HandOver).await?;
        self.publish(record.instance());
        self.circumstances.part().await?;
        Ok((!self.inner().is_uncountable).then_some(0))
    }

    async fn adjust(&self, record: &Record) -> Result<(), RuntimeError> {
        let (_busy, name) = (self.begin(record.id), record.instance());
        self.circumstances.saw(Step::Adjust(record));
        self.circumstances.first_part(Call::Adjust).await?;
        self.circumstances.part().await?;
        let found = self.inner().instances.get(&name).cloned();
        if let Some(found) = found {
            let made_of: Record = serde_json::from_value(found.label.clone()).unwrap();
            let mut label = label(record);
            label["image_digest"] = found.label["image_digest"].clone();
            if made_of.spec.can_become(&record.spec) {
                let mut inner = self.inner();
                if let Some(made) = inner.instances.get_mut(&name) {
                    made.label = label;
                }
            } else if matches!(found.task, Task::Running { .. }) {
                let message = "made of something else";
                return Err(RuntimeError::failed(Reason::CreateFailed, message));
            } else {
                self.set(name, Task::Absent);
                self.inner().instances.remove(&name);
            }
        }
        self.circumstances.part().await
    }

    async fn signal(&self, instance: InstanceName, how: &StopOrder) -> Result<(), RuntimeError> {
        let _busy = self.begin(instance.id);
        self.circumstances.saw(Step::Signal(instance));
        self.circumstances.first_part(Call::Signal).await?;
        self.end_later(instance, how.grace);
        self.circumstances.part().await
    }

    async fn stop(
        &self,
        instance: InstanceName,
        how: &StopOrder,
    ) -> Result<Option<Exit>, RuntimeError> {
        let _busy = self.begin(instance.id);
        self.circumstances.saw(Step::Stop(instance));
        self.circumstances.first_part(Call::Stop).await?;
        let ended = self.end_task(instance, how, Call::Stop).await?;
        self.circumstances.part().await?;
        Ok(ended)
    }

    async fn remove(
        &self,
        instance: InstanceName,
        how: &StopOrder,
    ) -> Result<Option<Exit>, RuntimeError> {
        let _busy = self.begin(instance.id);
        self.circumstances.saw(Step::Remove(instance));
        self.circumstances.first_part(Call::Remove).await?;
        let serves = self.inner().ports.get(&instance.id) == Some(&instance);
        if serves && self.others(instance) > 0 {
            self.circumstances.saw(Step::Unserves(instance));
        }
        let ended = self.end_task(instance, how, Call::Remove).await?;
        self.circumstances.part().await?;
        self.inner().instances.remove(&instance);
        self.inner().ports.retain(|_, holder| *holder != instance);
        self.tell(instance.id);
        self.circumstances.part().await?;
        Ok(ended)
    }

    async fn remove_logs(&self, id: ContainerId) -> Result<(), RuntimeError> {
        let _busy = self.begin(id);
        self.circumstances.first_part(Call::RemoveLogs).await
    }

    async fn sweep(&self, wanted: &WantedRecords) -> Result<Swept, RuntimeError> {
        self.circumstances.part().await?;
        wanted.records.iter().for_each(|record| self.repair(record));
        let records = wanted.records.iter();
        let digests = |r: &Record| [Some(digest(&r.spec.image)), r.image_digest.clone()];
        let wanted: BTreeSet<_> = records.flat_map(digests).flatten().collect();
        self.inner().images.retain(|image| wanted.contains(image));
        Ok(Swept::default())
    }

    async fn follow(&self, events: mpsc::Sender<RuntimeEvent>) {
        let _full = events.try_send(RuntimeEvent::Connected);
        loop {
            let told = self.told.notified();
            let first = self.inner().hints.first_key_value().map(|(key, _)| *key);
            match first {
                Some(key) if key.0 <= Instant::now() => {
                    let hint = self.inner().hints.remove(&key);
                    let _full = hint.map(|event| events.try_send(event));
                }
                Some((at, _)) => tokio::select! {
                    biased;
                    () = told => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => told.await,
            }
        }
    }
}
