//! A node in history, on which everything goes wrong that can: the runtime below the agent, which outlives it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use chas_node_agent::runtime::{
    PullProgress, Runtime, RuntimeError, RuntimeEvent, RuntimeListing, StopOrder, Swept,
    UnmanagedContainer, WantedRecords,
};
use serde_json::Value;
use state::desired::{Record, RunState};
use state::id::{ContainerId, InstanceName};
use state::observed::{Exit, Instance, Seen, Task};
use state::reason::Reason;
use state::reference::ImageReference;
use state::spec::ImagePull;
use state::store::Store;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::dice;
use crate::judge::Judge;

/// What exists of one generation.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) task: Task,
    /// The record that it was made of, as its labels hold it.
    pub(crate) label: Value,
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub(crate) instances: BTreeMap<InstanceName, Made>,
    images: BTreeSet<String>,
    /// What is to be told, when, and in which order.
    hints: BTreeMap<(Instant, u64), RuntimeEvent>,
    count: u64,
    /// Calls under way, by container.
    busy: BTreeMap<ContainerId, usize>,
    /// Looks at one container, ever.
    pub(crate) looks: u64,
    pub(crate) judge: Judge,
}

/// The runtime. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    inner: Arc<Mutex<Inner>>,
    told: Arc<Notify>,
}

/// A call for one container, until it ends or is dropped with the agent.
struct Busy<'a>(&'a World, ContainerId);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0
            .inner()
            .busy
            .entry(self.1)
            .and_modify(|calls| *calls -= 1);
    }
}

fn failure() -> RuntimeError {
    match dice::below(4) {
        0 => RuntimeError::Unavailable("away".to_owned()),
        1 => RuntimeError::failed(Reason::PortTaken, "taken"),
        _ => RuntimeError::failed(Reason::CreateFailed, "refused"),
    }
}

/// Any part of a call may be where it fails, or where the agent dies.
async fn part() -> Result<(), RuntimeError> {
    let pause = dice::pause();
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
    if !dice::is_calm() && dice::chance(4) {
        Err(failure())
    } else {
        Ok(())
    }
}

impl World {
    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn trace(&self, line: impl FnOnce() -> String) {
        self.inner().judge.trace(line);
    }

    fn begin(&self, id: ContainerId) -> Busy<'_> {
        let mut inner = self.inner();
        let calls = inner.busy.entry(id).or_default();
        *calls += 1;
        if *calls > 1 {
            inner.judge.broken(format!("two calls at once for {id}"));
        }
        drop(inner);
        Busy(self, id)
    }

    /// The agent begins (again): what it was to be told before is lost.
    pub(crate) fn new_life(&self) {
        let mut inner = self.inner();
        inner.hints.clear();
        inner.busy.clear();
    }

    /// Tells whoever follows that a container changed: late, twice, or not at all.
    fn tell(&self, id: ContainerId) {
        let times = if dice::is_calm() {
            1
        } else {
            [0, 1, 1, 1, 1, 2][dice::index(6)]
        };
        for _ in 0..times {
            let late = if dice::is_calm() || dice::chance(70) {
                Duration::ZERO
            } else {
                dice::millis(5000)
            };
            self.hint(late, RuntimeEvent::Changed(id));
        }
    }

    pub(crate) fn hint(&self, late: Duration, event: RuntimeEvent) {
        let mut inner = self.inner();
        inner.count += 1;
        let key = (Instant::now() + late, inner.count);
        inner.hints.insert(key, event);
        drop(inner);
        self.told.notify_one();
    }

    /// A process ends by itself, whatever the clock on the wall says.
    pub(crate) fn exit(&self, name: InstanceName) {
        let mut inner = self.inner();
        inner.count += 1;
        let years = Duration::from_secs(3600 * 24 * 365 * 10 * dice::below(3));
        let at = SystemTime::UNIX_EPOCH + years + Duration::from_secs(inner.count);
        let code = [0, 1, 137][dice::index(3)];
        let Some(made) = inner.instances.get_mut(&name) else {
            return;
        };
        if matches!(made.task, Task::Running { .. }) {
            made.task = Task::Stopped(Exit {
                code,
                at,
                out_of_memory: code == 137 && dice::chance(50),
            });
            inner.judge.exited(name);
            drop(inner);
            self.trace(|| format!("{name} ends with {code}"));
            self.tell(name.id);
        }
    }

    /// Somebody kills a shim, or the node reboots: no task, and nobody knows how it ended.
    pub(crate) fn lose_task(&self, name: InstanceName) {
        if let Some(made) = self.inner().instances.get_mut(&name) {
            made.task = Task::Absent;
        }
        self.inner().judge.forget_exits(name);
        self.trace(|| format!("{name} is lost"));
        self.tell(name.id);
    }

    pub(crate) fn lose_images(&self) {
        self.inner().images.clear();
    }

    pub(crate) fn running(&self) -> BTreeSet<InstanceName> {
        let inner = self.inner();
        let running = inner
            .instances
            .iter()
            .filter(|(_, made)| matches!(made.task, Task::Running { .. }));
        running.map(|(name, _)| *name).collect()
    }

    pub(crate) fn set_store(&self, store: &Arc<Store>) {
        self.inner().judge.store = Some(Arc::downgrade(store));
    }

    fn seen(&self, id: ContainerId) -> Seen {
        let inner = self.inner();
        let of = inner.instances.iter().filter(|(name, _)| name.id == id);
        Seen {
            instances: of
                .map(|(name, made)| {
                    (
                        name.generation,
                        Instance {
                            task: made.task.clone(),
                        },
                    )
                })
                .collect(),
        }
    }

    async fn end_task(
        &self,
        name: InstanceName,
        how: &StopOrder,
        what: &str,
    ) -> Result<(), RuntimeError> {
        let task = self
            .inner()
            .instances
            .get(&name)
            .map(|made| made.task.clone())
            .unwrap_or_default();
        if matches!(task, Task::Running { .. }) {
            self.inner().judge.ends(name, what);
            // It takes its time, at most all that it is given.
            tokio::time::sleep(if dice::chance(50) {
                Duration::ZERO
            } else {
                dice::draw(how.grace)
            })
            .await;
        }
        part().await?;
        self.inner().judge.forget_exits(name);
        if let Some(made) = self.inner().instances.get_mut(&name) {
            made.task = Task::Absent;
        }
        self.tell(name.id);
        Ok(())
    }
}

