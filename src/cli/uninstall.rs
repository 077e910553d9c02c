//! `uninstall`, on the command line.

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::uninstall::UninstallOrder;

const AFTER_HELP: &str = "\
Ends the agent, and removes from this node what it made: its containers with their networks, snapshots,
images and logs, its bridge and rules, its state with keys, tokens and audit, and its own units of systemd.
containerd must run. Volumes stay, unless --volumes is given; configuration, this program and what is not
managed stay always. It may be run again: it continues where it stopped.

Examples:
  chas-node-agent uninstall --dry-run
  chas-node-agent uninstall --yes
  chas-node-agent uninstall --config /etc/chas/node-agent.yaml --volumes

Exit codes: 0 all is removed; 1 something is not, or the answer was no.";

/// The command.
pub(super) fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    let volumes = flag("volumes", "Removes volumes with all that is in them, too");
    let keep = flag("keep-volumes", "Keeps volumes, as it does anyway");
    Command::new("uninstall")
        .about("Ends the agent, and removes from this node all that it made")
        .after_help(AFTER_HELP)
        .args([
            flag("yes", "Asks no question"),
            flag(
                "dry-run",
                "Shows what would be removed, and removes nothing",
            ),
            keep.conflicts_with("volumes"),
            volumes,
        ])
}

/// The order.
pub(super) fn order(matches: &ArgMatches) -> UninstallOrder {
    UninstallOrder {
        yes: matches.get_flag("yes"),
        dry_run: matches.get_flag("dry-run"),
        volumes: matches.get_flag("volumes"),
    }
}
