//! The operator's client: orders of the command line, which go over the agent's own API like everybody's,
//! and their answers as people read them.
//!
//! It knows nothing of the agent but its API, so that it works with an older and a newer one too: what
//! an answer lacks is left out, and words that it does not know are shown as they are.

use tokio::signal::unix::{SignalKind, signal};

use crate::config::{self, Flags};

mod agent;
mod change;
mod confirm;
mod context;
mod copy;
mod deploy;
mod events;
mod exec;
mod fault;
mod images;
mod list;
mod logs;
mod look;
mod names;
mod node;
mod order;
mod run;
mod screen;
mod secrets;
mod stats;
mod table;
mod tasks;
mod terminal;
#[cfg(test)]
mod tests;
mod times;
mod volumes;

pub use context::WayFlags;
pub use fault::{EXIT_FAILED, EXIT_FOUND, EXIT_OWN, EXIT_UNREACHABLE, exit_code, is_unread};
pub use order::ClientOrder;

pub(crate) use agent::{Agent, Way};
use change::ContainerChange;
pub(crate) use screen::{Colour, Screen, asks};

/// Carries out an order; answers the exit code. `flags`: those that say where this host's agent is.
///
/// # Errors
/// No agent answers, or it refuses; or the order's own flags or files are at fault.
pub async fn carry_out(order: &ClientOrder, way: &WayFlags, flags: &Flags) -> anyhow::Result<u8> {
    let screen = Screen::new(way.json, config::environment("NO_COLOR").is_some());
    if let ClientOrder::Context = order {
        context::list(screen)?;
        return Ok(0);
    }
    let agent = &Agent::open(way.way(flags)?).await?;
    match order {
        ClientOrder::Run(flags) => return run::run(agent, flags, screen).await,
        ClientOrder::Deploy(flags) => return deploy::deploy(agent, flags, screen).await,
        ClientOrder::Apply(flags) => return deploy::apply(agent, flags, screen).await,
        ClientOrder::Diff(flags) => return deploy::diff(agent, flags, screen).await,
        ClientOrder::Exec(flags) => return exec::exec(agent, flags, screen).await,
        ClientOrder::Stop(flags) => {
            return change::all(agent, ContainerChange::Stop, flags, screen).await;
        }
        ClientOrder::Start(flags) => {
            return change::all(agent, ContainerChange::Start, flags, screen).await;
        }
        ClientOrder::Restart(flags) => {
            return change::all(agent, ContainerChange::Restart, flags, screen).await;
        }
        ClientOrder::Kill(flags) => return tasks::kill(agent, flags, screen).await,
        ClientOrder::Rm(flags) => return change::remove(agent, flags, screen).await,
        ClientOrder::Wait(flags) => return change::wait(agent, flags, screen).await,
        ClientOrder::Rollback(flags) => return change::rollback(agent, flags, screen).await,
        ClientOrder::Volume(order) => return volumes::volume(agent, order, screen).await,
        ClientOrder::Secret(order) => return secrets::secret(agent, order, screen).await,
        ClientOrder::Pull(flags) => return images::fetch(agent, flags, screen).await,
        ClientOrder::Prune(flags) => return images::prune(agent, flags, screen).await,
        ClientOrder::Rmi { images } => return images::remove(agent, images, screen).await,
        ClientOrder::Cordon => return node::order(agent, "cordon", screen).await,
        ClientOrder::Uncordon => return node::order(agent, "uncordon", screen).await,
        ClientOrder::Drain(flags) => return node::drain(agent, flags, screen).await,
        ClientOrder::Confirm { list } => return confirm::confirm(agent, *list, screen).await,
        ClientOrder::Plan => look::plan(agent, screen).await?,
        ClientOrder::Ps(flags) => list::list(agent, flags, screen).await?,
        ClientOrder::Inspect(names) => look::inspect(agent, &names.names, screen).await?,
        ClientOrder::Explain(names) => look::explain(agent, &names.names, screen).await?,
        ClientOrder::History(names) => look::history(agent, &names.names, screen).await?,
        ClientOrder::Logs(flags) => logs::logs(agent, flags, screen).await?,
        ClientOrder::Cp(flags) => copy::copy(agent, flags, screen).await?,
        ClientOrder::Stats(flags) => stats::stats(agent, flags, screen).await?,
        ClientOrder::Images => images::list(agent, screen).await?,
        ClientOrder::Top(flags) => tasks::top(agent, flags, screen).await?,
        ClientOrder::Events(flags) => events::events(agent, flags, screen).await?,
        ClientOrder::Status => look::status(agent, screen).await?,
        ClientOrder::Context => {}
    }
    Ok(0)
}

impl ClientOrder {
    /// Exit code of this order where it failed so.
    #[must_use]
    pub fn failed_with(&self, error: &anyhow::Error) -> u8 {
        match self.ends_as_program() {
            true => EXIT_OWN,
            false => exit_code(error),
        }
    }
}

/// Waits for a signal that ends the client; answers its number.
async fn interrupted() -> u8 {
    let signals = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    );
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hang_up)) = signals else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
        _ = hang_up.recv() => 1,
    }
}
