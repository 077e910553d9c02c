//! The rules of the house, held against the sources: who may know whom, and how large a room may be.

use std::path::{Path, PathBuf};

mod arrows;

/// What each room at the top may use of the others. Whatever is not here may use nothing.
const MAY_USE: &[(&str, &[&str])] = &[
    (
        "main",
        &[
            "agent",
            "audit",
            "cli",
            "client",
            "config",
            "doctor",
            "log_level",
            "logs",
            "telemetry",
            "uninstall",
        ],
    ),
    ("client", &["cause", "config"]),
    (
        "uninstall",
        &["agent", "client", "config", "mountinfo", "mounts"],
    ),
    (
        "doctor",
        &[
            "agent",
            "api",
            "archive",
            "cause",
            "cgroup",
            "chas",
            "client",
            "config",
            "mountinfo",
            "network",
            "node",
            "registry",
            "runtime",
        ],
    ),
    (
        "agent",
        &[
            "api",
            "archive",
            "audit",
            "backoff",
            "cause",
            "cgroup",
            "chas",
            "config",
            "exec",
            "feed",
            "host_paths",
            "journal",
            "lock",
            "log_level",
            "logs",
            "metrics",
            "monitor",
            "network",
            "node",
            "notify",
            "otlp",
            "probe",
            "reconcile",
            "registry",
            "runtime",
            "secrets",
            "shutdown",
            "signals",
            "view",
            "volumes",
            "writer",
        ],
    ),
    (
        "node",
        &[
            "api",
            "archive",
            "audit",
            "cause",
            "cgroup",
            "chas",
            "config",
            "exec",
            "feed",
            "journal",
            "lock",
            "log_level",
            "logs",
            "metrics",
            "monitor",
            "reconcile",
            "runtime",
            "view",
            "volumes",
            "writer",
        ],
    ),
    (
        "api",
        &[
            "archive",
            "audit",
            "cgroup",
            "config",
            "exec",
            "feed",
            "lock",
            "log_level",
            "logs",
            "metrics",
            "monitor",
            "otlp",
            "view",
        ],
    ),
    ("view", &["cgroup", "logs", "monitor"]),
    (
        "chas",
        &[
            "backoff", "cause", "config", "journal", "lock", "lookup", "otlp",
        ],
    ),
    ("cli", &["client", "config", "doctor", "uninstall"]),
    ("telemetry", &["config"]),
    ("otlp", &["cause", "lock", "lookup"]),
    ("log_level", &["lock"]),
    ("feed", &["lock"]),
    ("metrics", &["lock", "monitor"]),
    ("monitor", &["lock"]),
    ("journal", &["feed", "lock", "metrics"]),
    ("audit", &["journal", "lock", "metrics"]),
    ("logs", &["cgroup", "journal", "lock", "mounts"]),
    (
        "reconcile",
        &[
            "backoff", "cause", "journal", "lock", "otlp", "runtime", "writer",
        ],
    ),
    (
        "probe",
        &["exec", "journal", "metrics", "reconcile", "writer"],
    ),
    ("writer", &["cause", "journal", "lock", "metrics"]),
    (
        "runtime",
        &[
            "archive",
            "backoff",
            "cause",
            "cgroup",
            "devices",
            "exec",
            "host_paths",
            "journal",
            "lock",
            "logs",
            "mounts",
            "network",
            "oci",
            "otlp",
            "permits",
            "registry",
            "secrets",
            "volumes",
            "within",
        ],
    ),
    (
        "hostile",
        &[
            "api", "chas", "config", "logs", "network", "oci", "registry", "runtime",
        ],
    ),
    ("secrets", &["config", "lock", "mounts"]),
    (
        "host_paths",
        &["lock", "mountinfo", "mounts", "permits", "within"],
    ),
    ("archive", &["journal", "metrics", "permits", "within"]),
    (
        "volumes",
        &["lock", "mountinfo", "mounts", "permits", "within"],
    ),
    ("network", &["cause", "journal", "lock", "mounts"]),
    (
        "registry",
        &["backoff", "cause", "journal", "lock", "lookup", "permits"],
    ),
    ("logs", &["journal"]),
    ("lookup", &["lock", "permits"]),
    ("exec", &["journal", "lock", "metrics", "permits"]),
    ("permits", &["lock"]),
    ("cgroup", &["lock"]),
    ("devices", &[]),
    ("oci", &["cgroup", "devices"]),
    ("config", &[]),
];
/// A file that has grown beyond this holds more than one thing.
const LINES_MAX: usize = 400;
/// Tables of tests are read a row at a time.
const TEST_LINES_MAX: usize = 500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn sources(directory: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut left = vec![root().join(directory)];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    assert!(!found.is_empty(), "{directory} holds no sources");
    found
}

/// The room at the top that a file below `src` belongs to.
fn room(path: &Path) -> String {
    let second = path
        .components()
        .nth(1)
        .unwrap()
        .as_os_str()
        .to_str()
        .unwrap();
    second.trim_end_matches(".rs").to_owned()
}

/// The rooms that a file names, as `crate::room` or, from the program, `chas_node_agent::room`.
fn named(text: &str) -> Vec<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| format!("{line}\n"))
        .collect();
    let mut rooms = Vec::new();
    for prefix in ["crate::", "use chas_node_agent::"] {
        for (at, _) in code.match_indices(prefix) {
            let rest = &code[at + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(group) => rooms.extend(
                    group
                        .split('}')
                        .next()
                        .unwrap()
                        .split(',')
                        .map(|word| word.trim().to_owned()),
                ),
                None => rooms.push(
                    rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                        .next()
                        .unwrap()
                        .to_owned(),
                ),
            }
        }
    }
    rooms
        .into_iter()
        .map(|room| room.split(':').next().unwrap().to_owned())
        .filter(|room| !room.is_empty())
        .collect()
}

