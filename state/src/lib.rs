//! Decisions of the node agent, and the state they are made on: what should run, what runs, and
//! the next step from the one to the other.
//!
//! In reading order:
//!
//! - Words: [`id`] names a container and its instances, [`reference`](mod@reference) an image,
//!   [`quantity`] an amount, [`subnet`] the addresses of containers, [`reason`] why a container is
//!   not as desired, [`failure`] a step that failed for such a reason. [`time`] and [`digest`] are
//!   their ground.
//! - Sealed: [`seal`] keeps secret values unreadable wherever they are stored.
//!   [`blobs`] keeps larger ones beside the records.
//! - Asked: [`spec`] is what was asked for one container, [`desired`] everything that was asked of
//!   the node.
//! - Rules about a change: [`ownership`] says whether a push or CHaS may make it, [`guard`] whether
//!   it waits for a person's confirmation, [`assign`] which address and ports the container gets.
//! - Callers: [`access`] says who may call, in which role, for containers of which names. [`image_order`]
//!   reads the order for an image before a container needs it. [`alarm`] says
//!   how the node is, and [`log_level`] reads the order for another level of the agent's log.
//! - Seen: [`observed`] is what one look at the runtime found, [`history`] the exits, failures and
//!   waits of a container so far.
//! - Order: [`order`] says whom a container waits for at its first start, [`surroundings`] what stands
//!   outside of it and holds it back.
//! - Node: [`cordon`] says who holds new containers back, and in which order a drain stops the others.
//! - Contact: [`contact`] says for how long CHaS has been silent, and which containers rest for that.
//! - Schedule: [`timetable`] says for which instants a cron line stands, [`due`] what follows from those
//!   that have come. It takes the wall time; nothing else decides by that.
//! - Verdict: [`phase`] says what record, observation and history of a container mean together.
//!   [`plan`] reads the next step from it, [`status`] the word that people see.
//! - Between two generations: [`update`] says which one serves, when the next one counts, and what
//!   of the one before is still needed.
//! - Told later: [`chronicle`] says what changed from one generation to the next, how each went, and
//!   which one is gone back to.
//! - Kept: [`store`] writes the desired state to disk, and carries changes out by the rules.
//!
//! This crate knows no containerd, no HTTP, no executor, and no clock: whoever decides passes
//! `now`. Everything is pure but for the store, which does I/O on its files. Doing the steps, and
//! deciding when to look again, is left to the agent.

#![cfg_attr(
    test,
    allow(
        clippy::too_many_lines,
        reason = "a row of a table stands over several lines"
    )
)]

#[macro_use]
mod stored_text;

pub mod access;
pub mod alarm;
pub mod assign;
pub mod blobs;
pub mod capacity;
pub mod chronicle;
pub mod contact;
pub mod cordon;
pub mod desired;
pub mod digest;
pub mod due;
pub mod event;
pub mod failure;
pub mod guard;
pub mod health;
pub mod history;
pub mod id;
pub mod image_order;
pub mod log_level;
pub mod observed;
pub mod order;
pub mod ownership;
pub mod phase;
pub mod plan;
pub mod policy;
pub mod quantity;
pub mod reach;
pub mod reason;
pub mod reference;
pub mod seal;
pub mod spec;
pub mod status;
pub mod store;
pub mod subnet;
pub mod surroundings;
pub mod text;
pub mod time;
pub mod timetable;
pub mod update;
