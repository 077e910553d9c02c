//! Subcommand `audit`: verifies the lines about changes.

use clap::Command;

const AFTER_HELP: &str = "\
Reads the lines in audit/ below state.dir and tells whether each is as it was written and follows the one
before. A line that a crash cut off is told too. Who can write those files as root can write them anew
from some line on; so keep the end of the chain that this command prints, or the one that the agent's
log has for each file, on another host, and compare.

Exit codes: 0 every line is in its place; 1 one is not, or the files cannot be read; 64 invalid command
line or configuration.";

/// The subcommand.
pub(super) fn command() -> Command {
    let verify = Command::new("verify")
        .about("Verifies the chain of lines about changes")
        .after_help(AFTER_HELP);
    Command::new("audit")
        .about("Looks at the lines about changes")
        .subcommand_required(true)
        .subcommand(verify)
}
