//! Programs of the host that the network is set up with, run with nothing of the agent's environment.

use std::ffi::{OsStr, OsString};
use std::process::Command;
use std::sync::OnceLock;

/// Directories of the host's own programs, for an agent without a `PATH`.
const HOST_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

static PATH: OnceLock<OsString> = OnceLock::new();

/// Takes the agent's own `PATH`, if it has one, from the first network of the process.
pub(super) fn look_in(own: &OsStr) {
    if !own.is_empty() {
        PATH.get_or_init(|| own.to_owned());
    }
}

/// Command that runs a program, with messages in English: the agent's environment has its secrets,
/// and what else a library of the program would obey.
pub(super) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = PATH
        .get()
        .map_or(OsStr::new(HOST_PATH), OsString::as_os_str);
    command.env_clear().env("PATH", path).env("LC_ALL", "C");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_gets_a_path_and_a_language_and_nothing_else() {
        const OWN: &str = "/opt/bin:/usr/bin:/bin";
        look_in(OsStr::new(OWN));
        let printed = command("env").output().unwrap();
        let printed = String::from_utf8(printed.stdout).unwrap();
        let mut lines: Vec<_> = printed.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines.len(), 2, "{printed}");
        assert_eq!(lines[0], "LC_ALL=C");
        assert_eq!(lines[1], format!("PATH={OWN}"));
    }
}
