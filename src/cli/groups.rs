//! Help of the whole command line: commands by what they are for, in the order in which they are needed.

use std::fmt::Write as _;

use clap::Command;

/// Groups of commands.
const GROUPS: [(&str, &[&str]); 5] = [
    (
        "Run containers",
        &["run", "deploy", "apply", "diff", "plan"],
    ),
    (
        "Look",
        &[
            "status", "ps", "explain", "logs", "inspect", "history", "events", "stats", "top",
        ],
    ),
    (
        "Change",
        &[
            "stop", "start", "restart", "kill", "rollback", "rm", "wait", "exec", "cp", "confirm",
        ],
    ),
    (
        "Keep",
        &["images", "pull", "prune", "rmi", "volume", "secret"],
    ),
    (
        "Node",
        &[
            "cordon",
            "drain",
            "uncordon",
            "daemon",
            "doctor",
            "support-bundle",
            "uninstall",
            "config",
            "policy",
            "token",
            "audit",
            "context",
            "completion",
            "man",
            "version",
        ],
    ),
];

const EXAMPLES: &str = "\
Examples:
  chas-node-agent run -d --name web -p 8080:80 nginx:1.27
  chas-node-agent ps
  chas-node-agent explain web
  chas-node-agent exec -it web sh
  chas-node-agent daemon --help

Orders go to the agent of this host by its socket, as root. --host and --context call another one.
Exit codes: 0 done; 1 refused or failed; 2 no agent answers; 3 a difference was found (diff, confirm --list);
64 invalid command line or configuration; exec, run and wait end with the program's, or with 125.";

/// The command with such a help.
pub(super) fn arranged(command: Command) -> Command {
    let mut text = String::new();
    let about = |name: &str| {
        let found = command.find_subcommand(name)?;
        Some(found.get_about()?.to_string())
    };
    for (title, names) in GROUPS {
        writeln!(text, "{title}:").expect("writing to a string cannot fail");
        for name in names {
            let about = about(name).unwrap_or_default();
            writeln!(text, "  {name:<15} {about}").expect("writing to a string cannot fail");
        }
        text.push('\n');
    }
    let template = format!(
        "{{about}}\n\n{{usage-heading}} {{usage}}\n\n{text}Options:\n{{options}}\n\n{EXAMPLES}\n"
    );
    command.help_template(template)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cli::command;

    #[test]
    fn each_command_stands_in_one_group() {
        let grouped: Vec<_> = GROUPS.iter().flat_map(|(_, names)| *names).collect();
        let once: BTreeSet<_> = grouped.iter().map(|name| **name).collect();
        assert_eq!(once.len(), grouped.len(), "one stands twice");
        let command = command();
        let all: BTreeSet<_> = command.get_subcommands().map(Command::get_name).collect();
        assert_eq!(once, all);
        let abouts: BTreeSet<_> = command
            .get_subcommands()
            .filter_map(|one| Some(one.get_about()?.to_string()))
            .collect();
        assert_eq!(
            abouts.len(),
            all.len(),
            "each says what it does: {abouts:?}"
        );
    }

    #[test]
    fn the_page_tells_of_each_command() {
        let page = include_str!("../../contrib/docs/client.md");
        let rows: Vec<_> = page
            .lines()
            .filter(|line| line.starts_with("| `"))
            .collect();
        for name in GROUPS.iter().flat_map(|(_, names)| *names) {
            let is_told = |row: &&str| {
                let cell = row.split('|').nth(1).unwrap_or_default();
                cell.split(['`', ' ', ',']).any(|word| word == *name)
            };
            assert!(rows.iter().any(is_told), "{name}");
        }
    }
}
