//! The running agent as its interfaces see it: the store for what is desired, the reconciler's
//! board for what is known, the journal for what happened.
//!
//! [`commands`] changes what is desired, [`queries`], [`plan`] and [`health`] show what is known,
//! [`link`] is the side that CHaS sees. None of them starts a container.

use std::sync::Arc;
use std::time::SystemTime;

use state::reach::NodeReach;
use state::time::unix_ms;
use tokio::sync::watch;

use crate::chas::LinkState;
use crate::exec::ExecRoom;
use crate::journal::Journal;
use crate::log_level::LogLevel;
use crate::logs::keep::Loggers;
use crate::monitor::Monitor;
use crate::reconcile::{Board, Handle};
use crate::view::ConfinementView;
use crate::writer::Writer;

mod budget;
mod capacity;
mod commands;
mod disconnect;
pub(crate) mod disk_alarms;
mod drain;
mod execs;
pub(crate) mod file_alarms;
mod files;
mod health;
pub(crate) mod images;
pub(crate) mod link;
mod plan;
pub(crate) mod policy_watch;
mod queries;
mod refusal;
pub(crate) mod rollback;
mod sizes;
pub(crate) mod tasks;
#[cfg(test)]
mod tests;
pub(crate) mod usage;
pub(crate) mod volumes;

use health::UnsettledSince;
pub(crate) use health::is_before_this_agent;
use images::ImageStore;
use rollback::ImageShelf;
use tasks::TaskReach;
use usage::UsageSources;
use volumes::NodeVolumes;

/// The running agent, as its interfaces see it.
#[derive(Debug)]
pub(crate) struct AgentNode {
    writer: Writer,
    handle: Handle,
    journal: Journal,
    monitor: Arc<Monitor>,
    loggers: Loggers,
    /// `None`: no CHaS is configured.
    contact: Option<Arc<LinkState>>,
    confinement: watch::Receiver<ConfinementView>,
    /// Facts of the network that decide which containers reach each other, if it keeps to them.
    reach: Option<NodeReach>,
    /// `None`: nothing runs programs in containers.
    execs: Option<ExecRoom>,
    /// `None`: what containers use is not looked at.
    usage: Option<Arc<UsageSources>>,
    /// `None`: the node has no volumes.
    volumes: Option<NodeVolumes>,
    /// `None`: nobody looks whether an image to go back to is there.
    images: Option<Arc<dyn ImageShelf>>,
    /// `None`: images are not looked at.
    image_store: Option<Arc<dyn ImageStore>>,
    /// `None`: no signals are sent.
    tasks: Option<Arc<dyn TaskReach>>,
    /// Level of the agent's own log.
    log_level: LogLevel,
    /// The start of the agent, by the wall clock.
    started: SystemTime,
    unsettled: UnsettledSince,
}

impl AgentNode {
    pub(crate) fn new(
        writer: Writer,
        handle: Handle,
        journal: Journal,
        monitor: Arc<Monitor>,
        loggers: Loggers,
        contact: Option<Arc<LinkState>>,
        confinement: watch::Receiver<ConfinementView>,
    ) -> Self {
        Self {
            writer,
            handle,
            journal,
            monitor,
            loggers,
            contact,
            confinement,
            reach: None,
            execs: None,
            usage: None,
            volumes: None,
            images: None,
            image_store: None,
            tasks: None,
            log_level: LogLevel::new("info", |_| false),
            started: SystemTime::now(),
            unsettled: UnsettledSince::default(),
        }
    }

    /// The same on a network that lets containers reach each other as this says.
    pub(crate) fn with_reach(mut self, reach: NodeReach) -> Self {
        self.reach = Some(reach);
        self
    }

    /// The same, with programs run in containers.
    pub(crate) fn with_execs(mut self, execs: ExecRoom) -> Self {
        self.execs = Some(execs);
        self
    }

    /// The same, with what containers use.
    pub(crate) fn with_usage(mut self, sources: UsageSources) -> Self {
        self.usage = Some(Arc::new(sources));
        self
    }

    /// The same, whose log has this level.
    pub(crate) fn with_log_level(mut self, level: LogLevel) -> Self {
        self.log_level = level;
        self
    }

    fn board(&self) -> &Board {
        self.handle.board()
    }
}

/// Milliseconds since 1970, for showing.
fn wall_ms() -> u64 {
    unix_ms(SystemTime::now())
}
