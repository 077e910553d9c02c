//! `doctor` and `support-bundle`, on the command line.

use std::path::PathBuf;

use clap::builder::PathBufValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::doctor::{BundleOrder, LOG_LINES};

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

const BUNDLE_AFTER_HELP: &str = "\
It takes in the configuration (secrets masked), what doctor says, the agent's own answers (health, plan,
capacity, events, metrics, history, why containers are not as desired), the end of the agent's log, and
routes, mounts, rules and control groups of this host. Known secrets and what looks like one are taken out;
what was not there is said in manifest.json. Read it before you send it.

Examples:
  chas-node-agent support-bundle
  chas-node-agent support-bundle -o /tmp/node7.tar.zst
  tar --zstd -tf /tmp/node7.tar.zst

Exit codes: 0 written; 1 not written, or the file is there already.";

/// The command for a bundle.
pub(super) fn bundle_command() -> Command {
    let file = Arg::new("file")
        .short('o')
        .long("output")
        .value_name("FILE")
        .value_parser(PathBufValueParser::new())
        .help("File to write (.tar.zst), for you alone; one that is there is never written over");
    let lines = Arg::new("lines")
        .long("log-lines")
        .value_name("N")
        .value_parser(value_parser!(u32))
        .help(format!(
            "Last lines of the agent's log [default: {LOG_LINES}]"
        ));
    let logs = Arg::new("logs")
        .long("container-logs")
        .action(ArgAction::SetTrue)
        .help("Takes in the last lines of containers' logs, which may hold anything");
    Command::new("support-bundle")
        .about("Packs all that a maintainer needs of this node into one file, without secrets")
        .after_help(BUNDLE_AFTER_HELP)
        .args([file, lines, logs])
}

/// The order for a bundle.
pub(super) fn bundle_order(matches: &ArgMatches) -> BundleOrder {
    BundleOrder {
        file: matches.get_one::<PathBuf>("file").cloned(),
        container_logs: matches.get_flag("logs"),
        log_lines: matches.get_one("lines").copied().unwrap_or(LOG_LINES),
    }
}
