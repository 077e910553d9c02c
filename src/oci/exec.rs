//! Process section for a program that is run in a container beside its first process: the
//! container's own section, in which the program's words take the place of the first process's.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use state::failure::Failure;
use state::policy;
use state::reason::Reason;

use super::Given;
use super::process::{fits, with};
use super::user::User;

/// Terminal of a program whose order names none; docker's.
const TERM: (&str, &str) = ("TERM", "xterm");

/// Program as it is ordered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AddedProgram<'a> {
    /// Program and its arguments. Empty: those of the first process.
    pub(crate) command: &'a [String],
    /// Identity. `None`: the first process's.
    pub(crate) user: Option<&'a User>,
    /// Directory to start in. `None`: the first process's.
    pub(crate) working_dir: Option<&'a str>,
    /// Values that it is given beside its section, its own variables among them. `None`: it has its own
    /// in the section.
    pub(crate) given: Option<Given<'a>>,
    /// Variables, beside the first process's and over them.
    pub(crate) environment: &'a BTreeMap<String, String>,
    /// Whether it has a terminal.
    pub(crate) terminal: bool,
}

/// The section `process` of a program in the container with this OCI spec. Capabilities, limits,
/// profile and all else are the first process's.
///
/// # Errors
/// [`Reason::PolicyDenied`]: the directory is the kernel's. [`Reason::CommandNotExecutable`]: the
/// words are longer than the kernel takes. [`Reason::CreateFailed`]: the spec has no process.
pub(crate) fn process(oci_spec: &[u8], program: AddedProgram<'_>) -> Result<Vec<u8>, Failure> {
    let spec: Value = serde_json::from_slice(oci_spec).unwrap_or_default();
    let mut process = spec["process"].clone();
    if !process.is_object() {
        let message = "the container's OCI spec has no process; make the container again";
        return Err(Failure::new(Reason::CreateFailed, message));
    }
    if let Some(directory) = program.working_dir {
        if let Some(denial) = policy::working_directory(directory) {
            return Err(Failure::new(Reason::PolicyDenied, denial.to_string()));
        }
        process["cwd"] = directory.into();
    }
    let environment = environment(&process, program);
    let mut args = match program.command {
        [] => words_of(&process),
        command => command.to_vec(),
    };
    if let Some(given) = program.given {
        args.splice(0..0, given.init.iter().cloned());
        fits(&args, &with(&environment, given.variables))?;
    } else {
        fits(&args, &environment)?;
    }
    process["args"] = args.into();
    process["env"] = environment.into();
    process["terminal"] = program.terminal.into();
    if let Some(user) = program.user {
        process["user"] = json!({"uid": user.uid, "gid": user.gid, "additionalGids": user.groups});
    }
    Ok(process.to_string().into_bytes())
}

/// Words of the first process.
fn words_of(process: &Value) -> Vec<String> {
    let words = process["args"].as_array().into_iter().flatten();
    words
        .filter_map(|word| word.as_str().map(str::to_owned))
        .collect()
}

/// User id of a program that runs as `user`, or as the first process of the container with this
/// OCI spec. `None`: the spec has none.
pub(crate) fn uid(oci_spec: &[u8], user: Option<&User>) -> Option<u64> {
    if let Some(user) = user {
        return Some(user.uid.into());
    }
    let spec: Value = serde_json::from_slice(oci_spec).ok()?;
    spec["process"]["user"]["uid"].as_u64()
}

