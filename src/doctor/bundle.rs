//! `support-bundle`: one archive with all that a maintainer needs of this node, and no secret. What is not
//! there, or does not answer, is said in its manifest.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::answers::mask_answer;
use super::known::{in_file, known_secrets, secret_files};
use super::mask::{MASK, SecretMask};
use super::printed::printed_at;
use super::sources::{self, FILE_BYTES_MAX, Source, of_json, of_text, part_of};
use crate::archive;
use crate::client::Screen;
use crate::config::{self, Config, Flags, LoadFor, LoadedConfig};
use crate::doctor::{blocking, within};

/// Bytes of all of them together, before they are compressed.
const BUNDLE_BYTES_MAX: usize = 64 << 20;
/// Time for each part, beside the others: a disk that hangs keeps none of them.
const PART_MAX: Duration = Duration::from_secs(75);
/// Time for the secrets that this host knows.
const KNOWN_MAX: Duration = Duration::from_secs(15);
/// Time for the archive.
const WRITE_MAX: Duration = Duration::from_secs(60);
/// Remark where a disk hangs.
const UNKNOWN: &str = "warning: a disk hangs, and files with secrets were not all read: what is in them is \
                       masked only where it has the form of a secret";
/// Lines of the agent's log, where nobody says how many.
pub const LOG_LINES: u32 = 10_000;
/// Warning where containers print into the bundle.
const PRINTED: &str = "warning: --container-logs takes in what containers print, which may be anything: \
                       read it before you send it";

/// Order for a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleOrder {
    /// File to be written. `None`: one in the working directory, named after the node and the time.
    pub file: Option<PathBuf>,
    /// Whether the last lines of containers' logs are taken in.
    pub container_logs: bool,
    /// Last lines of the agent's log that are taken in.
    pub log_lines: u32,
}

/// File of a bundle.
#[derive(Clone, Debug)]
pub(super) struct BundleFile {
    name: String,
    content: Vec<u8>,
    is_cut: bool,
    masked: usize,
}

/// Carries out `support-bundle`; answers the exit code.
///
/// # Errors
/// The archive cannot be written, or is there already.
pub async fn run(flags: &Flags, order: &BundleOrder) -> anyhow::Result<u8> {
    let screen = Screen::new(false, config::environment("NO_COLOR").is_some());
    if order.container_logs {
        screen.tell(PRINTED);
    }
    let given = flags.clone();
    let loading = blocking(move || config::load(&given, &config::environment, LoadFor::Check));
    let loaded = within(loading).await.flatten();
    let Some(loaded) = loaded else {
        anyhow::bail!("the configuration is not read in time: a disk hangs");
    };
    let path = order.file.clone().unwrap_or_else(|| file_name(&loaded));
    // Before the work: nobody waits for a bundle that has no place.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    let files = Box::pin(gathered(flags, &loaded, order, screen)).await;
    let named = files
        .into_iter()
        .map(|(name, content)| (format!("chas-support/{name}"), content));
    let files: Vec<_> = named.collect();
    let writing = blocking(move || archive::bundled(file, &files));
    let written = timeout(WRITE_MAX, writing).await;
    let written = written.unwrap_or_else(|_| Some(Err(std::io::ErrorKind::TimedOut.into())));
    match written {
        Some(Ok(())) => {
            screen.line(&path.display().to_string())?;
            screen.tell("Read what is in it before you send it: tar --zstd -tf FILE");
            Ok(0)
        }
        failed => {
            let _nothing_of_use = std::fs::remove_file(&path);
            let error = failed.and_then(Result::err);
            let error =
                error.map_or_else(|| "it ended early".to_owned(), |error| error.to_string());
            anyhow::bail!("{} is not written: {error}", path.display())
        }
    }
}

