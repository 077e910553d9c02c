//! Use by containers now: the kernel's counts of the control groups and links of those instances that
//! the board knows to run. No call to containerd is made.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use state::desired::Record;
use state::id::{ContainerId, InstanceName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::AgentNode;
use crate::cgroup::Cgroup;
use crate::cgroup::usage::{
    GroupLimits, GroupUsage, KeptFiles, MemoryUsage, Scratch, UsageBefore, UsageDetail, UsageReader,
};
use crate::lock::lock;
use crate::logs::counts::{KeptLog, LogCountsReader};
use crate::monitor::links::{LinkUsage, link_usage};
use crate::view::UsageView;

/// Looks at the logs' counts at once, and the longest wait for a place.
static LOG_LOOKS: Semaphore = Semaphore::const_new(2);
const LOGS_WITHIN: Duration = Duration::from_millis(500);
/// Threads that look at once. Each container costs some fifty microseconds.
const THREADS_MAX: usize = 4;
/// Least time for which a scrape tells the numbers of a container again that used no CPU time, and the
/// parts of memory that is the same in bytes; up to so much is added for each, so that not all are read
/// anew at once. What the kernel takes from such a container meanwhile, or writes for it, is told so much
/// later.
const SAME_FOR: Duration = Duration::from_secs(30);
/// The same of limits. They are the agent's own, and read at once for a generation that it gave others.
const LIMITS_FOR: Duration = Duration::from_secs(300);
/// Containers for which a further thread is worth its start.
const EACH_MIN: usize = 32;

/// Containers whose files stay open between two scrapes, and the part of the agent's descriptors that
/// these may take.
const KEPT_MAX: usize = 512;
const KEPT_PART: usize = 4;

/// Places for the files of containers that stay open.
pub(crate) fn file_places() -> Arc<Semaphore> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    // And the log's counts.
    let each = KeptFiles::MOST + 1;
    let places = (limit / KEPT_PART / each).min(KEPT_MAX);
    Arc::new(Semaphore::new(places))
}

/// Places where the kernel counts what instances use.
pub(crate) struct UsageSources {
    /// The kind of the control groups.
    pub(crate) cgroup: Cgroup,
    /// containerd's namespace, whose group holds those of the instances.
    pub(crate) namespace: String,
    /// Directory with the logs of each container.
    pub(crate) logs: PathBuf,
    /// Name of an instance's link on the node.
    pub(crate) link: Box<dyn Fn(InstanceName) -> String + Send + Sync>,
    /// Usages that the last scrape met.
    pub(crate) met: Mutex<Arc<MetUsages>>,
    /// Places for files that stay open; see [`file_places`].
    pub(crate) places: Arc<Semaphore>,
}

impl std::fmt::Debug for UsageSources {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("UsageSources");
        shown.field("cgroup", &self.cgroup).finish_non_exhaustive()
    }
}

/// Usages that one look met, by instance.
pub(crate) type MetUsages = BTreeMap<InstanceName, MetUsage>;

/// Use by an instance that was met, so that one which did nothing since is not read again.
#[derive(Clone, Debug)]
pub(crate) struct MetUsage {
    /// Generation that it carried then.
    generation: u64,
    /// Limits, and when they were read. `None`: they could not be.
    limits: Option<(GroupLimits, Instant)>,
    usage: GroupUsage,
    read_at: Instant,
    /// The last look at the parts of its memory.
    memory_at: Instant,
    /// Files of its group, while it does something from one scrape to the next.
    files: Option<Arc<PlacedFiles>>,
}

/// Files that stay open, and their place.
#[derive(Debug)]
struct PlacedFiles {
    files: KeptFiles,
    log: KeptLog,
    _place: OwnedSemaphorePermit,
}

/// Where usage is taken from at one look, by each of its threads.
struct UsageLook<'a> {
    sources: &'a UsageSources,
    groups: UsageReader,
    links: HashMap<String, LinkUsage>,
    /// `None`: they are left out.
    logs: Option<LogCountsReader>,
    met: Arc<MetUsages>,
    detail: UsageDetail,
}

