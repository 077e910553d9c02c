//! Parser of the command line; flags and help are made from the table of configuration keys.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgMatches, Args as _, Command, FromArgMatches as _, Subcommand as _};
use state::desired::Owner;

use crate::client::{ClientOrder, WayFlags};
use crate::config::keys::KEYS;
use crate::config::{Flags, TokenOrder};
use crate::doctor::BundleOrder;
use crate::uninstall::UninstallOrder;

mod audit;
pub mod completion;
mod daemon;
mod doctor;
mod groups;
mod policy;
mod token;
mod uninstall;

use completion::Shell;
use daemon::flags;

/// The command that the command line asks for.
#[derive(Clone, Debug)]
pub enum Invocation {
    /// Runs the agent.
    Run(Flags),
    /// Shows the configuration and its errors.
    ConfigCheck(Flags),
    /// Verifies the audit.
    AuditVerify(Flags),
    /// Tries the policy, and a body by it.
    PolicyCheck {
        /// Flags, for the policy's file.
        flags: Flags,
        /// File of the body to try. `None`: the policy alone.
        body: Option<PathBuf>,
        /// Sender of the body.
        owner: Owner,
    },
    /// Makes, lists or takes back tokens.
    Token {
        /// Flags, for the file of clients.
        flags: Flags,
        /// ClientOrder about it.
        order: TokenOrder,
    },
    /// Checks the node.
    Doctor {
        /// Flags, for the agent's configuration.
        flags: Flags,
        /// Whether the answer is JSON.
        json: bool,
    },
    /// Packs a bundle for maintainers.
    SupportBundle {
        /// Flags, for the agent's configuration.
        flags: Flags,
        /// The order.
        order: BundleOrder,
    },
    /// Removes what the agent made.
    Uninstall {
        /// Flags, for the agent's configuration.
        flags: Flags,
        /// The order.
        order: UninstallOrder,
    },
    /// Carries out an order to an agent.
    Client {
        /// The order.
        order: Box<ClientOrder>,
        /// Whom to call.
        way: Box<WayFlags>,
        /// Flags, for the directories of this host's agent.
        flags: Flags,
    },
    /// Shows all commands.
    Help,
    /// Prints the script by which a shell completes command lines.
    Completion(Shell),
    /// Writes manual pages into a directory.
    Manual(PathBuf),
    /// Shows the version.
    Version,
}

/// Text to print in place of an invocation: requested help, or an error of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Text to print; ends with a newline.
    pub text: String,
    /// Whether help was requested: it goes to stdout, with exit code 0. Otherwise to stderr, with
    /// exit code 64.
    pub asked_for: bool,
}

/// Parses the command line, which begins with the program's name. `is_asked`: a person waits for what a
/// bare call prints.
///
/// # Errors
/// A [`Usage`] to print.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    is_asked: bool,
) -> Result<Invocation, Usage> {
    let args: Vec<_> = args.into_iter().collect();
    if args.len() <= 1 && is_asked {
        return Ok(Invocation::Help);
    }
    let is_of_daemon = args.len() <= 1 || is_of_daemon(&args[1..]);
    let command = match is_of_daemon {
        true => daemon::alone(env!("CARGO_PKG_NAME")),
        false => command(),
    };
    let usage = |error: clap::Error| Usage {
        text: error.render().to_string(),
        asked_for: !error.use_stderr(),
    };
    let matches = command.try_get_matches_from(args).map_err(usage)?;
    if let Some((name, below)) = matches.subcommand()
        && !is_of_daemon
        && ClientOrder::has_subcommand(name)
    {
        let deepest = deepest(below);
        return Ok(Invocation::Client {
            order: Box::new(ClientOrder::from_arg_matches(&matches).map_err(usage)?),
            way: Box::new(WayFlags::from_arg_matches(deepest).map_err(usage)?),
            flags: flags(deepest),
        });
    }
    Ok(of_host(&matches))
}

/// The invocation of a command that works on this host.
fn of_host(matches: &ArgMatches) -> Invocation {
    match matches.subcommand() {
        Some(("version", _)) => Invocation::Version,
        Some(("completion", below)) => Invocation::Completion(completion::shell(below)),
        Some(("man", below)) => Invocation::Manual(completion::directory(below)),
        // clap requires a subcommand of `config`, and `check` is the only one.
        Some(("config", below)) => Invocation::ConfigCheck(flags(deepest(below))),
        Some(("doctor", below)) => Invocation::Doctor {
            flags: flags(below),
            json: below.get_flag(doctor::JSON),
        },
        Some(("support-bundle", below)) => Invocation::SupportBundle {
            flags: flags(below),
            order: doctor::bundle_order(below),
        },
        Some(("uninstall", below)) => Invocation::Uninstall {
            flags: flags(below),
            order: uninstall::order(below),
        },
        Some(("audit", below)) => Invocation::AuditVerify(flags(deepest(below))),
        Some(("policy", below)) => {
            let check = deepest(below);
            let (body, owner) = policy::trial(check);
            let flags = flags(check);
            Invocation::PolicyCheck { flags, body, owner }
        }
        Some(("token", below)) => Invocation::Token {
            flags: flags(deepest(below)),
            order: token::order(below),
        },
        Some((_, below)) => Invocation::Run(flags(below)),
        None => Invocation::Run(flags(matches)),
    }
}

/// Matches of the last of the subcommands, which has the global flags too.
fn deepest(matches: &ArgMatches) -> &ArgMatches {
    let below = matches.subcommand();
    below.map_or(matches, |(_, below)| deepest(below))
}

