//! Process section of the OCI spec: command, environment, directory, identity and its limits.

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;
use serde_json::{Value, json};
use state::desired::Record;
use state::failure::Failure;
use state::reason::Reason;

use super::host::Host;
use super::user::User;

/// Search path for programs where the image names none; docker's.
pub(super) const PATH_DEFAULT: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Files that a process may open unless it asks for more: beyond it `select` breaks.
const OPEN_FILES_SOFT: u64 = 1024;

/// The section `process`.
///
/// # Errors
/// [`Reason::NoCommand`]: neither the image nor the record says what to run.
pub(super) fn process(
    image: &ImageConfiguration,
    record: &Record,
    user: &User,
    host: &Host,
) -> Result<Value, Failure> {
    let capabilities = &record.spec.security.capabilities.0;
    Ok(json!({
        "terminal": false,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
        "args": args(image, record)?,
        "env": environment(image, record, user),
        "cwd": working_dir(image, record),
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "noNewPrivileges": true,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": OPEN_FILES_SOFT.min(host.open_files_max), "hard": host.open_files_max}],
        "oomScoreAdj": host.oom_score_min,
    }))
}

/// Command line, as in Kubernetes: `command` replaces the image's entrypoint and drops its command;
/// `args` replaces its command.
fn args(image: &ImageConfiguration, record: &Record) -> Result<Vec<String>, Failure> {
    let config = image.config().as_ref();
    let entrypoint = config
        .and_then(|config| config.entrypoint().clone())
        .unwrap_or_default();
    let cmd = config
        .and_then(|config| config.cmd().clone())
        .unwrap_or_default();
    let (first, rest) = match (&record.spec.command, &record.spec.args) {
        (Some(command), args) => (command.clone(), args.clone().unwrap_or_default()),
        (None, Some(args)) => (entrypoint, args.clone()),
        (None, None) => (entrypoint, cmd),
    };
    let args: Vec<_> = first.into_iter().chain(rest).collect();
    if args.first().is_none_or(String::is_empty) {
        let message = format!(
            "the image {} has neither an entrypoint nor a command; say what to run under \"command\"",
            record.spec.image
        );
        return Err(Failure::new(Reason::NoCommand, message));
    }
    Ok(args)
}

/// Environment: the image's, then what it lacks, then what was asked for; sorted. An image's entry
/// without a name or without `=` is dropped: newer runc refuse the whole container for it.
fn environment(image: &ImageConfiguration, record: &Record, user: &User) -> Vec<String> {
    let own = image
        .config()
        .as_ref()
        .and_then(|config| config.env().clone())
        .unwrap_or_default();
    let mut all: BTreeMap<String, String> =
        BTreeMap::from([("PATH".to_owned(), PATH_DEFAULT.to_owned())]);
    if let Some(home) = &user.home {
        all.insert("HOME".to_owned(), home.clone());
    }
    let named = own
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .filter(|(key, _)| !key.is_empty());
    all.extend(named.map(|(key, value)| (key.to_owned(), value.to_owned())));
    all.insert("HOSTNAME".to_owned(), record.name.to_string());
    all.extend(record.spec.environment.clone());
    all.into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

pub(super) fn working_dir(image: &ImageConfiguration, record: &Record) -> String {
    let own = image
        .config()
        .as_ref()
        .and_then(|config| config.working_dir().clone());
    let wanted = record.spec.working_dir.clone().or(own).unwrap_or_default();
    if wanted.starts_with('/') {
        wanted
    } else {
        format!("/{wanted}")
    }
}
