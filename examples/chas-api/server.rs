//! An example of the CHaS API server, in one process and without TLS. It knows nothing of the agent but the deploy body.
//!
//! [`Server`] is the state, [`serve`] answers from it. No lock is held while something is awaited, and nothing that a node
//! asks for takes longer the more nodes there are.
//!
//! Tests include this file by `#[path]`. Such a file's own modules are looked for beside it, those of a `mod server;` below
//! `server/`: their paths are spelt out, so that both find them.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use state::spec::parse::FieldError;
use tokio::sync::watch;

#[path = "server/body.rs"]
mod body;
#[path = "server/changes.rs"]
mod changes;
#[path = "server/counts.rs"]
mod counts;
#[path = "server/disk.rs"]
mod disk;
#[path = "server/etag.rs"]
mod etag;
#[path = "server/files.rs"]
mod files;
#[path = "server/node_calls.rs"]
mod node_calls;
#[path = "server/nodes.rs"]
mod nodes;
#[path = "server/operator.rs"]
mod operator;
#[path = "server/poll.rs"]
mod poll;
#[path = "server/problem.rs"]
mod problem;
#[path = "server/routes.rs"]
mod routes;
#[path = "server/run.rs"]
mod run;
#[path = "server/schema.rs"]
mod schema;
#[path = "server/sets.rs"]
mod sets;
#[path = "server/tokens.rs"]
mod tokens;

pub(crate) use run::serve;

/// Every fault of `body` (of a hundred), as what the document calls `name`; with `closed`, also fields that it does not know.
#[allow(
    dead_code,
    reason = "only for those who run the server in their own process"
)]
pub(crate) fn body_faults(name: &str, body: &Value, closed: bool) -> Vec<FieldError> {
    schema::faults(name, body, closed)
}

/// What can be asked of the time.
pub(crate) type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// What can be set.
#[derive(Clone)]
pub(crate) struct Settings {
    /// Where the state is kept. `None`: nowhere, and every start is another epoch.
    pub(crate) state: Option<PathBuf>,
    /// Where sets are read from files. `None`: they come over HTTP only.
    pub(crate) sets: Option<PathBuf>,
    /// How often they are looked at.
    pub(crate) look_after: Duration,
    /// What nodes register with. `None`: nodes need no token at all.
    pub(crate) join_token: Option<String>,
    /// What operators show. `None`: nothing.
    pub(crate) admin_token: Option<String>,
    /// Between polls that are not held. In whole seconds, as it is told to nodes.
    pub(crate) poll_after: Duration,
    /// Between reports. In whole seconds, too.
    pub(crate) health_after: Duration,
    /// What decides when a node was silent for too long.
    pub(crate) clock: Clock,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            state: None,
            sets: None,
            look_after: Duration::from_secs(1),
            join_token: None,
            admin_token: None,
            poll_after: Duration::from_secs(15),
            health_after: Duration::from_secs(30),
            clock: Arc::new(SystemTime::now),
        }
    }
}

/// The state of the server.
pub(crate) struct Server {
    settings: Settings,
    doors: tokens::Doors,
    disk: disk::Disk,
    /// Read by every poll and report, written only by `changes`.
    wanted: RwLock<sets::Wanted>,
    nodes: RwLock<nodes::Nodes>,
    /// Held by whoever changes what is wanted, over the write to the disk: changes are made one after another. The names
    /// whose sets are kept in files.
    changing: Mutex<BTreeSet<String>>,
    /// Wakes the polls that are held: something changed. `true`: the server stops.
    wake: watch::Sender<bool>,
    counts: counts::Counts,
    /// Polls that are held.
    held: AtomicUsize,
    /// A registration is not on the disk.
    unsaved: AtomicBool,
    /// Nothing but reports is not on the disk.
    unsaved_reports: AtomicBool,
}

impl Server {
    /// Reads the state. Blocks.
    ///
    /// # Errors
    /// It cannot be read, or another server has it.
    pub(crate) fn open(settings: Settings) -> io::Result<Arc<Self>> {
        let disk = disk::Disk::open(settings.state.as_deref())?;
        let (mut wanted, mut nodes) = (
            sets::Wanted::default(),
            nodes::Nodes::since(ms((settings.clock)())),
        );
        for (name, entry) in disk.entries()? {
            wanted.insert(&name, entry);
        }
        for node in disk.nodes()? {
            nodes.insert(node);
        }
        tracing::info!(
            epoch = disk.epoch(),
            nodes = nodes.len(),
            "the state is read"
        );
        Ok(Arc::new(Self {
            doors: tokens::Doors::new(
                settings.join_token.as_deref(),
                settings.admin_token.as_deref(),
            ),
            settings,
            disk,
            wanted: RwLock::new(wanted),
            nodes: RwLock::new(nodes),
            changing: Mutex::default(),
            wake: watch::Sender::new(false),
            counts: counts::Counts::default(),
            held: AtomicUsize::new(0),
            unsaved: AtomicBool::new(false),
            unsaved_reports: AtomicBool::new(false),
        }))
    }

    fn wanted(&self) -> RwLockReadGuard<'_, sets::Wanted> {
        self.wanted.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes(&self) -> RwLockReadGuard<'_, nodes::Nodes> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes_mut(&self) -> RwLockWriteGuard<'_, nodes::Nodes> {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        ms((self.settings.clock)())
    }

    /// After so long without a word, a node is offline.
    fn silence_ms(&self) -> u64 {
        u64::try_from((self.settings.health_after * nodes::SILENT_INTERVALS).as_millis())
            .unwrap_or(u64::MAX)
    }

    /// Writes the nodes to the disk. Blocks.
    fn save(&self) -> io::Result<()> {
        self.unsaved.store(false, Ordering::Relaxed);
        self.unsaved_reports.store(false, Ordering::Relaxed);
        let nodes = self.nodes().all();
        self.disk
            .keep_nodes(&nodes)
            .inspect_err(|_| self.unsaved.store(true, Ordering::Relaxed))
    }
}

/// Milliseconds since 1970.
fn ms(time: SystemTime) -> u64 {
    u64::try_from(
        time.duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis(),
    )
    .unwrap_or(u64::MAX)
}
