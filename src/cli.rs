//! Parser of the command line; flags and help are made from the table of configuration keys.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::PathBufValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use state::desired::Owner;

use crate::config::keys::{ConfigKey, KEYS};
use crate::config::{DEFAULT_FILE, FILE_VARIABLE, Flags, TokenOrder};
use crate::operator::AgentAddress;

mod audit;
mod policy;
mod token;

const AFTER_HELP: &str = "\
Each value is taken from the first of: its flag, its environment variable, its key in the
configuration file, its default. An empty variable counts as unset. `config check` shows every
value with its origin, and every error, and starts nothing.

Exit codes: 0 stopped as asked; 1 failed; 64 invalid command line or configuration.";

const CONFIRM_HELP: &str = "\
A set from CHaS that leaves out more than two containers and more than 30 % of those that run
for CHaS, or that has another epoch (as after a restore of its database), removes nothing until
it is confirmed. This command asks the agent which containers await a confirmation, shows them,
and confirms their removal. It calls the agent on this host by its socket, agent.sock in
state.run_dir, as root; no token goes to anybody. With --address, the agent's token does.

Exit codes: 0 confirmed, or nothing to confirm; 1 the agent does not answer or refuses;
64 invalid command line.";

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
        /// Order about it.
        order: TokenOrder,
    },
    /// Confirms the removals that await a confirmation, or only lists them.
    Confirm {
        /// Flags, for the directories of the agent.
        flags: Flags,
        /// Way to the agent.
        address: AgentAddress,
        /// Whether to list them only.
        only_list: bool,
    },
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

/// Parses the command line, which begins with the program's name.
///
/// # Errors
/// A [`Usage`] to print.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, Usage> {
    let matches = command()
        .try_get_matches_from(args)
        .map_err(|error| Usage {
            text: error.render().to_string(),
            asked_for: !error.use_stderr(),
        })?;
    Ok(match matches.subcommand() {
        Some(("version", _)) => Invocation::Version,
        // clap requires a subcommand of `config`, and `check` is the only one.
        Some(("config", below)) => {
            Invocation::ConfigCheck(flags(below.subcommand_matches("check").unwrap_or(below)))
        }
        Some(("audit", below)) => {
            Invocation::AuditVerify(flags(below.subcommand_matches("verify").unwrap_or(below)))
        }
        Some(("policy", below)) => {
            let check = below.subcommand_matches("check").unwrap_or(below);
            let (body, owner) = policy::trial(check);
            let flags = flags(check);
            Invocation::PolicyCheck { flags, body, owner }
        }
        Some(("token", below)) => Invocation::Token {
            flags: flags(below.subcommand().map_or(below, |(_, below)| below)),
            order: token::order(below),
        },
        Some(("confirm", below)) => Invocation::Confirm {
            flags: flags(below),
            address: address(below),
            only_list: below.get_flag("list"),
        },
        Some((_, below)) => Invocation::Run(flags(below)),
        None => Invocation::Run(flags(&matches)),
    })
}

/// The output of `version`.
#[must_use]
pub fn version() -> String {
    format!("{} {}\n", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
}

/// The whole command line, also for manual pages and completions.
pub fn command() -> Command {
    let check = Command::new("check")
        .about("Shows every value with its origin, and every error; exits with 64 if there is one");
    let config = Command::new("config")
        .about("Checks the configuration")
        .subcommand_required(true)
        .subcommand(check);
    let list = Arg::new("list")
        .long("list")
        .action(ArgAction::SetTrue)
        .help("Only list the containers that await a confirmation");
    let confirm = Command::new("confirm")
        .about(
            "Confirms the removal of containers that CHaS no longer lists, where too many are \
             missing at once",
        )
        .after_help(CONFIRM_HELP)
        .arg(list)
        .args(address_arguments());
    Command::new(env!("CARGO_PKG_NAME"))
        .version(env!("CARGO_PKG_VERSION"))
        .about("Keeps the containers of a CHaS node running on containerd")
        .after_help(AFTER_HELP)
        .args(KEYS.iter().filter_map(argument))
        .arg(file_argument())
        .subcommand(Command::new("run").about("Runs the agent; the default without a subcommand"))
        .subcommand(config)
        .subcommand(confirm)
        .subcommand(policy::command())
        .subcommand(audit::command())
        .subcommand(token::command())
        .subcommand(Command::new("version").about("Shows the version"))
}

fn address_arguments() -> [Arg; 5] {
    let address = Arg::new("address")
        .long("address")
        .value_name("URL")
        .help("Call the agent at https://HOST:PORT instead of by its socket");
    let insecure = Arg::new("insecure")
        .long("insecure")
        .action(ArgAction::SetTrue)
        .requires("address")
        .help("Give the token to whoever has that port of this host, without TLS");
    let ca_file = Arg::new("ca-file")
        .long("ca-file")
        .value_name("PATH")
        .value_parser(PathBufValueParser::new())
        .requires("address")
        .help("File of CA certificates (PEM) to trust for that, instead of the system's");
    let file = |name: &'static str, other: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("PATH")
            .value_parser(PathBufValueParser::new())
            .requires("address")
            .requires(other)
            .help(help)
    };
    let certificate =
        "File of the certificate (PEM) by which the agent knows who calls, in place of its token";
    let cert_file = file("cert-file", "key-file", certificate);
    let key_file = file(
        "key-file",
        "cert-file",
        "File of the private key (PEM) of --cert-file",
    );
    [address, insecure, ca_file, cert_file, key_file]
}

fn address(matches: &ArgMatches) -> AgentAddress {
    let path = |name| matches.get_one::<PathBuf>(name).cloned();
    let network = |address: &String| AgentAddress::Network {
        address: address.clone(),
        insecure: matches.get_flag("insecure"),
        ca_file: path("ca-file"),
        identity: path("cert-file").zip(path("key-file")),
    };
    let given = matches.get_one::<String>("address");
    given.map_or(AgentAddress::Socket, network)
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

fn flags(matches: &ArgMatches) -> Flags {
    let given =
        |key: &'static ConfigKey| Some((key.name, matches.get_one::<String>(key.name)?.clone()));
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
    use state::access::Role;

    use super::*;
    use crate::config::NewToken;

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
        assert!(matches!(
            parsed("agent policy check --owner chas body.yaml --policy-file /p"),
            Ok(Invocation::PolicyCheck { flags, body: Some(_), owner: Owner::Chas })
                if flags.values["policy.file"] == "/p"
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
        let Ok(Invocation::Confirm {
            address, only_list, ..
        }) = parsed("agent confirm --port 7 --list")
        else {
            panic!()
        };
        assert!(only_list && address == AgentAddress::Socket);
        let Ok(Invocation::Confirm { address, .. }) =
            parsed("agent confirm --address 127.0.0.1:7 --insecure")
        else {
            panic!()
        };
        assert_eq!(
            address,
            AgentAddress::Network {
                address: "127.0.0.1:7".to_owned(),
                insecure: true,
                ca_file: None,
                identity: None
            }
        );
    }

    #[test]
    fn an_invalid_command_line_is_refused_with_a_suggestion() {
        for line in [
            "agent --prot 1",
            "agent confg check",
            "agent config",
            "agent --token x",
            "agent --port",
            "agent confirm --insecure",
            "agent confirm --ca-file /c",
            "agent confirm --address https://h --cert-file /c",
            "agent token",
            "agent token create",
            "agent token create ci --role root",
            "agent token create ci --names *x",
            "agent token create ci --expires 0s",
            "agent token revoke",
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
