//! Flags of orders about images.

use std::time::Duration;

use clap::Args;

use super::duration;

/// Meaning of a pull for no container.
pub(super) const FETCH_HELP: &str = "\
By the node's own registries, credentials, policy and limits, as a container's image is pulled. An image that no \
container\nuses is removed by the agent; one that was pulled so is kept for --keep. ^C ends the pull; what has come is \
used by the\nnext one.\n\nExamples:\n  chas-node-agent pull nginx:1.27\n  chas-node-agent pull --keep 7d \
registry.example/team/app:2";

/// Flags of `pull`.
#[derive(Args, Clone, Debug)]
pub struct FetchFlags {
    /// Time for which it is kept without a container, 30d at most; by default 24h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(in crate::client) keep: Option<Duration>,
    /// Image
    #[arg(value_name = "IMAGE")]
    pub(in crate::client) image: String,
}

/// Flags of `prune`.
#[derive(Args, Clone, Debug)]
pub struct PruneFlags {
    /// Also images that `pull` is to keep for a while
    #[arg(short, long)]
    pub(in crate::client) all: bool,
    /// Only shows what would be removed
    #[arg(long)]
    pub(in crate::client) dry_run: bool,
    /// Asks no question
    #[arg(short, long)]
    pub(in crate::client) yes: bool,
}
