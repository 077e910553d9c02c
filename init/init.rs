//! First program of a container that has values of its own: takes them from `/.chas/env`, and becomes
//! the program that its words name. It is built for itself, without a library, so that it runs in
//! any image; `build.rs` puts it into the agent.
//!
//! The values come so, and not in the container's OCI spec, because containerd writes that to disk.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Variables, each ended by a NUL; only the container's user may read them.
const VARIABLES: &str = "/.chas/env";
/// Exit codes of a program that is not found, and of one that cannot be executed; the shell's.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

fn main() -> ExitCode {
    let mut words = env::args_os().skip(1);
    let Some(program) = words.next() else {
        eprintln!("chas init: no program is named");
        return ExitCode::from(NOT_FOUND);
    };
    let variables = match variables() {
        Ok(variables) => variables,
        Err(error) => {
            eprintln!("chas init: {VARIABLES}: {error}");
            return ExitCode::from(NOT_EXECUTABLE);
        }
    };
    let Some(path) = place(&program, &variables) else {
        eprintln!("exec: {program:?}: executable file not found in $PATH");
        return ExitCode::from(NOT_FOUND);
    };
    let mut command = Command::new(path);
    command.arg0(&program).args(words).envs(variables);
    let error = command.exec();
    eprintln!("exec: {program:?}: {error}");
    ExitCode::from(match error.kind() {
        ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    })
}

fn variables() -> std::io::Result<Vec<(OsString, OsString)>> {
    let content = fs::read(VARIABLES)?;
    let entries = content.split(|byte| *byte == 0);
    Ok(entries
        .filter_map(|entry| {
            let at = entry.iter().position(|byte| *byte == b'=')?;
            let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
            Some((text(&entry[..at]), text(&entry[at + 1..])))
        })
        .collect())
}

/// Path of a program: as it is where it has a slash, else the first in `PATH` that may be executed.
fn place(program: &OsStr, variables: &[(OsString, OsString)]) -> Option<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Some(program.into());
    }
    let given = variables.iter().find(|(name, _)| name == "PATH");
    let search = given.map_or_else(|| env::var_os("PATH"), |(_, path)| Some(path.clone()));
    let search = search.unwrap_or_default();
    let mut candidates = env::split_paths(&search).map(|directory| {
        let directory = match directory.as_os_str().is_empty() {
            true => PathBuf::from("."),
            false => directory,
        };
        directory.join(program)
    });
    candidates.find(|path| {
        fs::metadata(path)
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}
