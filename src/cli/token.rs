//! Subcommand `token`: makes, lists and takes back the tokens of the API's clients.

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use state::access::Role;
use state::policy::names::NamePattern;

use crate::config::{NewToken, TokenOrder};

const AFTER_HELP: &str = "\
Works on the file of clients (api.clients_file), which the agent reads again within 12 s, or 2 s
after `systemctl reload`. The file has fingerprints only: a token is shown once, when it is made. `create`
and `revoke` write the file anew, without the comments of an editor.

Exit codes: 0 done; 64 it cannot be done, or an invalid command line or configuration.";

const CREATE_HELP: &str = "\
A second token of the same client takes the place of the first without a moment in which none is
right: create, hand it out, revoke the old one. Tokens whose time is over are taken out of the file.

Examples:
  (umask 077; chas-node-agent token create ci --role deploy --names 'web-*' --expires 90d > ci.token)
  chas-node-agent token create grafana --role read";

/// The subcommand.
pub(super) fn command() -> Command {
    let name = Arg::new("client")
        .value_name("CLIENT")
        .required(true)
        .help("Name of the client; a new one is made with its first token");
    let role = Arg::new("role")
        .long("role")
        .value_name("ROLE")
        .value_parser(Role::ALL.map(Role::as_str))
        .help("Role of a new client; each may do what those before it may");
    let names = Arg::new("names")
        .long("names")
        .value_name("NAME[,NAME]")
        .value_delimiter(',')
        .action(ArgAction::Append)
        .value_parser(|text: &str| text.parse::<NamePattern>())
        .help("Containers that a new client has to do with, such as web-*; without it, all");
    let expires = Arg::new("expires")
        .long("expires")
        .value_name("DURATION")
        .value_parser(time)
        .help("Time after which the token is worth nothing, such as 90d; without it, never");
    let create = Command::new("create")
        .about("Makes a token, and prints it")
        .after_help(CREATE_HELP)
        .args([name, role, names, expires]);
    let what = Arg::new("what")
        .value_name("TOKEN-ID|CLIENT")
        .required(true)
        .help("Id of a token, as `token list` shows it; or a client, with all its tokens");
    let revoke = Command::new("revoke")
        .about("Takes back a token, or a client with all that it has")
        .arg(what);
    Command::new("token")
        .about("Makes, lists and takes back tokens of the API's clients")
        .after_help(AFTER_HELP)
        .subcommand_required(true)
        .subcommands([
            create,
            Command::new("list").about("Lists clients, and the ids of their tokens"),
            revoke,
        ])
}

fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time.is_zero() {
        return Err("it would be worth nothing from the beginning".to_owned());
    }
    Ok(time)
}

/// The order that the command line gives.
pub(super) fn order(below: &ArgMatches) -> TokenOrder {
    let text = |matches: &ArgMatches, name| matches.get_one::<String>(name).cloned();
    match below.subcommand() {
        Some(("create", create)) => {
            let role = text(create, "role");
            let role = role.and_then(|word| Role::ALL.into_iter().find(|r| r.as_str() == word));
            let names = create.get_many::<NamePattern>("names");
            TokenOrder::Create(NewToken {
                name: text(create, "client").unwrap_or_default(),
                role,
                names: names.into_iter().flatten().cloned().collect(),
                expires_in: create.get_one::<Duration>("expires").copied(),
            })
        }
        Some(("revoke", revoke)) => TokenOrder::Revoke(text(revoke, "what").unwrap_or_default()),
        // clap requires a subcommand, and knows no other.
        _ => TokenOrder::List,
    }
}
