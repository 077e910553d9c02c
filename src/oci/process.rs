//! Process section of the OCI spec: command, environment, directory, identity and its limits.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use state::desired::Record;
use state::failure::Failure;
use state::reason::Reason;
use state::spec::names::HostName;
use state::spec::{Ulimit, UlimitName, Ulimits};

use super::Given;
use super::host::Host;
use super::image::ImageConfig;
use super::user::User;

/// Search path for programs where the image names none; docker's.
pub(super) const PATH_DEFAULT: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Files that a process may open unless it asks for more: beyond it `select` breaks.
const OPEN_FILES_SOFT: u64 = 1024;

/// Bytes of one word with its end (the kernel's `MAX_ARG_STRLEN`).
const WORD_BYTES_MAX: usize = 128 << 10;
/// Bytes of all words: a quarter of the usual stack, less a page for what the kernel adds.
const WORDS_BYTES_MAX: usize = (2 << 20) - 4096;

/// The section `process`, with these capabilities.
///
/// # Errors
/// [`Reason::NoCommand`]: neither the image nor the record says what to run.
/// [`Reason::CommandNotExecutable`]: what they say is longer than the kernel takes.
pub(super) fn process(
    image: &ImageConfig,
    record: &Record,
    user: &User,
    (host, capabilities): (&Host, &[String]),
    given: Option<Given<'_>>,
) -> Result<Value, Failure> {
    let mut args = args(image, record)?;
    let environment = environment(image, record, user);
    if let Some(given) = given {
        args.splice(0..0, given.init.iter().cloned());
        fits(&args, &with(&environment, given.variables))?;
    } else {
        fits(&args, &environment)?;
    }
    let mut process = json!({
        "terminal": false,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
        "args": args,
        "env": environment,
        "cwd": working_dir(image, record),
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "noNewPrivileges": record.spec.security.no_new_privileges,
        "rlimits": rlimits(&record.spec.ulimits, host),
        "oomScoreAdj": record.spec.oom_score.map_or(host.oom_score_min, i32::from),
    });
    if let Some(profile) = host.modules.apparmor.profile() {
        process["apparmorProfile"] = profile.into();
    }
    Ok(process)
}

/// Limits of the process: the node's, but for those asked for.
fn rlimits(asked: &Ulimits, host: &Host) -> Vec<Value> {
    let most = host.open_files_max;
    let open_files = Ulimit {
        soft: OPEN_FILES_SOFT.min(most),
        hard: most,
    };
    // A crash writes the memory of the process, secrets among it, into the container's files.
    let no_core = Ulimit { soft: 0, hard: 0 };
    let nodes = [
        (UlimitName::Nofile, open_files),
        (UlimitName::Core, no_core),
    ];
    let nodes = nodes
        .into_iter()
        .filter(|(name, _)| !asked.contains_key(name));
    let all = nodes.chain(asked.iter().map(|(name, limit)| (*name, *limit)));
    all.map(|(name, Ulimit { soft, hard })| {
        let kind = format!("RLIMIT_{}", name.as_str().to_ascii_uppercase());
        json!({"type": kind, "soft": soft, "hard": hard})
    })
    .collect()
}

/// Checks what execve(2) would refuse with E2BIG, for which runc has no words before the start.
pub(super) fn fits(args: &[String], environment: &[String]) -> Result<(), Failure> {
    let refused = |fault: String| {
        let message = format!("{fault}; put what is long into a file of the image");
        Err(Failure::new(Reason::CommandNotExecutable, message))
    };
    let words = || args.iter().chain(environment);
    let is_long = |word: &&String| word.len() >= WORD_BYTES_MAX;
    let long = args.iter().find(is_long).map(|word| {
        let shown: String = word.chars().take(40).collect();
        (format!("{shown:?}… of the command"), word.len())
    });
    // No value is shown.
    let long = long.or_else(|| {
        let entry = environment.iter().find(is_long)?;
        let name = entry.split_once('=').map_or("", |(name, _)| name);
        let name: String = name.chars().take(40).collect();
        Some((format!("the variable {name:?}"), entry.len()))
    });
    if let Some((what, bytes)) = long {
        let most = WORD_BYTES_MAX - 1;
        return refused(format!(
            "{what} has {bytes} bytes, and the kernel takes {most}"
        ));
    }
    // Each word ends with a NUL, and has a pointer to it.
    let bytes: usize = words().map(|word| word.len() + 9).sum();
    if bytes > WORDS_BYTES_MAX {
        return refused(format!(
            "command and environment have {bytes} bytes together, and the kernel takes {WORDS_BYTES_MAX}"
        ));
    }
    Ok(())
}

