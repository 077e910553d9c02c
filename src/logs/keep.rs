//! Keeper of the loggers: holds the reading ends of every container's pipes, sees at once when a
//! logger dies, and starts another one on the same pipes.
//!
//! The container notices nothing: while the agent lives its pipes always have a reader. A logger
//! that died while no agent lived is replaced by the next agent's first look; what was printed in
//! between is lost, and the log says so.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use state::desired::Record;
use state::event::{Event, EventKind, EventSubject};
use state::id::{ContainerId, InstanceName};
use state::reason::Reason;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::call::{LoggerCall, Takeover};
use super::limits::NumberedLimits;
use super::pipes::OutputPipes;
use super::process::LoggerProcess;
use super::program::LoggerProgram;
use super::rules::LoggerRules;
use crate::journal::Journal;
use crate::lock::lock;

mod adopt;
mod alarm;
mod end;
mod replace;

pub(crate) use adopt::RunningContainer;

/// Loggers of a node's containers. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Loggers(Arc<Keeper>);

#[derive(Debug)]
struct Keeper {
    /// Directory with a directory for each container.
    logs: PathBuf,
    program: LoggerProgram,
    rules: LoggerRules,
    /// Namespace of the containers in containerd, which is also their place among control groups.
    namespace: String,
    journal: Journal,
    tracker: TaskTracker,
    stop: CancellationToken,
    kept: Mutex<BTreeMap<InstanceName, Kept>>,
    /// Alarms that stand, by subject.
    alarmed: Mutex<BTreeMap<String, alarm::Loss>>,
    /// Loggers that the last sweep found without a container.
    suspects: Mutex<Vec<LoggerProcess>>,
}

/// Container whose output is looked after.
#[derive(Debug)]
struct Kept {
    subject: EventSubject,
    /// Watch that this is of: an instance that runs again has another one.
    watch: u64,
    /// `None`: no logger runs.
    logger: Option<LoggerProcess>,
    /// Fault for a person to read; `None`: output is written, as far as is known.
    fault: Option<String>,
    /// Limits for whoever takes over.
    limits: NumberedLimits,
}

impl Kept {
    /// Number of no watch: the container's output is out of reach.
    const UNWATCHED: u64 = u64::MAX;

    const fn is_watched(&self) -> bool {
        self.watch != Self::UNWATCHED
    }
}

/// Container without a working log, for a person to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SilentContainer {
    /// Name of the container, or its id where it has no record.
    pub(crate) container: String,
    /// Fault and its consequence.
    pub(crate) message: String,
}

/// Instance whose output is to be written.
#[derive(Clone, Debug)]
struct Post {
    instance: InstanceName,
    subject: EventSubject,
    limits: NumberedLimits,
    /// First process of the container.
    first: u32,
}

impl Post {
    /// Post of an instance. Without a record, the limits are the default.
    fn new(instance: InstanceName, record: Option<&Record>, first: u32) -> Self {
        Self {
            instance,
            subject: EventSubject::new(instance.id, record),
            limits: NumberedLimits::of(record),
            first,
        }
    }
}