impl Runtime for World {
    async fn list(&self) -> Result<RuntimeListing, RuntimeError> {
        part().await?;
        let ids: BTreeSet<_> = self.inner().instances.keys().map(|name| name.id).collect();
        let managed = ids.into_iter().map(|id| (id, self.seen(id))).collect();
        let unmanaged = vec![UnmanagedContainer {
            id: "stranger".to_owned(),
            image: "theirs".to_owned(),
            running: true,
        }];
        part().await?;
        Ok(RuntimeListing { managed, unmanaged })
    }

    async fn stored_records(&self) -> Result<Vec<(ContainerId, Value)>, RuntimeError> {
        part().await?;
        let newest: BTreeMap<_, _> = self
            .inner()
            .instances
            .iter()
            .map(|(name, made)| (name.id, made.label.clone()))
            .collect();
        Ok(newest.into_iter().collect())
    }

    async fn observe(&self, id: ContainerId) -> Result<Seen, RuntimeError> {
        let _busy = self.begin(id);
        self.inner().looks += 1;
        part().await?;
        let seen = self.seen(id);
        part().await?;
        Ok(seen)
    }

    async fn ensure_image(
        &self,
        reference: &ImageReference,
        _: ImagePull,
        _: &PullProgress,
        cancel: &CancellationToken,
    ) -> Result<String, RuntimeError> {
        self.trace(|| format!("pull {reference}"));
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(RuntimeError::Cancelled),
            () = tokio::time::sleep(dice::millis(4000)) => {}
        }
        part().await.map_err(|error| match error {
            RuntimeError::Unavailable(_) | RuntimeError::ImageLost(_) | RuntimeError::Cancelled => {
                error
            }
            RuntimeError::Failed(_) => RuntimeError::failed(Reason::ImageNotFound, "no such tag"),
        })?;
        let digest = format!("digest of {reference}");
        // Now and then it says that it is there, and it is not.
        if dice::is_calm() || dice::chance(95) {
            self.inner().images.insert(digest.clone());
        }
        part().await?;
        Ok(digest)
    }

    async fn launch(&self, record: &Record) -> Result<Option<Ipv4Addr>, RuntimeError> {
        let (_busy, name) = (self.begin(record.id), record.instance());
        self.trace(|| format!("launch {name}"));
        self.inner().judge.look(std::iter::once(name));
        self.inner().judge.launches(record);
        part().await?;
        // A stopped task is taken away first.
        if let Some(made) = self
            .inner()
            .instances
            .get_mut(&name)
            .filter(|made| matches!(made.task, Task::Stopped(_)))
        {
            made.task = Task::Absent;
        }
        part().await?;
        let digest = record.image_digest.clone().unwrap_or_default();
        let is_created = |made: &Made| matches!(made.task, Task::Created { .. });
        let needs_image = !self.inner().instances.get(&name).is_some_and(is_created);
        if needs_image && !self.inner().images.contains(&digest) {
            return Err(RuntimeError::ImageLost(digest));
        }
        let label = serde_json::to_value(record).unwrap();
        self.inner().instances.entry(name).or_insert_with(|| Made {
            task: Task::Absent,
            label,
        });
        part().await?;
        let task = self
            .inner()
            .instances
            .get(&name)
            .map(|made| made.task.clone());
        if matches!(task, Some(Task::Running { .. })) {
            return Ok(None);
        }
        self.set(name, Task::Created { pid: 1 });
        part().await?;
        self.set(
            name,
            Task::Running {
                pid: 1,
                since: None,
            },
        );
        self.inner().judge.launched(name);
        self.trace(|| format!("{name} runs"));
        self.tell(record.id);
        part().await.map(|()| record.assignment.address)
    }

    async fn stop(&self, instance: InstanceName, how: &StopOrder) -> Result<(), RuntimeError> {
        let _busy = self.begin(instance.id);
        self.trace(|| format!("stop {instance}"));
        self.inner().judge.look(std::iter::once(instance));
        part().await?;
        self.end_task(instance, how, "stopped").await?;
        part().await
    }

    async fn remove(&self, instance: InstanceName, how: &StopOrder) -> Result<(), RuntimeError> {
        let _busy = self.begin(instance.id);
        self.trace(|| format!("remove {instance}"));
        self.inner().judge.look(std::iter::once(instance));
        self.inner().judge.removes(instance);
        part().await?;
        self.end_task(instance, how, "removed").await?;
        part().await?;
        self.inner().instances.remove(&instance);
        self.tell(instance.id);
        part().await
    }

    async fn remove_logs(&self, id: ContainerId) -> Result<(), RuntimeError> {
        let _busy = self.begin(id);
        part().await
    }

    async fn sweep(&self, wanted: &WantedRecords) -> Result<Swept, RuntimeError> {
        part().await?;
        let names: BTreeSet<String> = wanted
            .records
            .iter()
            .map(|record| format!("digest of {}", record.spec.image))
            .collect();
        self.inner().images.retain(|image| names.contains(image));
        Ok(Swept::default())
    }

    async fn follow(&self, events: mpsc::Sender<RuntimeEvent>) {
        let _full = events.try_send(RuntimeEvent::Connected);
        loop {
            let told = self.told.notified();
            let first = self
                .inner()
                .hints
                .first_key_value()
                .map(|(key, event)| (*key, *event));
            match first {
                Some((key, event)) if key.0 <= Instant::now() => {
                    self.inner().hints.remove(&key);
                    let _full = events.try_send(event);
                }
                Some((key, _)) => {
                    tokio::select! { biased; () = told => {} () = tokio::time::sleep_until(key.0) => {} }
                }
                None => told.await,
            }
        }
    }
}