/// Variables of a program: the first process's, its user's home, its terminal, its own.
fn environment(process: &Value, program: AddedProgram<'_>) -> Vec<String> {
    let own = process["env"].as_array().into_iter().flatten();
    let own = own.filter_map(|entry| entry.as_str()?.split_once('='));
    let mut all: BTreeMap<&str, &str> = own.collect();
    if program.terminal {
        all.entry(TERM.0).or_insert(TERM.1);
    }
    let is_other = |user: &&User| process["user"]["uid"].as_u64() != Some(user.uid.into());
    if let Some(user) = program.user.filter(is_other) {
        all.insert("HOME", user.home.as_deref().unwrap_or("/"));
    }
    let asked = program.environment.iter();
    let asked = asked.filter(|_| program.given.is_none());
    all.extend(asked.map(|(key, value)| (key.as_str(), value.as_str())));
    let all = all.into_iter();
    all.map(|(key, value)| format!("{key}={value}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Vec<u8> {
        json!({"process": {
            "terminal": false, "user": {"uid": 0, "gid": 0, "additionalGids": [10]},
            "args": ["nginx"], "env": ["A=1", "HOME=/root", "PATH=/bin"], "cwd": "/srv",
            "capabilities": {"bounding": ["CAP_CHOWN"]}, "noNewPrivileges": true,
            "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}], "oomScoreAdj": 5,
        }})
        .to_string()
        .into_bytes()
    }

    fn made(program: AddedProgram<'_>) -> Value {
        serde_json::from_slice(&process(&spec(), program).unwrap()).unwrap()
    }

    #[test]
    fn a_program_is_confined_as_the_first_process_and_has_words_of_its_own() {
        let (command, none) = (["sh".to_owned(), "-c".to_owned()], BTreeMap::new());
        let plain = AddedProgram {
            command: &command,
            user: None,
            working_dir: None,
            given: None,
            environment: &none,
            terminal: false,
        };
        let mut expected: Value =
            serde_json::from_slice::<Value>(&spec()).unwrap()["process"].take();
        expected["args"] = json!(["sh", "-c"]);
        assert_eq!(made(plain), expected);
        let own = AddedProgram {
            command: &[],
            ..plain
        };
        assert_eq!(made(own)["args"], json!(["nginx"]), "its own words");
        let asked = BTreeMap::from([("A".to_owned(), "2".to_owned())]);
        let user = User {
            uid: 33,
            gid: 34,
            groups: vec![7],
            home: None,
        };
        let other = AddedProgram {
            user: Some(&user),
            working_dir: Some("/tmp"),
            given: None,
            environment: &asked,
            terminal: true,
            ..plain
        };
        expected["user"] = json!({"uid": 33, "gid": 34, "additionalGids": [7]});
        expected["env"] = json!(["A=2", "HOME=/", "PATH=/bin", "TERM=xterm"]);
        expected["cwd"] = "/tmp".into();
        expected["terminal"] = true.into();
        assert_eq!(made(other), expected);
        assert_eq!(uid(&spec(), Some(&user)), Some(33));
        assert_eq!((uid(&spec(), None), uid(b"{}", None)), (Some(0), None));
        let variables = BTreeMap::from([("A".to_owned(), "word".to_owned())]);
        let init = ["/init".to_owned(), "/file".to_owned()];
        let beside = AddedProgram {
            given: Some(Given {
                mounts: &[],
                init: &init,
                variables: &variables,
            }),
            environment: &asked,
            ..plain
        };
        let beside = made(beside);
        assert_eq!(beside["args"], json!(["/init", "/file", "sh", "-c"]));
        assert_eq!(beside["env"][0], "A=1", "as without values");
        let root = User::default();
        let same = AddedProgram {
            user: Some(&root),
            ..plain
        };
        let home = made(same)["env"].to_string();
        assert!(home.contains("HOME=/root"), "{home}");
    }

    #[test]
    fn a_directory_of_the_kernel_and_words_without_end_are_refused() {
        let (command, none) = (["sh".to_owned()], BTreeMap::new());
        let program = AddedProgram {
            command: &command,
            user: None,
            working_dir: Some("/proc/self/fd/7"),
            given: None,
            environment: &none,
            terminal: false,
        };
        let reason = |spec: &[u8], program| process(spec, program).unwrap_err().reason;
        assert_eq!(reason(&spec(), program), Reason::PolicyDenied);
        let long = ["x".repeat(200 << 10)];
        let long = AddedProgram {
            command: &long,
            working_dir: None,
            ..program
        };
        assert_eq!(reason(&spec(), long), Reason::CommandNotExecutable);
        let plain = AddedProgram {
            working_dir: None,
            ..program
        };
        assert_eq!(reason(b"{}", plain), Reason::CreateFailed);
    }
}
