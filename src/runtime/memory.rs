//! Runtime for fast tests of the reconciler: the shape of containerd, and none of its weight.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
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
    PullProgress, Runtime, RuntimeError, RuntimeEvent, RuntimeListing, StopOrder, Swept,
};

/// Time of a pull in the clock of the test.
const PULL: Duration = Duration::from_secs(2);
/// Time of a launch in the clock of the test.
const LAUNCH: Duration = Duration::from_millis(100);

/// Call that changes something.
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
    /// [`Runtime::remove_logs`].
    RemoveLogs,
}

/// Everything that a test runtime has.
#[derive(Debug, Default)]
struct TestContainers {
    instances: BTreeMap<InstanceName, Instance>,
    images: BTreeSet<String>,
    /// Record that each instance was made of.
    labels: BTreeMap<InstanceName, Value>,
    /// Failures to hand out, one a call that changes something; where a call is named, to that one
    /// only.
    faults: Vec<(Option<Call>, RuntimeError)>,
    /// Calls that changed something, and when each began.
    calls: Vec<(Call, Instant)>,
    launches: BTreeMap<ContainerId, u32>,
    most_tasks_of_one: usize,
    exits: u64,
    events: Option<mpsc::Sender<RuntimeEvent>>,
}

/// Test runtime.
#[derive(Debug, Default)]
pub struct MemoryRuntime(Mutex<TestContainers>);

impl MemoryRuntime {
    fn world(&self) -> MutexGuard<'_, TestContainers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the next calls that change something fail with these, the last one first.
    pub fn fail_next(&self, faults: impl IntoIterator<Item = RuntimeError>) {
        self.world()
            .faults
            .extend(faults.into_iter().map(|fault| (None, fault)));
    }

    /// Makes the next calls of one kind fail, else as [`Self::fail_next`].
    pub fn fail_next_of(&self, call: Call, faults: impl IntoIterator<Item = RuntimeError>) {
        self.world()
            .faults
            .extend(faults.into_iter().map(|fault| (Some(call), fault)));
    }

    /// Times at which the calls of one kind began so far.
    #[must_use]
    pub fn began(&self, call: Call) -> Vec<Instant> {
        self.world()
            .calls
            .iter()
            .filter(|(known, _)| *known == call)
            .map(|(_, at)| *at)
            .collect()
    }

    /// Ends the container's process as if by itself. Does nothing when none runs.
    pub fn end(&self, id: ContainerId, code: u32) {
        self.end_as(id, code, false);
    }

    /// Ends the container's process, perhaps as the kernel does for want of memory.
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

    /// Loses the container's task, as if its shim was killed: no exit of it is known.
    pub fn lose(&self, id: ContainerId) {
        let mut world = self.world();
        world
            .instances
            .iter_mut()
            .filter(|(name, _)| name.id == id)
            .for_each(|(_, instance)| instance.task = Task::Absent);
        tell(&world, id);
    }

    /// Reboots the node: containers stay, tasks are gone.
    pub fn reboot(&self) {
        self.world()
            .instances
            .values_mut()
            .for_each(|instance| instance.task = Task::Absent);
    }

    /// Instances that run now.
    #[must_use]
    pub fn running(&self) -> BTreeSet<InstanceName> {
        let world = self.world();
        let running = world
            .instances
            .iter()
            .filter(|(_, instance)| matches!(instance.task, Task::Running { .. }));
        running.map(|(name, _)| *name).collect()
    }

    /// Number of starts of the container, ever.
    #[must_use]
    pub fn launches(&self, id: ContainerId) -> u32 {
        self.world().launches.get(&id).copied().unwrap_or_default()
    }

    /// Instances that exist, running or not.
    #[must_use]
    pub fn instances(&self) -> BTreeSet<InstanceName> {
        self.world().instances.keys().copied().collect()
    }

    /// Largest number of tasks that any one container ever had at once.
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

/// Sends a hint; one that does not fit is lost, as events are.
fn tell(world: &TestContainers, id: ContainerId) {
    if let Some(events) = &world.events {
        let _lost = events.try_send(RuntimeEvent::Changed(id));
    }
}

fn seen(world: &TestContainers, id: ContainerId) -> Seen {
    let instances = world.instances.iter().filter(|(name, _)| name.id == id);
    Seen {
        instances: instances
            .map(|(name, instance)| (name.generation, instance.clone()))
            .collect(),
    }
}

impl Runtime for MemoryRuntime {
    async fn list(&self) -> Result<RuntimeListing, RuntimeError> {
        let world = self.world();
        let ids: BTreeSet<_> = world.instances.keys().map(|name| name.id).collect();
        Ok(RuntimeListing {
            managed: ids.into_iter().map(|id| (id, seen(&world, id))).collect(),
            unmanaged: Vec::new(),
        })
    }

    async fn stored_records(&self) -> Result<Vec<(ContainerId, Value)>, RuntimeError> {
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

    async fn launch(&self, record: &Record) -> Result<Option<Ipv4Addr>, RuntimeError> {
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
            return Ok(None);
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
        Ok(record.assignment.address)
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

    async fn remove_logs(&self, _: ContainerId) -> Result<(), RuntimeError> {
        self.begin(Call::RemoveLogs);
        self.fault(Call::RemoveLogs)
    }

    async fn sweep(&self, _: &crate::runtime::WantedRecords) -> Result<Swept, RuntimeError> {
        Ok(Swept::default())
    }

    async fn follow(&self, events: mpsc::Sender<RuntimeEvent>) {
        self.world().events = Some(events);
        std::future::pending::<()>().await;
    }
}
