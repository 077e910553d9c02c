//! The agent that keeps a node's containers running: the desired state is on disk, the running containers are in containerd,
//! and the agent takes the steps between, for ever.
//!
//! ```text
//!  CHaS <--poll, report--> chas --+
//!                                 v
//!  HTTP <----------------> api --> node --> state::Store --wake--> reconcile --step--> runtime::containerd --> containerd
//!                                   ^                                |   ^                 |    |    |
//!                                   +---- view <------ board --------+   +---- events -----+  network logs (the logger)
//! ```
//!
//! # Who decides what
//!
//! [`state::plan`] says *what* the next step for a container is: a pure function of its record, one look and the time.
//! [`reconcile::queue`] says *when* a container has its turn. [`runtime`] says *how* a step is done. Every step may be
//! repeated, and every state that a crash can leave is one that a look can see; so there is no recovery, only another look.
//!
//! # What is not known where
//!
//! - [`api`] cannot start a container. It changes what is desired through [`api::NodeApi`], and renders [`view`], the read
//!   model, as JSON.
//! - [`chas`] cannot either: it is to CHaS what [`api`] is to whoever pushes, and on no way of the reconciler. The unconfirmed
//!   part of a set is [`state::guard`]'s.
//! - `node` answers both, from the store and the reconciler's board; neither knows of the other.
//! - [`reconcile`] knows no containerd: only the trait [`runtime::Runtime`]. It never reads why it was woken.
//! - [`network`] and [`logs`] know no containerd, and not each other. [`registry`] (where images come
//!   from) and [`oci`] (the spec of a container) know neither of them, and no runtime.
//! - Nothing outside [`runtime::containerd`] names a gRPC type, nothing outside [`config`] reads the environment, nothing
//!   outside [`api::error`] makes a failure into a status code, nothing but `main` ends the process.
//! - No decision uses the wall clock: [`reconcile::Clock`] is `CLOCK_BOOTTIME`, and tests stop it.
//! - [`metrics`] knows nothing of ours: whoever counts names what it counted, in words of closed sets.
//! - [`journal`] takes each fact once ([`state::event`]), and is the only one to log, count and keep it.
//! - Only [`agent`] knows everything: it builds the rooms, starts them, and stops them in order. No container is stopped
//!   when the agent is.
//!
//! `tests/it/house_rules.rs` holds these directions.
//!
//! # What is written first
//!
//! Persist, then publish, then act, then answer: a deploy is synced to disk by [`state::store`] before the reconciler or
//! the caller hears of it. [`writer`] is the only way there for async code. In containerd, a container is made before
//! its snapshot and task, and deleted after them.
//!
//! # What is written three times
//!
//! sled holds the desired state; two checksummed files beside it hold it again, a tenth of a second later; and the labels of
//! each container in containerd hold its record a third time. A start takes the newest copy that is intact, quarantines the
//! rest, and says what it lost. As long as something may be missing ([`state::desired::set::Adoption`]) nothing counts as
//! unwanted, so no loss of the agent's files stops a container.

#![cfg_attr(
    test,
    allow(
        clippy::too_many_lines,
        reason = "a row of a table stands over several lines"
    )
)]

pub mod agent;

pub mod reconcile;
pub mod runtime;

pub mod network;

pub mod oci;
pub mod registry;

pub mod logs;

pub mod api;

pub mod chas;

pub mod cli;
pub mod config;

pub mod backoff;
pub mod cause;
pub mod journal;
mod lock;
pub mod lookup;
pub mod metrics;
pub mod monitor;
mod node;
pub mod notify;
pub mod operator;
pub mod shutdown;
pub mod telemetry;
pub mod view;
pub mod writer;
