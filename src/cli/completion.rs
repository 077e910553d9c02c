//! Completion of command lines, and manual pages: both are made of the command line itself.
//!
//! `clap_complete` names its completion by the program itself "unstable": a release may change the script that
//! a shell loads, which is printed anew by each shell that starts. Only this file knows it, but for the
//! names (`client::names`).

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use clap::builder::PathBufValueParser;
use clap::{Arg, ArgMatches, Command};
use clap_complete::CompleteEnv;
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

use super::command;

/// Variable in which a shell says that it completes a line.
pub const VARIABLE: &str = "COMPLETE";

const HELP: &str = "Load it where the shell starts:
  bash   echo 'source <(chas-node-agent completion bash)' >> ~/.bashrc
  zsh    echo 'source <(chas-node-agent completion zsh)' >> ~/.zshrc
  fish   chas-node-agent completion fish > ~/.config/fish/completions/chas-node-agent.fish

Names of containers, volumes and secrets are asked of the agent that CHAS_HOST, CHAS_CONTEXT or the file of
contexts names, else of this host's.";

/// Shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// fish.
    Fish,
}

impl Shell {
    const ALL: [(&'static str, Self); 3] = [
        ("bash", Self::Bash),
        ("zsh", Self::Zsh),
        ("fish", Self::Fish),
    ];
}

/// The commands.
pub(super) fn commands() -> [Command; 2] {
    let shell = Arg::new("shell")
        .value_name("SHELL")
        .required(true)
        .value_parser(Shell::ALL.map(|(name, _)| name))
        .help("Shell that loads it");
    let directory = Arg::new("directory")
        .value_name("DIR")
        .required(true)
        .value_parser(PathBufValueParser::new())
        .help("Directory for the pages, such as /usr/local/share/man/man1");
    [
        Command::new("completion")
            .about("Prints the script by which a shell completes command lines")
            .after_help(HELP)
            .arg(shell),
        Command::new("man")
            .about("Writes manual pages into a directory")
            .arg(directory),
    ]
}

/// Shell that was asked for.
pub(super) fn shell(matches: &ArgMatches) -> Shell {
    let given = matches.get_one::<String>("shell").map(String::as_str);
    let found = Shell::ALL.iter().find(|(name, _)| Some(*name) == given);
    found.map_or(Shell::Bash, |(_, shell)| *shell)
}

/// Directory that was asked for.
pub(super) fn directory(matches: &ArgMatches) -> PathBuf {
    matches.get_one("directory").cloned().unwrap_or_default()
}

/// Whether a shell that is known completes a line, by the value of [`VARIABLE`].
#[must_use]
pub fn is_asked(value: Option<&OsStr>) -> bool {
    let names = Shell::ALL.map(|(name, _)| OsStr::new(name));
    value.is_some_and(|value| names.contains(&value))
}

/// The script that a shell loads.
#[must_use]
pub fn script(shell: Shell) -> String {
    let name = env!("CARGO_PKG_NAME");
    let mut script = Vec::new();
    let shell: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let written = shell.write_registration(VARIABLE, name, name, name, &mut script);
    written.expect("writing to memory cannot fail");
    String::from_utf8_lossy(&script).into_owned()
}

/// Answers a shell, and ends the process.
pub fn answer() {
    CompleteEnv::with_factory(command).complete();
}

/// Writes the manual pages; answers what was written.
///
/// # Errors
/// The directory cannot be written.
pub fn write_manual(directory: &Path) -> io::Result<String> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(command(), directory)?;
    Ok(format!(
        "written: {}/{}*.1\n",
        directory.display(),
        env!("CARGO_PKG_NAME")
    ))
}