/// Command line, as in Kubernetes: `command` replaces the image's entrypoint and drops its command;
/// `args` replaces its command.
///
/// An image's entrypoint of one empty word is none: a Dockerfile's `ENTRYPOINT [""]` takes away the
/// one of the image below, and docker runs the command then.
fn args(image: &ImageConfig, record: &Record) -> Result<Vec<String>, Failure> {
    let entrypoint = match image.entrypoint.as_slice() {
        [only] if only.is_empty() => Vec::new(),
        words => words.to_vec(),
    };
    let (first, rest) = match (&record.spec.command, &record.spec.args) {
        (Some(command), args) => (command.clone(), args.clone().unwrap_or_default()),
        (None, Some(args)) => (entrypoint, args.clone()),
        (None, None) => (entrypoint, image.cmd.clone()),
    };
    let args: Vec<_> = first.into_iter().chain(rest).collect();
    let fault = match args.first() {
        None => "has neither an entrypoint nor a command",
        Some(program) if program.is_empty() => {
            "has an entrypoint or a command that begins with an empty word"
        }
        Some(_) => return Ok(args),
    };
    let message = format!(
        "the image {} {fault}; say what to run under \"command\"",
        record.spec.image
    );
    Err(Failure::new(Reason::NoCommand, message))
}

/// Environment, later over earlier: the defaults, the image's, what was asked for; sorted. An
/// image's entry without a name or without `=` is dropped: newer runc refuse the whole container
/// for it. Of an image's entries for one name the last counts, as for the C library's `setenv`.
fn environment(image: &ImageConfig, record: &Record, user: &User) -> Vec<String> {
    let mut all = BTreeMap::from([
        ("PATH".to_owned(), PATH_DEFAULT.to_owned()),
        ("HOSTNAME".to_owned(), hostname(record).to_owned()),
    ]);
    if let Some(home) = &user.home {
        all.insert("HOME".to_owned(), home.clone());
    }
    let named = image
        .env
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .filter(|(key, _)| !key.is_empty());
    all.extend(named.map(|(key, value)| (key.to_owned(), value.to_owned())));
    all.extend(record.spec.environment.clone().unwrap_or_default());
    all.into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

/// Environment with these variables over those of the same name.
pub(super) fn with(environment: &[String], variables: &BTreeMap<String, String>) -> Vec<String> {
    let is_other = |entry: &&String| {
        let name = entry.split_once('=').map_or("", |(name, _)| name);
        !variables.contains_key(name)
    };
    let kept = environment.iter().filter(is_other).cloned();
    let given = variables.iter();
    kept.chain(given.map(|(name, value)| format!("{name}={value}")))
        .collect()
}

/// Name of the host inside of a container.
pub(super) fn hostname(record: &Record) -> &str {
    let asked = record.spec.names.hostname.as_ref();
    asked.map_or(record.name.as_str(), HostName::as_str)
}

pub(crate) fn working_dir(image: &ImageConfig, record: &Record) -> String {
    let asked = record.spec.working_dir.as_ref();
    let wanted = asked.unwrap_or(&image.working_dir);
    if wanted.starts_with('/') {
        wanted.clone()
    } else {
        format!("/{wanted}")
    }
}
