//! Sources of a bundle: this host, and the agent that runs. Each is bounded in time and size, and one that
//! does not answer keeps none of the others.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::programs::{KeptPart, output, part_of_output};
use super::running::SeenAgent;
use crate::agent;
use crate::client::Agent;
use crate::config::Config;
use crate::doctor::{blocking, within};
use crate::runtime::containerd::ContainerdLook;

/// Content of a file and whether it was cut, or why there is none.
pub(super) type Source = Result<(Vec<u8>, bool), String>;

/// Bytes of a file of the bundle.
pub(super) const FILE_BYTES_MAX: usize = 4 << 20;
/// Bytes of an answer: it is cut only once its secrets are taken out, for which it must be whole.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Files of which the end is kept, not the begin.
const LOG: &str = "agent.log";
const CONTAINER_LOGS: &str = "container-logs/";
/// Time for one answer or program.
const TIME_MAX: Duration = Duration::from_secs(12);
/// Containers that are explained, and whose logs are taken.
const CONTAINERS_MAX: usize = 50;
/// Entries of a directory that are listed.
const ENTRIES_MAX: usize = 5000;
/// Unit whose journal is the agent's log, where none runs.
const UNIT: &str = "chas-node-agent.service";
/// Directories that are not entered: what containers keep there is theirs.
const NOT_ENTERED: [&str; 4] = ["host-paths", "image-volumes", "netns", "volumes"];
/// Files that tell of the host.
const FILES: [(&str, &str); 8] = [
    ("host/mounts.txt", "/proc/self/mountinfo"),
    ("host/os-release.txt", "/etc/os-release"),
    ("host/kernel.txt", "/proc/version"),
    ("host/command-line.txt", "/proc/cmdline"),
    ("host/control-groups.txt", "/proc/cgroups"),
    ("host/memory.txt", "/proc/meminfo"),
    ("host/pressure.txt", "/proc/pressure/memory"),
    ("host/file-systems.txt", "/proc/filesystems"),
];
/// Programs that tell of the host.
const PROGRAMS: [(&str, &[&str]); 6] = [
    ("host/routes.txt", &["ip", "route", "show", "table", "all"]),
    (
        "host/routes6.txt",
        &["ip", "-6", "route", "show", "table", "all"],
    ),
    ("host/rules.txt", &["ip", "rule", "show"]),
    ("host/links.txt", &["ip", "-details", "address", "show"]),
    ("host/disks.txt", &["df", "-h"]),
    ("host/inodes.txt", &["df", "-i"]),
];

/// Part of a file that is kept where it is too large.
pub(super) fn part_of(name: &str) -> KeptPart {
    match name == LOG || name.starts_with(CONTAINER_LOGS) {
        true => KeptPart::End,
        false => KeptPart::Begin,
    }
}

/// Content of a file that is text.
pub(super) fn of_text(text: impl Into<String>) -> (Vec<u8>, bool) {
    (text.into().into_bytes(), false)
}

/// Content of a file that is JSON.
pub(super) fn of_json(value: &Value) -> (Vec<u8>, bool) {
    of_text(format!("{value:#}\n"))
}

/// The agent that runs, and its process.
pub(super) async fn agent_of(config: &Config) -> Result<(Agent, Option<u32>), String> {
    let seen = within(SeenAgent::open(config)).await;
    seen.unwrap_or_else(|| Err("it does not answer in time".to_owned()))
}

/// Files about this host.
pub(super) async fn of_host(
    config: Option<&Config>,
    process: Option<u32>,
    log_lines: u32,
) -> Vec<(String, Source)> {
    let programs = join_all(PROGRAMS.iter().map(|(name, line)| async move {
        (
            (*name).to_owned(),
            output(line, FILE_BYTES_MAX, TIME_MAX).await,
        )
    }));
    let (programs, files, of_agent) = tokio::join!(programs, within(blocking(read_files)), async {
        match config {
            Some(config) => of_configured(config, process, log_lines).await,
            None => Vec::new(),
        }
    });
    let files = files.flatten().unwrap_or_default();
    programs.into_iter().chain(files).chain(of_agent).collect()
}

fn read_files() -> Vec<(String, Source)> {
    let read = |path: &str| {
        let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        text.map(of_text)
    };
    let files = FILES
        .iter()
        .map(|(name, path)| ((*name).to_owned(), read(path)));
    files.collect()
}