impl World {
    fn set(&self, name: InstanceName, task: Task) {
        let mut inner = self.inner();
        if let Some(made) = inner.instances.get_mut(&name) {
            made.task = task;
        }
        let live = |made: &Made| matches!(made.task, Task::Running { .. } | Task::Created { .. });
        let tasks = inner
            .instances
            .iter()
            .filter(|(other, made)| other.id == name.id && live(made))
            .count();
        if tasks > 1 {
            inner
                .judge
                .broken(format!("{tasks} tasks of {} at once", name.id));
        }
    }

    /// Everything runs that should, and there is nothing else.
    pub(crate) fn unsettled(&self, store: &Store) -> Option<String> {
        let desired = store.desired();
        if desired.adoption().is_some() {
            return Some("the runtime's copies are not taken in".to_owned());
        }
        if let Some(record) = desired.records().find(|record| record.removing) {
            return Some(format!("{} is still being removed", record.name));
        }
        let runs =
            |record: &&Arc<Record>| record.run == RunState::Running && record.finished.is_none();
        let wanted: BTreeSet<_> = desired
            .records()
            .filter(runs)
            .map(|record| record.instance())
            .collect();
        let running = self.running();
        if running != wanted {
            return Some(format!("{running:?} runs where {wanted:?} should"));
        }
        let current: BTreeSet<_> = desired.records().map(|record| record.instance()).collect();
        let inner = self.inner();
        let extra: Vec<_> = inner
            .instances
            .keys()
            .filter(|name| !current.contains(name))
            .collect();
        let held = inner
            .instances
            .iter()
            .find(|(_, made)| matches!(made.task, Task::Stopped(_) | Task::Created { .. }));
        match (extra.first(), held) {
            (Some(name), _) => Some(format!("{name} is left over")),
            (None, Some((name, made))) => Some(format!("{name} is left as {:?}", made.task)),
            (None, None) => None,
        }
    }
}
