//! First program of a container: takes variables from the file that its first word names, and becomes
//! the program that the others name. By the name of `reaper` it stays, as `init: true` asks: it starts
//! that program, hands signals on to it, takes away what processes without a parent leave behind, and
//! ends as the program does. By the name of `session` the first process waits, and any other runs the
//! program with it, as `interactive: true` asks. It is static, so that it runs in any image; `embed.rs` puts it into the
//! agent.
//!
//! The variables come so, and not in the container's OCI spec, because containerd writes that to disk.

#![allow(
    clippy::print_stderr,
    reason = "what it says goes into the container's log"
)]

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

mod reaper;
mod session;

/// Exit codes of a program that is not found, and of one that cannot be executed; the shell's.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

fn main() -> ExitCode {
    let mut words = env::args_os();
    let own_name = words.next().unwrap_or_default();
    let (Some(file), Some(program)) = (words.next(), words.next()) else {
        eprintln!("chas init: no program is named");
        return ExitCode::from(NOT_FOUND);
    };
    let variables = match variables(&file) {
        Ok(variables) => variables,
        Err(error) => {
            eprintln!("chas init: {}: {error}", file.display());
            return ExitCode::from(NOT_EXECUTABLE);
        }
    };
    let words: Vec<_> = words.collect();
    let commands = places(&program, &variables).into_iter().map(|path| {
        let mut command = Command::new(path);
        let words = words.iter().cloned();
        command.arg0(&program).args(words).envs(variables.clone());
        command
    });
    let own_name = Path::new(&own_name).file_name();
    let ended = match own_name.and_then(OsStr::to_str) {
        Some("session") if session::is_first() => session::wait().map_err(Some),
        Some("session") => session::run(commands),
        Some("reaper") => reaper::watch(commands),
        _ => Err(become_first(commands)),
    };
    let error = match ended {
        Ok(exit_code) => return ExitCode::from(exit_code),
        Err(error) => error,
    };
    match &error {
        Some(error) => eprintln!("exec: {program:?}: {error}"),
        None => eprintln!("exec: {program:?}: executable file not found in $PATH"),
    }
    ExitCode::from(exit_code_of(error.as_ref()))
}

/// Exit code that tells why no program could be executed, as a shell does. `None`: there is none.
fn exit_code_of(error: Option<&std::io::Error>) -> u8 {
    match error.map(std::io::Error::kind) {
        None | Some(ErrorKind::NotFound) => NOT_FOUND,
        Some(_) => NOT_EXECUTABLE,
    }
}

/// Becomes the first of these programs that can be executed. Answers why none can; `None`: there is
/// none.
fn become_first(commands: impl Iterator<Item = Command>) -> Option<std::io::Error> {
    let mut refused = None;
    for mut command in commands {
        let error = command.exec();
        let is_last = ends_search(&error);
        refused = Some(error);
        if is_last {
            break;
        }
    }
    refused
}

/// Whether no later directory is looked into. As in a shell, one of them may have a program that this
/// user may execute.
fn ends_search(error: &std::io::Error) -> bool {
    error.kind() != ErrorKind::PermissionDenied
}

fn variables(file: &OsStr) -> std::io::Result<Vec<(OsString, OsString)>> {
    let content = fs::read(file)?;
    let entries = content.split(|byte| *byte == 0);
    Ok(entries
        .filter_map(|entry| {
            let at = entry.iter().position(|byte| *byte == b'=')?;
            let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
            Some((text(&entry[..at]), text(&entry[at + 1..])))
        })
        .collect())
}

/// Paths at which a program may be: the one that it is named by where that has a slash, else those of
/// `PATH` that somebody may execute.
fn places(program: &OsStr, variables: &[(OsString, OsString)]) -> Vec<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return vec![program.into()];
    }
    let given = variables.iter().find(|(name, _)| name == "PATH");
    let search = given.map_or_else(|| env::var_os("PATH"), |(_, path)| Some(path.clone()));
    let search = search.unwrap_or_default();
    let candidates = env::split_paths(&search).map(|directory| {
        let directory = match directory.as_os_str().is_empty() {
            true => PathBuf::from("."),
            false => directory,
        };
        directory.join(program)
    });
    candidates
        .filter(|path| {
            fs::metadata(path)
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
        .collect()
}
