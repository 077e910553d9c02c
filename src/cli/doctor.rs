//! `doctor`, on the command line.

use clap::{Arg, ArgAction, Command};

/// Name of the flag for JSON.
pub(super) const JSON: &str = "json";

const AFTER_HELP: &str = "\
It reads the same configuration as the agent, and changes nothing. It works beside an agent that runs, whose
alarms it shows, and without one. As another user than root it says what it could not look at.

Examples:
  chas-node-agent doctor
  chas-node-agent doctor --config /etc/chas/node-agent.yaml
  chas-node-agent doctor --json | jq '.checks[] | select(.verdict == \"fail\")'

Exit codes: 0 nothing is at fault, though there may be warnings; 1 a check is at fault.";

/// The command.
pub(super) fn command() -> Command {
    Command::new("doctor")
        .about("Checks all that the agent needs of this node, and says what would help")
        .after_help(AFTER_HELP)
        .arg(json())
}

/// The flag for JSON.
pub(super) fn json() -> Arg {
    Arg::new(JSON)
        .long("json")
        .action(ArgAction::SetTrue)
        .help("Answers as JSON, for programs")
}
