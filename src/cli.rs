//! The command line: what is to be done, and the flags. Help and flags are made from the table of configuration keys.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::PathBufValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::keys::{KEYS, Key};
use crate::config::{DEFAULT_FILE, FILE_VARIABLE, Flags};

const AFTER_HELP: &str = "\
A flag wins over its environment variable, that over the file, that over the default. An empty variable counts as unset.
`config check` shows every value with where it came from, and everything that is wrong, and starts nothing.

Exit codes: 0 ended as asked to; 1 failed; 64 the command line or the configuration is wrong.";

const CONFIRM_HELP: &str = "\
A set that CHaS lists and that leaves out more than two and more than 30 % of what runs for it, or that is of another epoch
(its database was restored), is held as far as it would end something. This asks the agent that runs on this host what waits,
shows it, and confirms just that. Exit codes: 0 done, or nothing waits; 1 the agent cannot be asked; 64 the command line is
wrong.";

/// What the process was asked to do.
#[derive(Clone, Debug)]
pub enum Invocation {
    /// Be the agent.
    Run(Flags),
    /// Show the configuration and its faults.
    ConfigCheck(Flags),
    /// Confirm what of the set that CHaS lists is held, or only show it.
    Confirm {
        /// Where the agent is.
        flags: Flags,
        /// Only show it.
        only_list: bool,
    },
    /// Show the version.
    Version,
}

/// Not an invocation: help that was asked for, or a command line that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What to print; ends with a newline.
    pub text: String,
    /// Help was asked for: it belongs on stdout and is no failure. Otherwise stderr, and exit code 64.
    pub asked_for: bool,
}

/// Reads the command line, the program's name first.
///
/// # Errors
/// There is nothing to do but to print the [`Usage`].
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, Usage> {
    let matches = command()
        .try_get_matches_from(args)
        .map_err(|error| Usage {
            text: error.render().to_string(),
            asked_for: !error.use_stderr(),
        })?;
    Ok(match matches.subcommand() {
        Some(("version", _)) => Invocation::Version,
        // `check` is the only thing that can be done with `config`, and clap insists on one.
        Some(("config", below)) => {
            Invocation::ConfigCheck(flags(below.subcommand_matches("check").unwrap_or(below)))
        }
        Some(("confirm", below)) => Invocation::Confirm {
            flags: flags(below),
            only_list: below.get_flag("list"),
        },
        Some((_, below)) => Invocation::Run(flags(below)),
        None => Invocation::Run(flags(&matches)),
    })
}

/// The line that `version` prints.
#[must_use]
pub fn version() -> String {
    format!("{} {}\n", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
}

/// The whole command, also for making manual pages and completions.
pub fn command() -> Command {
    let check = Command::new("check").about(
        "Shows every value, where it came from, and everything that is wrong; exits 0 or 64",
    );
    let config = Command::new("config")
        .about("Looks at the configuration")
        .subcommand_required(true)
        .subcommand(check);
    let list = Arg::new("list")
        .long("list")
        .action(ArgAction::SetTrue)
        .help("Only shows what waits");
    let confirm = Command::new("confirm")
        .about(
            "Lets CHaS end what it no longer lists, where that was too much at once to be believed",
        )
        .after_help(CONFIRM_HELP)
        .arg(list);
    Command::new(env!("CARGO_PKG_NAME"))
        .version(env!("CARGO_PKG_VERSION"))
        .about("Keeps the containers of a CHaS node running on containerd")
        .after_help(AFTER_HELP)
        .args(KEYS.iter().filter_map(argument))
        .arg(file_argument())
        .subcommand(
            Command::new("run").about("Runs the agent; what happens without a subcommand, too"),
        )
        .subcommand(config)
        .subcommand(confirm)
        .subcommand(Command::new("version").about("Shows the version"))
}

fn file_argument() -> Arg {
    let help = format!(
        "The configuration file; if named, it must exist [env: {FILE_VARIABLE}] [default: {DEFAULT_FILE}]"
    );
    Arg::new("config")
        .long("config")
        .value_name("PATH")
        .value_parser(PathBufValueParser::new())
        .help(help)
        .global(true)
}

fn argument(key: &'static Key) -> Option<Arg> {
    let help = format!(
        "{} [env: {}] [file: {}] [default: {}]",
        key.doc,
        key.env,
        key.name,
        key.default_text()
    );
    // A value such as -1 is for us to refuse, with the reason.
    Some(
        Arg::new(key.name)
            .long(key.flag?)
            .value_name(key.value)
            .help(help)
            .global(true)
            .allow_hyphen_values(true),
    )
}

fn flags(matches: &ArgMatches) -> Flags {
    let given = |key: &'static Key| Some((key.name, matches.get_one::<String>(key.name)?.clone()));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, Usage> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_command_is_well_formed_and_its_help_teaches_every_key() {
        command().debug_assert();
        let help = parsed("agent --help").unwrap_err();
        assert!(help.asked_for);
        for key in KEYS.iter().filter(|key| !key.is_secret()) {
            for word in [key.name, key.env, key.flag.unwrap()] {
                assert!(help.text.contains(word), "{word}");
            }
        }
    }

    #[test]
    fn flags_may_stand_before_and_behind_the_subcommand() {
        for line in [
            "agent --port 1 --config /c",
            "agent run --port 1 --config /c",
            "agent --port 1 run --config=/c",
        ] {
            let Ok(Invocation::Run(flags)) = parsed(line) else {
                panic!("{line}")
            };
            assert_eq!(
                flags.values,
                BTreeMap::from([("api.port", "1".to_owned())]),
                "{line}"
            );
            assert_eq!(flags.file, Some("/c".into()), "{line}");
        }
        let Ok(Invocation::ConfigCheck(flags)) = parsed("agent config check --port -1") else {
            panic!()
        };
        assert_eq!(flags.values["api.port"], "-1");
        assert!(matches!(parsed("agent"), Ok(Invocation::Run(flags)) if flags.values.is_empty()));
        assert!(matches!(parsed("agent version"), Ok(Invocation::Version)));
        assert!(matches!(
            parsed("agent confirm --port 7 --list"),
            Ok(Invocation::Confirm {
                only_list: true,
                ..
            })
        ));
    }

    #[test]
    fn what_is_no_command_line_is_refused_with_what_was_meant() {
        for line in [
            "agent --prot 1",
            "agent confg check",
            "agent config",
            "agent --token x",
            "agent --port",
        ] {
            assert!(!parsed(line).unwrap_err().asked_for, "{line}");
        }
        assert!(
            parsed("agent --prot 1")
                .unwrap_err()
                .text
                .contains("--port")
        );
    }
}
