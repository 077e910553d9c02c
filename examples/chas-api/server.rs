//! Example of the CHaS API server, in one process and without TLS. Of the agent, it knows only the
//! deploy body.
//!
//! [`Server`] is the state, [`serve`] answers from it. No lock is held across an await, and no call
//! of a node takes longer the more nodes there are.
//!
//! Tests include this file by `#[path]`. The compiler looks for the modules of such a file beside
//! it, and for those of `mod server;` below `server/`: explicit paths serve both.

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
#[path = "server/signature.rs"]
pub(crate) mod signature;
#[path = "server/tokens.rs"]
mod tokens;

pub(crate) use run::serve;

/// Errors of `body` under the schema `name`, at most a hundred; with `closed`, also members that
/// the schema does not list.
#[allow(
    dead_code,
    reason = "only for those who run the server in their own process"
)]
pub(crate) fn body_errors(name: &str, body: &Value, closed: bool) -> Vec<FieldError> {
    schema::errors(name, body, closed)
}

/// A source of the wall time.
pub(crate) type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Settings of the server.
#[derive(Clone)]
pub(crate) struct Settings {
    /// Directory of the state. `None`: the state is kept in RAM, and every start is another epoch.
    pub(crate) state: Option<PathBuf>,
    /// Directory of set files. `None`: sets come over HTTP only.
    pub(crate) sets: Option<PathBuf>,
    /// Interval at which the set files are checked.
    pub(crate) look_after: Duration,
    /// Token that nodes register with. `None`: nodes need no token.
    pub(crate) join_token: Option<String>,
    /// Key that signs sets. `None`: they are not signed.
    pub(crate) set_key: Option<Arc<ring::signature::Ed25519KeyPair>>,
    /// Token of operators. `None`: they need none.
    pub(crate) admin_token: Option<String>,
    /// Interval between polls that are not kept open, in whole seconds.
    pub(crate) poll_after: Duration,
    /// Interval between reports, in whole seconds.
    pub(crate) health_after: Duration,
    /// Clock that decides when a node is offline.
    pub(crate) clock: WallClock,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            state: None,
            sets: None,
            look_after: Duration::from_secs(1),
            join_token: None,
            set_key: None,
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
    doors: tokens::AccessRules,
    disk: disk::StateDir,
    /// Sets of all nodes. Every poll and report reads them, only `changes` writes them.
    wanted: RwLock<sets::DesiredSets>,
    nodes: RwLock<nodes::KnownNodes>,
    /// Names whose sets come from files. Locked during each change of a set, with its write to the
    /// disk, so that changes are made one after another.
    changing: Mutex<BTreeSet<String>>,
    /// Wakes the polls that are kept open after a change. `true`: the server stops.
    wake: watch::Sender<bool>,
    counts: counts::RequestCounts,
    /// Number of polls that are kept open.
    waiting_polls: AtomicUsize,
    /// Whether a registration is not on the disk yet.
    unsaved: AtomicBool,
    /// Whether a report is not on the disk yet.
    unsaved_reports: AtomicBool,
}

impl Server {
    /// Opens the state. Blocks.
    ///
    /// # Errors
    /// The directory cannot be read, or another server uses it.
    pub(crate) fn open(settings: Settings) -> io::Result<Arc<Self>> {
        let disk = disk::StateDir::open(settings.state.as_deref())?;
        let (mut wanted, mut nodes) = (
            sets::DesiredSets::default(),
            nodes::KnownNodes::since(ms((settings.clock)())),
        );
        for (name, entry) in disk.entries()? {
            wanted.insert(&name, entry);
        }
        for node in disk.nodes()? {
            nodes.insert(node);
        }
        tracing::info!(epoch = disk.epoch(), nodes = nodes.len(), "state loaded");
        Ok(Arc::new(Self {
            doors: tokens::AccessRules::new(
                settings.join_token.as_deref(),
                settings.admin_token.as_deref(),
            ),
            settings,
            disk,
            wanted: RwLock::new(wanted),
            nodes: RwLock::new(nodes),
            changing: Mutex::default(),
            wake: watch::Sender::new(false),
            counts: counts::RequestCounts::default(),
            waiting_polls: AtomicUsize::new(0),
            unsaved: AtomicBool::new(false),
            unsaved_reports: AtomicBool::new(false),
        }))
    }

    fn wanted(&self) -> RwLockReadGuard<'_, sets::DesiredSets> {
        self.wanted.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes(&self) -> RwLockReadGuard<'_, nodes::KnownNodes> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes_mut(&self) -> RwLockWriteGuard<'_, nodes::KnownNodes> {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        ms((self.settings.clock)())
    }

    /// Time without a call after which a node is offline, in milliseconds.
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
