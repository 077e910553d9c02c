//! What should run on a node, what was seen running, and the step between them.
//!
//! In reading order: [`spec`] says what one container is asked to be, [`desired`] what the node is asked to
//! run, [`ownership`] who may change that, [`observed`] what one look at the runtime found, [`plan`] the next step from the
//! one to the other, and [`store`] keeps the desired state on disk.
//!
//! What this crate does *not* know: containerd, HTTP, an executor, and the time. Nothing here reads a clock:
//! whoever decides passes `now`. The only I/O is the store's.

#![cfg_attr(
    test,
    allow(
        clippy::too_many_lines,
        reason = "a row of a table stands over several lines"
    )
)]

pub mod assign;
pub mod digest;
pub mod event;
pub mod failure;
pub mod guard;
pub mod history;
pub mod id;
pub mod observed;
pub mod ownership;
pub mod phase;
pub mod plan;
pub mod quantity;
pub mod reason;
pub mod reference;
pub mod spec;
pub mod status;
pub mod store;
pub mod subnet;
pub mod time;

pub mod desired;
