//! Why the store did not take a change.

use std::path::PathBuf;

use crate::assign::AssignError;
use crate::id::{ContainerId, ContainerName};

/// Why a change was not taken.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Its place on the network cannot be had.
    #[error(transparent)]
    Assign(#[from] AssignError),
    /// The name belongs to the control plane.
    #[error("{0} is owned by CHaS (generation {1}); change it there")]
    Owned(ContainerName, u64),
    /// Containers of a set that cannot be had so; not empty.
    #[error("{}", .0.iter().map(|(name, error)| format!("{name}: {error}")).collect::<Vec<_>>().join("; "))]
    Several(Vec<(ContainerName, StoreError)>),
    /// The set is not the one that the caller took it for.
    #[error("the set is another one by now: its ETag is \"{0}\"")]
    Unmatched(String),
    /// The `Idempotency-Key` came with another request before.
    #[error("the Idempotency-Key was used for another request; take another key")]
    KeyReused,
    /// Nothing of what CHaS lists waits for a confirmation.
    #[error("nothing waits for a confirmation")]
    NothingToConfirm,
    /// Another generation's changes wait than the one that was confirmed.
    #[error("what waits for a confirmation is of generation {0}; look at it again")]
    OtherGeneration(u64),
    /// Nothing has this id.
    #[error("no container has the id {0}")]
    NotFound(ContainerId),
    /// The node runs as many as it may.
    #[error("this node is to run {0} containers at most (containers.max)")]
    TooMany(usize),
    /// The disk did not take it; nothing was changed.
    #[error("the state on disk cannot be written")]
    Disk(#[source] std::io::Error),
    /// The name is that of a record that this version cannot read.
    #[error(
        "container {0} is stored in a format that this agent cannot read; \
         it is left running and cannot be changed"
    )]
    UnreadableRecord(ContainerName),
    /// Which addresses and ports are taken is not known yet.
    #[error(
        "the stored state was damaged and is being rebuilt from what containerd holds; try again once it answers"
    )]
    Rebuilding,
    /// Another agent has the directory.
    #[error("another agent runs with the state in {}; stop it first", .0.display())]
    InUse(PathBuf),
}