/// Files about what the configuration names.
async fn of_configured(
    config: &Config,
    process: Option<u32>,
    log_lines: u32,
) -> Vec<(String, Source)> {
    let client = agent::containerd_of(config);
    let (state, run) = (config.state.dir.clone(), config.state.run_dir.clone());
    let namespace = config.containerd.namespace.clone();
    let listing = blocking(move || {
        let groups = listed_groups(&namespace);
        (listed(&state), listed(&run), groups)
    });
    let (look, listing, rules, log) = tokio::join!(
        within(ContainerdLook::at(&client)),
        within(listing),
        rules(&config.network.bridge),
        log(config, process, log_lines)
    );
    let look = match look {
        Some(Ok(look)) => {
            let managed: Vec<String> = look.managed.iter().map(ToString::to_string).collect();
            Ok(of_json(&json!({
                "version": look.version, "outdated": look.outdated,
                "snapshotter_fault": look.snapshotter, "directories": look.directories,
                "namespace": config.containerd.namespace, "managed": managed,
                "unmanaged": look.unmanaged,
            })))
        }
        Some(Err(error)) => Err(error.to_string()),
        None => Err("containerd does not answer in time".to_owned()),
    };
    let mut taken = vec![
        ("containerd.json".to_owned(), look),
        ("host/rules-of-the-agent.txt".to_owned(), rules),
        (LOG.to_owned(), log),
    ];
    let late = || Err("a disk does not answer in time".to_owned());
    let names = ["state-dir.txt", "run-dir.txt", "host/groups.txt"];
    match listing.flatten() {
        Some((state, run, groups)) => {
            let texts = [state, run, Ok(of_text(groups))];
            taken.extend(names.map(ToOwned::to_owned).into_iter().zip(texts));
        }
        None => taken.extend(names.map(|name| (name.to_owned(), late()))),
    }
    taken
}

/// Names, sizes and modes below a directory, and no contents.
fn listed(directory: &Path) -> Source {
    let (mut text, mut left) = (String::new(), vec![directory.to_owned()]);
    let mut entries = 0;
    let device = fs::symlink_metadata(directory).map_or(0, |found| found.dev());
    while let Some(path) = left.pop() {
        entries += 1;
        if entries > ENTRIES_MAX {
            return Ok((text.into_bytes(), true));
        }
        let found = match fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(error) => {
                text += &format!("{}: {error}\n", path.display());
                continue;
            }
        };
        let (mode, size) = (found.mode() & 0o7777, found.len());
        let (uid, gid, path_shown) = (found.uid(), found.gid(), path.display());
        text += &format!("{mode:04o} {uid}:{gid} {size:>12} {path_shown}\n");
        let is_entered = path == directory || is_own(&path, found.dev() == device);
        if found.is_dir() && is_entered {
            let below = fs::read_dir(&path).into_iter().flatten().flatten();
            let mut below: Vec<_> = below.map(|entry| entry.path()).collect();
            below.sort_by(|a, b| b.cmp(a));
            left.extend(below);
        }
    }
    Ok(of_text(text))
}

/// Whether what is below is the agent's own. A file system of its own is a mount: somebody's files.
fn is_own(path: &Path, is_same_device: bool) -> bool {
    is_same_device && !NOT_ENTERED.iter().any(|name| path.ends_with(name))
}

/// Control groups of the agent's containers.
fn listed_groups(namespace: &str) -> String {
    let root = Path::new(crate::cgroup::CGROUP_ROOT);
    let trees = fs::read_dir(root).into_iter().flatten().flatten();
    let trees = trees.map(|entry| entry.path()).chain([root.to_owned()]);
    let groups = trees.flat_map(|tree| {
        let below = fs::read_dir(tree.join(namespace))
            .into_iter()
            .flatten()
            .flatten();
        below
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.path())
    });
    let mut groups: Vec<_> = groups.map(|group| group.display().to_string()).collect();
    groups.sort();
    groups.truncate(ENTRIES_MAX);
    groups.join("\n") + "\n"
}

/// Tables of the agent in nftables.
async fn rules(bridge: &str) -> Source {
    let (tables, _) = output(&["nft", "list", "tables"], FILE_BYTES_MAX, TIME_MAX).await?;
    let tables = String::from_utf8_lossy(&tables).into_owned();
    let own = tables
        .lines()
        .filter(|line| line.split(' ').next_back() == Some(bridge));
    let mut text = Vec::new();
    for table in own {
        let line: Vec<&str> = ["nft", "list"]
            .into_iter()
            .chain(table.split(' '))
            .collect();
        text.extend(output(&line, FILE_BYTES_MAX, TIME_MAX).await?.0);
    }
    match text.is_empty() {
        true => Err(format!("there is no table {bridge}")),
        false => Ok((text, false)),
    }
}

/// Last lines of the agent's log: of its file, else of the journal.
async fn log(config: &Config, process: Option<u32>, lines: u32) -> Source {
    let count = lines.to_string();
    let of;
    let line: Vec<&str> = match config.logging.file.as_ref().and_then(|file| file.to_str()) {
        Some(file) => vec!["tail", "-n", &count, "--", file],
        None => {
            of = unit(&config.state.dir, process).await?;
            let of_unit = ["-u", &of, "-o", "short-iso", "--no-pager", "-n", &count];
            ["journalctl"].into_iter().chain(of_unit).collect()
        }
    };
    part_of_output(KeptPart::End, &line, FILE_BYTES_MAX, TIME_MAX).await
}

