//! Flags of orders about what runs in a container: `kill` and `top`.

use clap::Args;

use crate::client::names;

/// Effect of a signal, and its limits.
pub(super) const KILL_HELP: &str = "\
The signal goes to the first process, as `docker kill` sends it, and changes nothing of what is asked for: a container \
that\nends of it starts again by its restart policy. `stop` keeps it down. A first process that has no handler for a \
signal\nignores it, but for KILL and STOP.\n\nExamples:\n  chas-node-agent kill -s HUP web     # nginx reads its \
configuration again\n  chas-node-agent kill web            # SIGKILL";

/// Flags of `kill`.
#[derive(Args, Clone, Debug)]
pub struct KillFlags {
    /// Signal, as HUP, SIGHUP or 1
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub(in crate::client) signal: String,
    /// Containers, by name or id
    #[arg(required = true, value_name = "CONTAINER", add = names::containers())]
    pub(in crate::client) names: Vec<String>,
}

/// Flags of `top`.
#[derive(Args, Clone, Debug)]
pub struct TopFlags {
    /// Container, by name or id
    #[arg(value_name = "CONTAINER", add = names::containers())]
    pub(in crate::client) name: String,
    /// Shows them anew each two seconds
    #[arg(short, long)]
    pub(in crate::client) watch: bool,
}
