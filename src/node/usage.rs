//! Use by containers now: the kernel's counts of the control groups and links of those instances that
//! the board knows to run. No call to containerd is made.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use state::desired::Record;
use state::id::{ContainerId, InstanceName};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::AgentNode;
use crate::cgroup::Cgroup;
use crate::cgroup::usage::GroupUsage;
use crate::logs::counts::LogCounts;
use crate::monitor::links::link_usage;
use crate::view::UsageView;

/// Looks at the logs' counts at once, and the longest wait for a place.
static LOG_LOOKS: Semaphore = Semaphore::const_new(2);
const LOGS_WITHIN: Duration = Duration::from_millis(500);
/// Threads that look at once. Each container costs some fifty microseconds.
const THREADS_MAX: usize = 4;
/// Containers for which a further thread is worth its start.
const EACH_MIN: usize = 32;

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
}

impl std::fmt::Debug for UsageSources {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("UsageSources");
        shown.field("cgroup", &self.cgroup).finish_non_exhaustive()
    }
}

impl AgentNode {
    /// Use by every managed container, or by the one with this id; by name.
    pub(super) async fn usage_now(&self, only: Option<ContainerId>) -> Vec<UsageView> {
        let desired = self.writer.store().desired();
        let records = desired
            .records()
            .filter(|record| only.is_none_or(|id| record.id == id));
        let running = |record: &Arc<Record>| (Arc::clone(record), self.running(record));
        let mut wanted: Vec<_> = records.map(running).collect();
        wanted.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        let sources = self.usage.clone();
        // A disk of logs that hangs keeps a few threads, and not one more at each look.
        let with_logs = tokio::time::timeout(LOGS_WITHIN, LOG_LOOKS.acquire()).await;
        let with_logs = with_logs.ok().and_then(Result::ok);
        let looking = tokio::task::spawn_blocking(move || {
            let found = look(sources.as_deref(), &wanted, with_logs.is_some());
            drop(with_logs);
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

fn look(sources: Option<&UsageSources>, wanted: &[Running], with_logs: bool) -> Vec<UsageView> {
    let links = link_usage().unwrap_or_default();
    let below = |sources: &UsageSources| {
        let parent = format!("/{}", sources.namespace);
        sources.cgroup.usage_below(&parent)
    };
    let groups = sources.map(below);
    let taken = SystemTime::now();
    let look = |(record, running): &Running| {
        let usage = running.zip(sources).zip(groups.as_ref());
        let usage = usage.and_then(|(((instance, generation), sources), groups)| {
            let group = groups.usage(&instance.to_string())?;
            let link = links.get(&(sources.link)(instance));
            Some((generation, group, link.map(|link| link.other_end())))
        });
        let (generation, group, network) = match usage {
            Some((generation, group, network)) => (Some(generation), group, network),
            None => (None, GroupUsage::default(), None),
        };
        let instance = running.map_or_else(|| record.instance(), |(instance, _)| instance);
        let logs = sources.filter(|_| with_logs);
        let log = logs.and_then(|sources| LogCounts::of(&sources.logs, instance));
        UsageView {
            record: Arc::clone(record),
            log,
            generation,
            taken,
            taken_at: Instant::now(),
            group,
            network,
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let each = wanted
        .len()
        .div_ceil(threads.min(THREADS_MAX))
        .max(EACH_MIN);
    let mut parts = wanted.chunks(each);
    let first = parts.next().unwrap_or_default();
    thread::scope(|scope| {
        let others: Vec<_> = parts
            .map(|part| scope.spawn(|| part.iter().map(look).collect::<Vec<_>>()))
            .collect();
        let mut all: Vec<_> = first.iter().map(look).collect();
        for other in others {
            // One that panicked has told why.
            all.extend(other.join().unwrap_or_default());
        }
        all
    })
}