impl AgentNode {
    /// Use by every managed container, or by the one with this id; by name.
    pub(super) async fn usage_now(
        &self,
        only: Option<ContainerId>,
        detail: UsageDetail,
    ) -> Vec<UsageView> {
        let desired = self.writer.store().desired();
        let records = desired
            .records()
            .filter(|record| only.is_none_or(|id| record.id == id));
        let running = |record: &Arc<Record>| (Arc::clone(record), self.running(record));
        let mut wanted: Vec<_> = records.map(running).collect();
        wanted.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        let Some(sources) = self.usage.clone() else {
            return wanted.iter().map(|(record, _)| unknown(record)).collect();
        };
        // A disk of logs that hangs keeps a few threads, and not one more at each look.
        let with_logs = tokio::time::timeout(LOGS_WITHIN, LOG_LOOKS.acquire()).await;
        let with_logs = with_logs.ok().and_then(Result::ok);
        let looking = tokio::task::spawn_blocking(move || {
            let begun = UsageLook::begin(&sources, with_logs.is_some(), detail);
            let (found, met) = look(&begun, &wanted);
            drop(with_logs);
            // Those of instances that are gone go with the next look at all. One for all of what the
            // kernel tells has other numbers.
            if only.is_none() && detail == UsageDetail::Metrics {
                *lock(&sources.met) = Arc::new(met);
            }
            found
        });
        // It ends by a panic or with the agent.
        looking.await.unwrap_or_default()
    }

    /// The instance of a container that runs.
    fn running(&self, record: &Record) -> Option<(InstanceName, u64)> {
        let seen = self.board().known(record.id).seen;
        let made_at = seen.running_instance()?;
        let name = InstanceName {
            id: record.id,
            generation: made_at,
        };
        Some((name, seen.instances.get(&made_at)?.carried(made_at)))
    }
}

type Running = (Arc<Record>, Option<(InstanceName, u64)>);

impl<'a> UsageLook<'a> {
    fn begin(sources: &'a UsageSources, with_logs: bool, detail: UsageDetail) -> Self {
        let parent = format!("/{}", sources.namespace);
        let met = Arc::clone(&lock(&sources.met));
        Self {
            sources,
            groups: sources.cgroup.usage_below(&parent),
            links: link_usage().unwrap_or_default(),
            logs: with_logs
                .then(|| LogCountsReader::open(&sources.logs))
                .flatten(),
            met,
            detail,
        }
    }

    /// Use by an instance. `None`: it has no group.
    fn group(
        &self,
        record: &Record,
        (instance, generation): (InstanceName, u64),
        scratch: &mut Scratch,
    ) -> Option<MetUsage> {
        let (name, now) = (instance.to_string(), Instant::now());
        let is_within = |at: Instant, least: Duration| {
            let part = u32::try_from(instance.id.bits() % 64).unwrap_or(0);
            let spread = least * part / 64;
            now.duration_since(at) < least + spread
        };
        let is_young = |at: Instant| is_within(at, SAME_FOR);
        let met = self
            .met
            .get(&instance)
            .filter(|met| self.detail == UsageDetail::Metrics && met.generation == generation);
        let known = met.and_then(|met| met.limits);
        // While a change is on its way some may have theirs already.
        let is_settled = record.generation == generation;
        let known = known.filter(|(_, read_at)| is_settled && is_within(*read_at, LIMITS_FOR));
        let limits = known
            .or_else(|| Some((self.groups.limits(&name, scratch)?, now)))
            .or_else(|| met?.limits);
        let given = limits.map(|(limits, _)| limits).unwrap_or_default();
        let kept = met.and_then(|met| met.files.clone());
        let read = (kept.as_ref().map(|kept| &kept.files), &mut *scratch);
        let cpu = self.groups.cpu(&name, given, self.detail, read);
        let same = met.filter(|met| {
            let did_nothing = cpu.is_some() && met.usage.cpu == cpu;
            let read_at = met.read_at.min(met.memory_at);
            did_nothing && known.is_some() && is_young(read_at)
        });
        if let Some(same) = same {
            return Some(MetUsage {
                files: None,
                ..same.clone()
            });
        }
        let is_busy = |met: &MetUsage| cpu.is_some() && met.usage.cpu != cpu;
        let files = kept.or_else(|| met.filter(|met| is_busy(met)).and_then(|_| self.place()));
        let of_same = met.filter(|met| !met.usage.is_anew(cpu.as_ref()));
        let of_late = of_same.filter(|met| is_young(met.memory_at));
        let before = UsageBefore {
            memory: of_late.and_then(|met| met.usage.memory.as_ref()),
            disk: of_same.and_then(|met| met.usage.disk.as_ref()),
        };
        let read = (files.as_ref().map(|kept| &kept.files), scratch);
        let groups = &self.groups;
        // The history has the kills of the record's own instance, and not those of the one before it.
        let detail = match instance == record.instance() {
            true => self.detail,
            false => UsageDetail::All,
        };
        let usage = groups.usage(&name, given, detail, (cpu, before), read)?;
        let used = |memory: Option<&MemoryUsage>| memory.map(|memory| memory.used);
        let same_memory = of_late.filter(|_| used(before.memory) == used(usage.memory.as_ref()));
        // What is lacking now may be there at the next look.
        let is_sure = met.is_some_and(|met| !usage.lacks(&met.usage));
        Some(MetUsage {
            generation,
            limits,
            usage,
            read_at: now,
            memory_at: same_memory.map_or(now, |met| met.memory_at),
            files: files.filter(|_| is_sure),
        })
    }

