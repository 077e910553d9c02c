//! Subcommand `policy`: tries the policy's file, and bodies by it.

use std::path::PathBuf;

use clap::builder::PathBufValueParser;
use clap::{Arg, ArgMatches, Command};
use state::desired::Owner;

const AFTER_HELP: &str = "\
Reads the policy's file (policy.file) and, if one is named, a file with a deploy body or with a set of
them, JSON or YAML, and tells for each body whether this node would take it, with the rule that
denies it. Sums and counts are tried as on an empty node; `POST /containers/deploy?dry_run=true` knows
what runs. Nothing is sent to the agent, and nothing changes.

Exit codes: 0 the policy is valid and all is allowed; 1 a body is denied; 64 an invalid file, command
line or configuration.";

/// The subcommand.
pub(super) fn command() -> Command {
    let body = Arg::new("body")
        .value_name("FILE")
        .value_parser(PathBufValueParser::new())
        .help("Deploy body, or set of them, to try; without it, the policy alone is checked");
    let owner = Arg::new("owner")
        .long("owner")
        .value_name("OWNER")
        .value_parser(["push", "chas"])
        .default_value("push")
        .help("Sender of the body: whoever pushes to this node, or CHaS");
    let check = Command::new("check")
        .about("Checks the policy's file, and tries a body by it")
        .after_help(AFTER_HELP)
        .args([body, owner]);
    Command::new("policy")
        .about("Tries the policy of this node")
        .subcommand_required(true)
        .subcommand(check)
}

/// The body to try, and who is to be its sender.
pub(super) fn trial(check: &ArgMatches) -> (Option<PathBuf>, Owner) {
    let owner = match check.get_one::<String>("owner").map(String::as_str) {
        Some("chas") => Owner::Chas,
        _ => Owner::Push,
    };
    (check.get_one::<PathBuf>("body").cloned(), owner)
}