impl Loggers {
    /// Keeper of the loggers that write below `logs`. Its watches run in `tracker` until `stop`;
    /// the loggers outlive them.
    pub(crate) fn new(
        logs: PathBuf,
        program: LoggerProgram,
        rules: LoggerRules,
        namespace: String,
        journal: Journal,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Keeper {
            logs,
            program,
            rules,
            namespace,
            journal,
            tracker,
            stop,
            kept: Mutex::default(),
            alarmed: Mutex::default(),
            suspects: Mutex::default(),
        }))
    }

    /// Directory with a directory for each container.
    pub(crate) fn root(&self) -> &Path {
        &self.0.logs
    }

    /// Log directory of a container.
    pub(crate) fn directory(&self, id: ContainerId) -> PathBuf {
        super::directory(&self.0.logs, id)
    }

    /// URI for a task's output that makes containerd's shim start the container's logger.
    pub(crate) fn output(&self, record: &Record) -> String {
        let call = self.call(record.instance(), NumberedLimits::of(Some(record)), None);
        call.uri(self.0.program.path())
    }

    /// Looks after the output of a task that is created and not started: `first` is its process.
    /// Before the start, since a container may close or redirect its output.
    pub(crate) fn keep(&self, record: &Record, first: u32) {
        let post = Post::new(record.instance(), Some(record), first);
        match OutputPipes::of(first, [1, 2]) {
            Ok(Some(pipes)) => self.watch(post, pipes, None, true),
            // The next resync finds the logger and takes the pipes from there.
            Ok(None) => tracing::debug!(instance = %post.instance, "output kept later: no pipe"),
            Err(error) => {
                tracing::debug!(instance = %post.instance, %error, "output kept later");
            }
        }
    }

    /// Has the record's log kept within its limits from now on: by the logger that runs, with the
    /// next line that it writes, and by whoever takes over from it.
    ///
    /// # Errors
    /// The logger cannot be told.
    pub(crate) async fn limit(&self, record: &Record) -> io::Result<()> {
        let limits = NumberedLimits::of(Some(record));
        if let Some(kept) = lock(&self.0.kept).get_mut(&record.instance()) {
            kept.limits = limits;
        }
        let dir = self.directory(record.id);
        let written = tokio::task::spawn_blocking(move || limits.write(&dir)).await;
        written.map_err(io::Error::other)?
    }

    /// Containers that have no logger, or whose output cannot be written.
    pub(crate) fn silent(&self) -> Vec<SilentContainer> {
        let kept = lock(&self.0.kept);
        let faulty = kept.values().filter_map(|kept| {
            Some(SilentContainer {
                container: kept.subject.to_string(),
                message: kept.fault.clone()?,
            })
        });
        faulty.collect()
    }

    fn call(
        &self,
        instance: InstanceName,
        limits: NumberedLimits,
        takeover: Option<Takeover>,
    ) -> LoggerCall {
        LoggerCall {
            dir: self.directory(instance.id),
            limits,
            rules: self.0.rules.clone(),
            takeover,
        }
    }

    /// Watches the logger of a post until its output has ended. `is_new`: the instance has just
    /// been created, and whatever was watched under its name is over.
    fn watch(&self, post: Post, pipes: OutputPipes, logger: Option<LoggerProcess>, is_new: bool) {
        let mut kept = lock(&self.0.kept);
        let before = kept.get(&post.instance).map(|kept| kept.watch);
        if before.is_some() && !is_new {
            return;
        }
        let watch = before.map_or(0, |watch| watch.wrapping_add(1));
        let entry = Kept {
            subject: post.subject.clone(),
            watch,
            logger: logger.clone(),
            fault: None,
            limits: post.limits,
        };
        kept.insert(post.instance, entry);
        drop(kept);
        let (this, stop) = (self.clone(), self.0.stop.clone());
        self.0.tracker.spawn(async move {
            tokio::select! {
                () = this.keep_going(&post, &pipes, logger, watch) => this.drop_watch(&post, watch),
                () = stop.cancelled() => {}
            }
        });
    }

    fn tell(&self, post: &Post, message: String) {
        let lost = Event::from(EventKind::LoggerLost).about(post.subject.clone());
        let because = lost.because(Reason::LoggerFailed);
        self.0.journal.record(because.saying(message));
    }

    /// Notes how a watched container stands.
    fn note(&self, post: &Post, watch: u64, logger: Option<&LoggerProcess>, fault: Option<String>) {
        if let Some(kept) = lock(&self.0.kept).get_mut(&post.instance)
            && kept.watch == watch
        {
            kept.logger = logger.cloned();
            kept.fault = fault;
        }
        self.set_alarms();
    }

    /// Whether the post is still watched by this watch: its container is not removed, and has not
    /// begun anew.
    fn is_current(&self, post: &Post, watch: u64) -> bool {
        let kept = lock(&self.0.kept);
        kept.get(&post.instance)
            .is_some_and(|kept| kept.watch == watch)
    }

    fn drop_watch(&self, post: &Post, watch: u64) {
        let mut kept = lock(&self.0.kept);
        if kept
            .get(&post.instance)
            .is_some_and(|kept| kept.watch == watch)
        {
            kept.remove(&post.instance);
        }
        drop(kept);
        self.set_alarms();
    }
}
