//! First program of a container that has values of its own: takes them from the file that its first
//! word names, and becomes the program that the others name. It is built for itself, without a library, so that it runs in
//! any image; `embed.rs` puts it into the agent.
//!
//! The values come so, and not in the container's OCI spec, because containerd writes that to disk.

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
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Exit codes of a program that is not found, and of one that cannot be executed; the shell's.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

fn main() -> ExitCode {
    let mut words = env::args_os().skip(1);
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
    let mut refused = None;
    for path in places(&program, &variables) {
        let mut command = Command::new(path);
        let words = words.iter().cloned();
        command.arg0(&program).args(words).envs(variables.clone());
        let error = command.exec();
        let goes_on = error.kind() == ErrorKind::PermissionDenied;
        refused = Some(error);
        // As a shell does: a later directory may have one that this user may execute.
        if !goes_on {
            break;
        }
    }
    let Some(error) = refused else {
        eprintln!("exec: {program:?}: executable file not found in $PATH");
        return ExitCode::from(NOT_FOUND);
    };
    eprintln!("exec: {program:?}: {error}");
    let is_absent = error.kind() == ErrorKind::NotFound;
    ExitCode::from(if is_absent { NOT_FOUND } else { NOT_EXECUTABLE })
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