/// Files of the bundle by name, the manifest first.
async fn gathered(
    flags: &Flags,
    loaded: &LoadedConfig,
    order: &BundleOrder,
    screen: Screen,
) -> Vec<(String, Vec<u8>)> {
    let config = loaded.outcome.as_ref().ok().cloned();
    let agent = match &config {
        Some(config) => sources::agent_of(config).await,
        None => Err("the configuration has errors".to_owned()),
    };
    let process = agent.as_ref().ok().and_then(|(_, process)| *process);
    let of_agent = async {
        match &agent {
            Ok((agent, _)) => sources::of_agent(agent, order.container_logs).await,
            Err(fault) => vec![("agent".to_owned(), Err(fault.clone()))],
        }
    };
    let (known, report, host, of_agent) = tokio::join!(
        known(config.clone(), process),
        timeout(PART_MAX, Box::pin(super::examine(flags))),
        timeout(
            PART_MAX,
            sources::of_host(config.as_ref(), process, order.log_lines)
        ),
        timeout(PART_MAX, of_agent),
    );
    let late = || Err(format!("it did not come to an end within {PART_MAX:?}"));
    let late_part = |name: &str| vec![(name.to_owned(), late())];
    let report = report.map_or_else(|_| late(), |report| Ok(of_json(&report.json())));
    let mut taken = vec![
        ("config.txt".to_owned(), Ok(of_text(config::report(loaded)))),
        ("doctor.json".to_owned(), report),
    ];
    taken.extend(host.unwrap_or_else(|_| late_part("host")));
    taken.extend(of_agent.unwrap_or_else(|_| late_part("agent")));
    let (known, unread) = known;
    if !unread.is_empty() {
        screen.tell(UNKNOWN);
        let unread = unread
            .into_iter()
            .map(|file| (format!("secrets to be masked: {file}"), late()));
        taken.extend(unread);
    }
    let mask = SecretMask::new(known.iter().map(Vec::as_slice));
    packed(taken, &mask, order.container_logs)
}

/// Secrets that this host knows, and files of which it is not known in time what they hold.
async fn known(config: Option<Config>, process: Option<u32>) -> (Vec<Vec<u8>>, Vec<String>) {
    let files = config.as_ref().map(secret_files).unwrap_or_default();
    let of_files = join_all(files.into_iter().map(|path| async move {
        let shown = path.display().to_string();
        let reading = blocking(move || in_file(&path));
        let read = timeout(KNOWN_MAX, reading).await.ok().flatten();
        read.ok_or(shown)
    }));
    let of_agent = blocking(move || known_secrets(config.as_ref(), process));
    let (of_agent, of_files) = tokio::join!(timeout(KNOWN_MAX, of_agent), of_files);
    let (mut known, mut unread) = (Vec::new(), Vec::new());
    match of_agent.ok().flatten() {
        Some(of_agent) => known = of_agent,
        None => unread.push("the agent's environment".to_owned()),
    }
    for read in of_files {
        match read {
            Ok(found) => known.extend(found),
            Err(path) => unread.push(path),
        }
    }
    (known, unread)
}

/// Masks and bounds all files, and tells of them in a manifest. `keeps_printed`: what containers print
/// stays.
fn packed(
    taken: Vec<(String, Source)>,
    mask: &SecretMask,
    keeps_printed: bool,
) -> Vec<(String, Vec<u8>)> {
    let (mut files, mut missing, mut left) = (Vec::new(), Vec::new(), BUNDLE_BYTES_MAX);
    for (name, source) in taken {
        match source {
            Ok((content, is_cut)) => {
                let mut file = masked(name, &content, mask, keeps_printed);
                file.is_cut |= is_cut;
                file.is_cut |= part_of(&file.name).bound(&mut file.content, left);
                left -= file.content.len();
                files.push(file);
            }
            Err(why) => missing.push(json!({"name": name, "why": mask.text(&why).0})),
        }
    }
    let listed = files.iter().map(|file| {
        json!({
            "name": file.name, "bytes": file.content.len(), "cut": file.is_cut,
            "masked": file.masked,
        })
    });
    let manifest = json!({
        "made_at": humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        "made_by": format!("chas-node-agent {}", env!("CARGO_PKG_VERSION")),
        "files": listed.collect::<Vec<_>>(),
        "missing": missing,
    });
    let first = (
        "manifest.json".to_owned(),
        format!("{manifest:#}\n").into_bytes(),
    );
    let rest = files.into_iter().map(|file| (file.name, file.content));
    std::iter::once(first).chain(rest).collect()
}