#[test]
fn each_room_knows_only_whom_it_may() {
    for (path, text) in sources("src") {
        let room = room(&path);
        let allowed = MAY_USE
            .iter()
            .find(|(name, _)| *name == room)
            .map_or(&[][..], |(_, allowed)| *allowed);
        for used in named(&text).iter().filter(|used| **used != room) {
            assert!(
                allowed.contains(&used.as_str()),
                "{} uses {used}, which {room} may not know",
                path.display()
            );
        }
    }
}

#[test]
fn only_the_rooms_for_it_name_a_foreign_thing() {
    for (thing, homes) in [
        ("containerd_client", &["src/runtime/containerd"][..]),
        ("tonic::", &["src/runtime/containerd/rpc"]),
        ("io.containerd.runc", &["src/runtime/containerd/shim"]),
        ("02x}", &["state/src/digest.rs"]),
        // An engine knows neither of the node's own parts.
        (
            "crate::network",
            &[
                "src/agent",
                "src/doctor",
                "src/hostile",
                "src/network",
                "src/runtime/node",
            ],
        ),
        (
            "crate::logs",
            &[
                "src/agent",
                "src/api",
                "src/hostile",
                "src/logs",
                "src/node",
                "src/runtime/node",
                "src/view/health.rs",
                "src/view/usage.rs",
            ],
        ),
        ("rtnetlink", &["src/network"]),
        ("axum::", &["src/api", "src/agent"]),
        ("serde_yaml", &["src/config/file.rs", "src/devices/cdi.rs"]),
        ("sled::", &["state/src/store/disk"]),
        ("::backoff", &["src/backoff.rs"]),
        ("httpdate::", &["src/backoff.rs", "src/doctor"]),
        ("listenfd::", &["src/agent/inherited.rs"]),
        ("sysinfo::", &["src/monitor"]),
        ("procfs::", &["src/monitor"]),
        ("prometheus_client", &["src/metrics"]),
        ("tar::", &["src/archive"]),
        ("zstd::", &["src/archive"]),
        ("std::process::exit", &[]),
        (
            "tests/support",
            &["src/api/tests/openapi.rs", "src/node/tests"],
        ),
    ] {
        for (path, text) in sources("src").into_iter().chain(sources("state/src")) {
            let home = homes
                .iter()
                .any(|home| path.starts_with(home) || path == Path::new(&format!("{home}.rs")));
            let uses = text
                .lines()
                .any(|line| !line.trim_start().starts_with("//") && line.contains(thing));
            let own = thing == "::backoff" && text.contains("crate::backoff");
            assert!(home || own || !uses, "{} names {thing}", path.display());
        }
    }
}

#[test]
fn what_may_panic_or_is_unfinished_stands_only_in_tests() {
    for (path, text) in sources("src")
        .into_iter()
        .chain(sources("state/src"))
        .chain(sources("examples"))
    {
        if path
            .components()
            .any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs")))
        {
            continue;
        }
        let code = text.split("mod tests {").next().unwrap();
        for word in [".unwrap()", "todo!(", "unimplemented!(", "panic!(", "dbg!("] {
            let at = code
                .lines()
                .position(|line| !line.trim_start().starts_with("//") && line.contains(word));
            assert_eq!(at, None, "{} has {word}", path.display());
        }
    }
}

#[test]
fn files_are_small_and_begin_with_what_they_are() {
    for (path, text) in sources("src")
        .into_iter()
        .chain(sources("state/src"))
        .chain(sources("tests"))
        .chain(sources("examples"))
    {
        let lines = text.lines().count();
        let is_tests =
            path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests");
        assert!(
            lines <= if is_tests { TEST_LINES_MAX } else { LINES_MAX },
            "{} has {lines} lines",
            path.display()
        );
        assert_ne!(path.file_name().unwrap(), "mod.rs", "{}", path.display());
        assert!(
            path.ends_with("tests.rs") || text.starts_with("//! "),
            "{} does not say what it is",
            path.display()
        );
    }
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.lines().count() <= 200);
    let alarms = std::fs::read_to_string(root().join("contrib/docs/alarms.md")).unwrap();
    for alarm in state::alarm::Alarm::ALL {
        let (weight, meaning, remedy) = (alarm.weight(), alarm.meaning(), alarm.remedy());
        let row = format!("| `{alarm}` | {weight:?} | {meaning} | {remedy} |");
        assert!(alarms.contains(&row), "contrib/docs/alarms.md lacks: {row}");
    }
    let node = std::fs::read_to_string(root().join("contrib/docs/node.md")).unwrap();
    for health in state::alarm::NodeHealth::ALL {
        let row = format!("| `{}` | {} |", health.as_str(), health.rule());
        assert!(node.contains(&row), "contrib/docs/node.md lacks: {row}");
    }
    let events = std::fs::read_to_string(root().join("contrib/docs/events.md")).unwrap();
    for kind in state::event::TOLD_KINDS {
        assert!(
            events.contains(&format!("`{kind}`")),
            "contrib/docs/events.md lacks: {kind}"
        );
    }
}
