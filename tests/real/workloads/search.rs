//! Secret values searched for where they must not be, with grep, on a machine and in all that the agent answers.

use std::fs;
use std::path::Path;

use crate::harness::finish;
use crate::harness::systemd::Systemd;

/// Names files below a directory, on its own file system, that hold one of the words.
const GREP: &str = "find $1 -xdev -type f -print0 | xargs -0 -r grep -laF -f $0 || true";

/// What the values look like where they were not sealed.
fn looks(values: &[&str]) -> Vec<String> {
    use base64::Engine as _;
    let looks = values.iter().flat_map(|value| {
        let hex = value.bytes().map(|byte| format!("{byte:02x}")).collect();
        let encoded = base64::engine::general_purpose::STANDARD.encode(value);
        let whole = encoded.trim_end_matches('=').to_owned();
        [(*value).to_owned(), whole, hex]
    });
    looks.collect()
}

/// Proves that the values are in no file of the agent's, containerd's or a log, in no process but the containers' own, and in
/// no answer.
pub(super) async fn assert_nowhere(systemd: &Systemd, directory: &Path, values: &[&str]) {
    let looks = looks(values);
    let words = directory.join("words");
    fs::write(&words, looks.join("\n")).unwrap();
    for place in [
        "/var/lib/chas",
        "/var/lib/containerd",
        "/var/log",
        "/run",
        "/tmp",
        "/etc/chas",
    ] {
        let mut grep = std::process::Command::new("sh");
        grep.args(["-ec", GREP])
            .arg(&words)
            .arg(systemd.path(place));
        let found = finish(&mut grep).unwrap();
        assert_eq!(found, "", "{place}");
    }
    let find = |content: &str| looks.iter().any(|look| content.contains(look));
    let journal = systemd.run("journalctl -o export --no-pager").unwrap();
    assert!(journal.contains("step finished"), "it is the journal");
    assert!(!find(&journal), "the journal");
    processes(systemd, find);
    answers(systemd, find).await;
}

/// Arguments of all processes, and variables of those that are in no container.
fn processes(systemd: &Systemd, find: impl Fn(&str) -> bool) {
    let space = |entry: &Path| fs::read_link(entry.join("ns/pid")).ok();
    let host = space(Path::new(&systemd.path("/proc/1")));
    let mut own = 0;
    for entry in fs::read_dir(systemd.path("/proc")).unwrap().flatten() {
        let read = |file: &str| {
            let content = fs::read(entry.path().join(file)).unwrap_or_default();
            String::from_utf8_lossy(&content).into_owned()
        };
        assert!(!find(&read("cmdline")), "{:?}", entry.path());
        if space(&entry.path()) == host {
            own += 1;
            assert!(!find(&read("environ")), "{:?}", entry.path());
        }
    }
    assert!(own > 5, "containerd, its shims, the agent, …: {own}");
}

/// Every answer to a GET, as the agent's own table has them.
async fn answers(systemd: &Systemd, find: impl Fn(&str) -> bool) {
    let table = include_str!("../../../src/api/rights.rs").split("Method::GET, ");
    let paths = table.skip(1).map(|rest| match rest.strip_prefix('"') {
        Some(path) => path.split('"').next().unwrap(),
        None if rest.starts_with("METRICS_PATH") => "/metrics",
        None => "/containers/{id}/logs",
    });
    let mut asked = 0;
    // An archive is what the container has itself.
    for path in paths.filter(|path| !path.ends_with("/archive")) {
        for name in ["postgres", "redis", "nginx", "postgres-data"] {
            let filled = path.replace("{id}", name).replace("{name}", name);
            let (status, text) = systemd.answer("GET", &filled, None).await;
            assert!(!find(&text), "{filled}");
            asked += usize::from(status == 200);
            if filled == path {
                break;
            }
        }
    }
    assert!(asked >= 18, "{asked} were answered");
}