fn masked(name: String, content: &[u8], mask: &SecretMask, keeps_printed: bool) -> BundleFile {
    let mut text = String::from_utf8_lossy(content).into_owned();
    let mut count = 0;
    if let Ok(mut value) = serde_json::from_str::<Value>(&text) {
        count += mask_answer(&mut value, keeps_printed);
        text = format!("{value:#}\n");
    } else if name.ends_with(".ndjson") {
        let lines = text
            .lines()
            .map(|line| match serde_json::from_str::<Value>(line) {
                Ok(mut value) => {
                    count += mask_answer(&mut value, keeps_printed);
                    format!("{value}\n")
                }
                // One that was cut off.
                Err(_) => String::new(),
            });
        text = lines.collect();
    } else if !keeps_printed {
        let lines = text.lines().map(|line| match printed_at(line) {
            Some(place) => {
                count += 1;
                format!("{}{MASK}\n", &line[..place])
            }
            None => format!("{line}\n"),
        });
        text = lines.collect();
    }
    let (text, found) = mask.text(&text);
    let mut content = text.into_bytes();
    let is_cut = part_of(&name).bound(&mut content, FILE_BYTES_MAX);
    BundleFile {
        name,
        content,
        is_cut,
        masked: count + found,
    }
}

/// Name of a bundle that nobody named.
fn file_name(loaded: &LoadedConfig) -> PathBuf {
    let of = |config: &Config| config.node.id.clone();
    let node = loaded
        .outcome
        .as_ref()
        .map_or_else(|_| "node".to_owned(), of);
    let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let time: String = time.chars().filter(char::is_ascii_alphanumeric).collect();
    Path::new(&format!("chas-support-{node}-{time}.tar.zst")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_masked_and_bounded_and_what_is_missing_is_told() {
        let mask = SecretMask::new([&b"known-secret"[..]]);
        let taken = vec![
            ("a.txt".to_owned(), Ok(of_text("a known-secret\n"))),
            (
                "b.json".to_owned(),
                Ok(of_json(&json!({"token": "t", "n": 1}))),
            ),
            (
                "c.ndjson".to_owned(),
                Ok(of_text("{\"args\":[\"x\"]}\n{\"cut")),
            ),
            (
                "d.txt".to_owned(),
                Ok(of_text("d".repeat(FILE_BYTES_MAX + 1))),
            ),
            ("e.txt".to_owned(), Err("no known-secret there".to_owned())),
            (
                "f.log".to_owned(),
                Ok(of_text(
                    "not ready: HTTP 500: printed\nexit code 1: printed\nend\n",
                )),
            ),
        ];
        let files = packed(taken, &mask, false);
        let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "manifest.json",
                "a.txt",
                "b.json",
                "c.ndjson",
                "d.txt",
                "f.log"
            ]
        );
        let text = |at: usize| String::from_utf8(files[at].1.clone()).unwrap();
        assert_eq!(
            (&*text(1), &*text(3)),
            ("a ***\n", "{\"args\":[\"***\"]}\n")
        );
        assert_eq!(text(5), "not ready: HTTP 500: ***\nexit code 1: ***\nend\n");
        assert!(text(2).contains("\"token\": \"***\""), "{}", text(2));
        let manifest: Value = serde_json::from_str(&text(0)).unwrap();
        assert_eq!(manifest["files"][3]["cut"], true);
        assert_eq!(manifest["files"][0]["masked"], 1);
        let missing = json!([{"name": "e.txt", "why": "no *** there"}]);
        assert_eq!(manifest["missing"], missing);
        assert!(
            files
                .iter()
                .all(|(_, content)| content.len() <= FILE_BYTES_MAX)
        );
    }
}