/// Unit whose journal is the log of the agent: another agent on this host has another one.
async fn unit(state_dir: &Path, process: Option<u32>) -> Result<String, String> {
    if let Some(process) = process {
        let none = || {
            format!(
                "no unit of systemd runs the agent (process {process}): what it logs goes where it was \
                 started, for logging.file is not set"
            )
        };
        return agent::unit_of(process).await.ok_or_else(none);
    }
    let file = agent::unit_property(UNIT, "FragmentPath").await;
    let text = file.and_then(|file| fs::read_to_string(file).ok());
    match text.is_none_or(|text| agent::is_unit_of(&text, state_dir)) {
        true => Ok(UNIT.to_owned()),
        false => Err(format!(
            "no agent runs, and {UNIT} is that of another one, whose state directory is not {}",
            state_dir.display()
        )),
    }
}

/// Files of the agent's answers.
pub(super) async fn of_agent(agent: &Agent, has_logs: bool) -> Vec<(String, Source)> {
    const ANSWERS: [(&str, &[&str]); 8] = [
        ("agent/version.json", &["version"]),
        ("agent/health.json", &["health"]),
        ("agent/containers.json", &["containers"]),
        ("agent/plan.json", &["plan"]),
        ("agent/capacity.json", &["capacity"]),
        ("agent/volumes.json", &["volumes"]),
        ("agent/metrics.txt", &["metrics"]),
        ("agent/log-level.json", &["log-level"]),
    ];
    let answers =
        join_all(ANSWERS.iter().map(|(name, path)| async move {
            ((*name).to_owned(), asked(agent, path, &[]).await)
        }));
    let events = asked(agent, &["events"], &[("follow", "false"), ("after", "0")]);
    let (answers, events) = tokio::join!(answers, events);
    let containers: Vec<String> = names_of(&answers, |_| true);
    let unsettled: Vec<String> = names_of(&answers, |one| {
        !["running", "stopped"].contains(&one["status"].as_str().unwrap_or_default())
    });
    let mut each = Vec::new();
    for name in unsettled.iter().take(CONTAINERS_MAX) {
        each.push((format!("agent/explain/{name}.json"), name, "explain"));
    }
    for name in containers.iter().take(CONTAINERS_MAX) {
        each.push((format!("agent/history/{name}.json"), name, "history"));
        if has_logs {
            each.push((format!("{CONTAINER_LOGS}{name}.txt"), name, "logs"));
        }
    }
    let each = join_all(each.into_iter().map(|(file, name, what)| async move {
        let query: &[(&str, &str)] = match what {
            "logs" => &[("tail", "1000")],
            _ => &[],
        };
        (file, asked(agent, &["containers", name, what], query).await)
    }));
    let mut taken: Vec<_> = answers.into_iter().collect();
    taken.push(("agent/events.ndjson".to_owned(), events));
    taken.extend(each.await);
    taken
}

/// Names of managed containers that `is` holds of.
fn names_of(answers: &[(String, Source)], is: impl Fn(&Value) -> bool) -> Vec<String> {
    let listed = answers
        .iter()
        .find(|(name, _)| name == "agent/containers.json");
    let listed = listed.and_then(|(_, source)| source.as_ref().ok());
    let listed: Option<Value> = listed.and_then(|(text, _)| serde_json::from_slice(text).ok());
    let listed = listed.unwrap_or_default();
    let containers = listed["containers"].as_array().into_iter().flatten();
    let managed = containers.filter(|one| one["owner"] != "unmanaged" && is(one));
    let names = managed.filter_map(|one| one["name"].as_str());
    // A name becomes part of a path.
    let is_plain = |name: &&str| {
        name.chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    names.filter(is_plain).map(ToOwned::to_owned).collect()
}

async fn asked(agent: &Agent, path: &[&str], query: &[(&str, &str)]) -> Source {
    let request = agent.get(path).query(query).timeout(TIME_MAX);
    let request = match path {
        ["events"] => request.header("accept", "application/x-ndjson"),
        _ => request,
    };
    let answer = agent.bytes(request, ANSWER_BYTES_MAX).await;
    match answer.map_err(|error| format!("{error:#}"))? {
        // Of a line each, the last one may be left out; of others nothing tells what is a secret.
        (_, true) if !matches!(path, ["events"]) => Err(format!(
            "the answer is larger than {ANSWER_BYTES_MAX} bytes"
        )),
        answer => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_listed_without_contents_and_what_is_others_is_not_entered() {
        let directory = tempfile::tempdir().unwrap();
        let path = &directory.path().join("volumes");
        for name in NOT_ENTERED {
            fs::create_dir_all(path.join(name).join("theirs")).unwrap();
        }
        fs::create_dir_all(path.join("logs/own")).unwrap();
        fs::write(path.join("secrets.key"), "planted").unwrap();
        let (text, is_cut) = listed(path).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.contains("secrets.key") && text.contains("/logs/own\n"),
            "{text}"
        );
        for name in NOT_ENTERED {
            assert!(text.contains(&format!("/volumes/{name}\n")), "{text}");
        }
        assert!(
            !text.contains("planted") && !text.contains("theirs") && !is_cut,
            "{text}"
        );
        let logs = path.join("logs");
        assert!(is_own(&logs, true) && !is_own(&logs, false), "a mount");
    }
}
