//! A runtime that only remembers, for fast tests of the reconciler: it has the shape of containerd, and none of its weight.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use state::desired::Record;
use state::id::{ContainerId, InstanceName};
use state::observed::{Exit, Instance, Seen, Task};
use state::reference::ImageReference;
use state::spec::ImagePull;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::runtime::{
    Listing, PullProgress, Runtime, RuntimeError, RuntimeEvent, StopOrder, Swept,
};

/// How long a pull and a launch take, in the clock of the test.
const PULL: Duration = Duration::from_secs(2);
const LAUNCH: Duration = Duration::from_millis(100);

/// A call that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`Runtime::ensure_image`].
    EnsureImage,
    /// [`Runtime::launch`].
    Launch,
    /// [`Runtime::stop`].
    Stop,
    /// [`Runtime::remove`].
    Remove,
    /// [`Runtime::forget`].
    Forget,
}

/// Everything such a runtime holds.
#[derive(Debug, Default)]
struct World {
    instances: BTreeMap<InstanceName, Instance>,
    images: BTreeSet<String>,
    /// The record that each instance was made of.
    labels: BTreeMap<InstanceName, Value>,
    /// Failures to hand out, one a call that changes something; where a call is named, to that one only.
    faults: Vec<(Option<Call>, RuntimeError)>,
    /// Each call that changes something, and when it began.
    calls: Vec<(Call, Instant)>,
    launches: BTreeMap<ContainerId, u32>,
    most_tasks_of_one: usize,
    exits: u64,
    events: Option<mpsc::Sender<RuntimeEvent>>,
}

/// A container runtime in memory.
#[derive(Debug, Default)]
pub struct MemoryRuntime(Mutex<World>);

impl MemoryRuntime {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next calls that change something fail with these, the last one first.
    pub fn fail_next(&self, faults: impl IntoIterator<Item = RuntimeError>) {
        self.world()
            .faults
            .extend(faults.into_iter().map(|fault| (None, fault)));
    }

    /// As [`Self::fail_next`], but only calls of one kind.
    pub fn fail_next_of(&self, call: Call, faults: impl IntoIterator<Item = RuntimeError>) {
        self.world()
            .faults
            .extend(faults.into_iter().map(|fault| (Some(call), fault)));
    }

    /// The calls of one kind so far: when each began.
    #[must_use]
    pub fn began(&self, call: Call) -> Vec<Instant> {
        self.world()
            .calls
            .iter()
            .filter(|(known, _)| *known == call)
            .map(|(_, at)| *at)
            .collect()
    }

    /// The container's process ends by itself. Says nothing when none runs.
    pub fn end(&self, id: ContainerId, code: u32) {
        self.end_as(id, code, false);
    }

    /// As [`Self::end`]; it may be the kernel that ended it, for want of memory.
    pub fn end_as(&self, id: ContainerId, code: u32, out_of_memory: bool) {
        let mut world = self.world();
        world.exits += 1;
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(world.exits);
        for (_, instance) in world.instances.iter_mut().filter(|(name, _)| name.id == id) {
            if matches!(instance.task, Task::Running { .. }) {
                instance.task = Task::Stopped(Exit {
                    code,
                    at,
                    out_of_memory,
                });
            }
        }
        tell(&world, id);
    }

    /// Somebody kills the container's shim: its task is gone, and nobody knows how it ended.
    pub fn lose(&self, id: ContainerId) {
        let mut world = self.world();
        world
            .instances
            .iter_mut()
            .filter(|(name, _)| name.id == id)
            .for_each(|(_, instance)| instance.task = Task::Absent);
        tell(&world, id);
    }

    /// The node reboots: containers stay, tasks are gone.
    pub fn reboot(&self) {
        self.world()
            .instances
            .values_mut()
            .for_each(|instance| instance.task = Task::Absent);
    }

    /// What runs now.
    #[must_use]
    pub fn running(&self) -> BTreeSet<InstanceName> {
        let world = self.world();
        let running = world
            .instances
            .iter()
            .filter(|(_, instance)| matches!(instance.task, Task::Running { .. }));
        running.map(|(name, _)| *name).collect()
    }

    /// How often the container was started, ever.
    #[must_use]
    pub fn launches(&self, id: ContainerId) -> u32 {
        self.world().launches.get(&id).copied().unwrap_or_default()
    }

    /// Everything that exists, running or not.
    #[must_use]
    pub fn instances(&self) -> BTreeSet<InstanceName> {
        self.world().instances.keys().copied().collect()
    }

    /// The most tasks any one container ever had at once.
    #[must_use]
    pub fn most_tasks_of_one(&self) -> usize {
        self.world().most_tasks_of_one
    }