/// Whether a command line is one of the daemon's: bare, or as it was before there were orders, with the
/// daemon's flags first or behind `run`.
fn is_of_daemon(args: &[OsString]) -> bool {
    let name = |arg: &OsString| {
        let flag = arg.to_str()?.strip_prefix("--")?;
        Some(flag.split('=').next().unwrap_or(flag).to_owned())
    };
    let is_flag = |name: &str| name == "config" || KEYS.iter().any(|key| key.flag == Some(name));
    let runs = |name: &str| {
        let orders = ClientOrder::augment_subcommands(Command::new("orders"));
        let run = orders.find_subcommand("run").cloned().unwrap_or_default();
        let run = WayFlags::augment_args(run);
        run.get_arguments()
            .any(|flag| flag.get_long() == Some(name))
    };
    match args {
        [] => true,
        [first] if first == "run" => true,
        [first, second, ..] if first == "run" => {
            name(second).is_some_and(|name| is_flag(&name) && !runs(&name))
        }
        [first, ..] => name(first).is_some_and(|name| is_flag(&name)),
    }
}

/// The output of `version`.
#[must_use]
pub fn version() -> String {
    format!("{} {}\n", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
}

/// The whole command line, also for manual pages and completions.
pub fn command() -> Command {
    let order = ClientOrder::augment_subcommands(Command::new("orders"));
    let orders = order.get_subcommands().map(|order| {
        // The flags have a description of their own, which is not the order's.
        let about = order.get_about().cloned().unwrap_or_default();
        let order = WayFlags::augment_args(order.clone()).about(about);
        order.args(daemon::place_arguments())
    });
    let version = Command::new("version").about("Shows the version");
    let all = orders.collect::<Vec<_>>().into_iter();
    let all = all
        .chain([daemon::command()])
        .chain(daemon::host_commands(true))
        .chain([version])
        .chain(completion::commands());
    let command = Command::new(env!("CARGO_PKG_NAME"))
        .version(env!("CARGO_PKG_VERSION"))
        .about("Keeps the containers of a CHaS node running on containerd")
        .subcommand_required(true)
        .subcommands(all);
    groups::arranged(command)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use state::access::Role;

    use super::*;
    use crate::config::NewToken;

    fn parsed(line: &str) -> Result<Invocation, Usage> {
        parse(line.split_whitespace().map(OsString::from), false)
    }

    #[test]
    fn the_command_is_well_formed_and_its_help_teaches_every_key() {
        command().debug_assert();
        let help = parsed("agent daemon --help").unwrap_err();
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
        assert!(matches!(
            parsed("agent policy check --owner chas body.yaml --policy-file /p"),
            Ok(Invocation::PolicyCheck { flags, body: Some(_), owner: Owner::Chas })
                if flags.values["policy.file"] == "/p"
        ));
        assert!(matches!(
            parsed("agent doctor --json --state-dir /s"),
            Ok(Invocation::Doctor { flags, json: true }) if flags.values["state.dir"] == "/s"
        ));
        assert!(matches!(
            parsed("agent support-bundle -o /b --log-lines 5 --config /c"),
            Ok(Invocation::SupportBundle { flags, order })
                if flags.file.is_some() && order.log_lines == 5 && !order.container_logs
        ));
        assert!(matches!(
            parsed("agent uninstall --yes --keep-volumes"),
            Ok(Invocation::Uninstall { order, .. })
                if order.yes && !order.dry_run && !order.volumes
        ));
        assert!(matches!(parsed("agent version"), Ok(Invocation::Version)));
        let create =
            "agent token create ci --role deploy --names web-*,api --expires 90d --clients-file /c";
        let Ok(Invocation::Token { flags, order }) = parsed(create) else {
            panic!()
        };
        assert_eq!(flags.values["api.clients_file"], "/c");
        let names = ["web-*", "api"].map(|name| name.parse().unwrap());
        let new = NewToken {
            name: "ci".to_owned(),
            role: Some(Role::Deploy),
            names: names.into(),
            expires_in: Some(std::time::Duration::from_hours(90 * 24)),
        };
        assert_eq!(order, TokenOrder::Create(new));
        assert!(matches!(
            parsed("agent token revoke ci"),
            Ok(Invocation::Token { order: TokenOrder::Revoke(what), .. }) if what == "ci"
        ));
        let Ok(Invocation::Client { order, flags, .. }) =
            parsed("agent confirm --list --run-dir /r")
        else {
            panic!()
        };
        assert!(matches!(*order, ClientOrder::Confirm { list: true }));
        assert_eq!(flags.values["state.run_dir"], "/r");
        assert!(matches!(
            parse(["agent".into()], true),
            Ok(Invocation::Help)
        ));
        for line in [
            "agent run -d nginx",
            "agent run --hostname web nginx",
            "agent ps --json",
        ] {
            assert!(
                matches!(parsed(line), Ok(Invocation::Client { .. })),
                "{line}"
            );
        }
    }

    #[test]
    fn an_invalid_command_line_is_refused_with_a_suggestion() {
        for line in [
            "agent --prot 1",
            "agent confg check",
            "agent config",
            "agent --token x",
            "agent --port",
            "agent confirm --host https://h --cert-file /c",
            "agent confirm --host https://h --context c",
            "agent logs",
            "agent exec web",
            "agent token",
            "agent token create",
            "agent token create ci --role root",
            "agent token create ci --names *x",
            "agent token create ci --expires 0s",
            "agent token revoke",
            "agent uninstall --volumes --keep-volumes",
        ] {
            assert!(!parsed(line).unwrap_err().asked_for, "{line}");
        }
        assert!(
            parsed("agent daemon --prot 1")
                .unwrap_err()
                .text
                .contains("--port")
        );
    }
}
