//! Flags of the daemon, made from the table of configuration keys, and the commands that read the same
//! configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::builder::PathBufValueParser;
use clap::{Arg, ArgMatches, Command};

use super::{audit, doctor, policy, token, uninstall};
use crate::config::keys::{ConfigKey, KEYS};
use crate::config::{DEFAULT_FILE, FILE_VARIABLE, Flags};

const AFTER_HELP: &str = "\
Each value is taken from the first of: its flag, its environment variable, its key in the
configuration file, its default. An empty variable counts as unset. `config check` shows every
value with its origin, and every error, and starts nothing.

Exit codes: 0 stopped as asked; 1 failed; 64 invalid command line or configuration.";

/// The command that runs the agent.
pub(super) fn command() -> Command {
    Command::new("daemon")
        .about("Runs the agent, as systemd does")
        .after_help(AFTER_HELP)
        .args(KEYS.iter().filter_map(argument))
        .arg(file_argument())
}

/// The command line of the daemon alone, with its flags anywhere.
pub(super) fn alone(name: &'static str) -> Command {
    Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .about("Runs the agent")
        .after_help(AFTER_HELP)
        .args(KEYS.iter().filter_map(argument))
        .arg(file_argument())
        .subcommand(Command::new("run").about("Runs the agent"))
        .subcommand(Command::new("version").about("Shows the version"))
        .subcommands(host_commands(false))
}

/// Commands that work on this host's files, without the agent. `with_flags`: they bring the daemon's
/// flags with them.
pub(super) fn host_commands(with_flags: bool) -> impl Iterator<Item = Command> {
    let check = Command::new("check")
        .about("Shows every value with its origin, and every error; exits with 64 if there is one");
    let config = Command::new("config")
        .about("Checks the configuration")
        .subcommand_required(true)
        .subcommand(check);
    let commands = [
        config,
        doctor::command(),
        doctor::bundle_command(),
        uninstall::command(),
        policy::command(),
        audit::command(),
        token::command(),
    ];
    commands.into_iter().map(move |command| match with_flags {
        true => command.args(hidden_arguments()),
        false => command,
    })
}

/// Flags that say where this host's agent is.
pub(super) fn place_arguments() -> impl Iterator<Item = Arg> {
    let places = ["state.run_dir", "state.dir"];
    hidden_arguments().filter(move |argument| {
        let name = argument.get_id().as_str();
        name == "config" || places.contains(&name)
    })
}

/// The daemon's flags, where they are of use and would only be in the way of the help.
fn hidden_arguments() -> impl Iterator<Item = Arg> {
    let all = KEYS.iter().filter_map(argument).chain([file_argument()]);
    all.map(|argument| argument.hide(true))
}

fn file_argument() -> Arg {
    let help = format!(
        "Configuration file, YAML; a file named here must exist [env: {FILE_VARIABLE}] [default: \
         {DEFAULT_FILE}]"
    );
    Arg::new("config")
        .long("config")
        .value_name("PATH")
        .value_parser(PathBufValueParser::new())
        .help(help)
        .global(true)
}

fn argument(key: &'static ConfigKey) -> Option<Arg> {
    let help = format!(
        "{} [env: {}] [file: {}] [default: {}]",
        key.doc,
        key.env,
        key.name,
        key.default_text()
    );
    // The parser of the value refuses one such as -1, with the reason.
    Some(
        Arg::new(key.name)
            .long(key.flag?)
            .value_name(key.value)
            .help(help)
            .global(true)
            .allow_hyphen_values(true),
    )
}

pub(super) fn flags(matches: &ArgMatches) -> Flags {
    let given = |key: &'static ConfigKey| {
        Some((
            key.name,
            matches.try_get_one::<String>(key.name).ok()??.clone(),
        ))
    };
    let values: BTreeMap<_, _> = KEYS
        .iter()
        .filter(|key| key.flag.is_some())
        .filter_map(given)
        .collect();
    Flags {
        file: matches.get_one::<PathBuf>("config").cloned(),
        values,
    }
}