    /// Place for the files of a container that is to have them open. `None`: there is none left.
    fn place(&self) -> Option<Arc<PlacedFiles>> {
        let place = Arc::clone(&self.sources.places).try_acquire_owned().ok()?;
        Some(Arc::new(PlacedFiles {
            files: KeptFiles::default(),
            log: KeptLog::default(),
            _place: place,
        }))
    }

    /// Use by each of some containers, and what was met.
    fn part(&self, wanted: &[Running]) -> (Vec<UsageView>, MetUsages) {
        let (mut scratch, mut all_met) = (Scratch::default(), MetUsages::new());
        let view = |(record, running): &Running| {
            let (mut view, mut kept) = (unknown(record), None);
            let met = running.and_then(|running| self.group(record, running, &mut scratch));
            if let Some(((instance, generation), met)) = running.zip(met) {
                (view.generation, view.group) = (Some(generation), met.usage.clone());
                let link = self.links.get(&(self.sources.link)(instance));
                view.network = link.map(|link| link.other_end());
                kept = met.files.clone();
                all_met.insert(instance, met);
            }
            let instance = running.map_or_else(|| record.instance(), |(instance, _)| instance);
            let kept = kept.as_ref().map(|kept| &kept.log);
            view.log = self
                .logs
                .as_ref()
                .and_then(|logs| logs.read(instance, kept));
            view
        };
        (wanted.iter().map(view).collect(), all_met)
    }
}

/// View of a container of which nothing is known yet.
fn unknown(record: &Arc<Record>) -> UsageView {
    UsageView {
        record: Arc::clone(record),
        log: None,
        generation: None,
        taken: SystemTime::now(),
        taken_at: Instant::now(),
        group: GroupUsage::default(),
        network: None,
    }
}

/// Use by each of some containers, looked at by some threads; and what was met.
fn look(look: &UsageLook<'_>, wanted: &[Running]) -> (Vec<UsageView>, MetUsages) {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let each = wanted
        .len()
        .div_ceil(threads.min(THREADS_MAX))
        .max(EACH_MIN);
    let mut parts = wanted.chunks(each);
    let first = parts.next().unwrap_or_default();
    thread::scope(|scope| {
        let others: Vec<_> = parts.map(|part| scope.spawn(|| look.part(part))).collect();
        let (mut all, mut met) = look.part(first);
        for other in others {
            // One that panicked has told why.
            let (more, more_met) = other.join().unwrap_or_default();
            all.extend(more);
            met.extend(more_met);
        }
        (all, met)
    })
}