    fn begin(&self, call: Call) {
        self.world().calls.push((call, Instant::now()));
    }

    fn fault(&self, call: Call) -> Result<(), RuntimeError> {
        let faults = &mut self.world().faults;
        let next = faults
            .iter()
            .rposition(|(of, _)| of.is_none_or(|of| of == call));
        next.map_or(Ok(()), |at| Err(faults.remove(at).1))
    }
}

/// A hint that does not fit is lost, as events are.
fn tell(world: &World, id: ContainerId) {
    if let Some(events) = &world.events {
        let _lost = events.try_send(RuntimeEvent::Changed(id));
    }
}

fn seen(world: &World, id: ContainerId) -> Seen {
    let ours = world.instances.iter().filter(|(name, _)| name.id == id);
    Seen {
        instances: ours
            .map(|(name, instance)| (name.generation, instance.clone()))
            .collect(),
    }
}

impl Runtime for MemoryRuntime {
    async fn list(&self) -> Result<Listing, RuntimeError> {
        let world = self.world();
        let ids: BTreeSet<_> = world.instances.keys().map(|name| name.id).collect();
        Ok(Listing {
            ours: ids.into_iter().map(|id| (id, seen(&world, id))).collect(),
            foreign: Vec::new(),
        })
    }

    async fn salvage(&self) -> Result<Vec<(ContainerId, Value)>, RuntimeError> {
        let world = self.world();
        let newest: BTreeMap<_, _> = world
            .labels
            .iter()
            .map(|(name, copy)| (name.id, copy.clone()))
            .collect();
        Ok(newest.into_iter().collect())
    }

    async fn observe(&self, id: ContainerId) -> Result<Seen, RuntimeError> {
        Ok(seen(&self.world(), id))
    }

    async fn ensure_image(
        &self,
        reference: &ImageReference,
        _: ImagePull,
        _: &PullProgress,
        cancel: &CancellationToken,
    ) -> Result<String, RuntimeError> {
        self.begin(Call::EnsureImage);
        tokio::select! {
            () = tokio::time::sleep(PULL) => {}
            () = cancel.cancelled() => return Err(RuntimeError::Cancelled),
        }
        self.fault(Call::EnsureImage)?;
        let digest = format!("digest of {reference}");
        self.world().images.insert(digest.clone());
        Ok(digest)
    }

    async fn launch(&self, record: &Record) -> Result<(), RuntimeError> {
        self.begin(Call::Launch);
        tokio::time::sleep(LAUNCH).await;
        self.fault(Call::Launch)?;
        let mut world = self.world();
        let digest = record.image_digest.clone().unwrap_or_default();
        if !world.images.contains(&digest) {
            return Err(RuntimeError::ImageLost(digest));
        }
        let instance = world.instances.entry(record.instance()).or_default();
        if matches!(instance.task, Task::Running { .. }) {
            return Ok(());
        }
        *instance = Instance {
            task: Task::Running {
                pid: 1,
                since: None,
            },
        };
        world.labels.insert(
            record.instance(),
            serde_json::to_value(record).unwrap_or_default(),
        );
        *world.launches.entry(record.id).or_default() += 1;
        let tasks = world
            .instances
            .iter()
            .filter(|(name, i)| name.id == record.id && i.task != Task::Absent)
            .count();
        world.most_tasks_of_one = world.most_tasks_of_one.max(tasks);
        tell(&world, record.id);
        Ok(())
    }

    async fn stop(&self, instance: InstanceName, _: &StopOrder) -> Result<(), RuntimeError> {
        self.begin(Call::Stop);
        self.fault(Call::Stop)?;
        if let Some(instance) = self.world().instances.get_mut(&instance) {
            instance.task = Task::Absent;
        }
        Ok(())
    }

    async fn remove(&self, instance: InstanceName, _: &StopOrder) -> Result<(), RuntimeError> {
        self.begin(Call::Remove);
        self.fault(Call::Remove)?;
        let mut world = self.world();
        world.instances.remove(&instance);
        world.labels.remove(&instance);
        Ok(())
    }

    async fn forget(&self, _: ContainerId) -> Result<(), RuntimeError> {
        self.begin(Call::Forget);
        self.fault(Call::Forget)
    }

    async fn sweep(&self, _: &[Record]) -> Result<Swept, RuntimeError> {
        Ok(Swept::default())
    }

    async fn follow(&self, events: mpsc::Sender<RuntimeEvent>) {
        self.world().events = Some(events);
        std::future::pending::<()>().await;
    }
}
