//! What a container, or a whole node, leaves behind: each kind of thing looked for where it would be.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::{Testbed, run};

/// Everything is taken away within this, or it is a leak. Taking away goes on in the background after a DELETE.
const PATIENCE: Duration = Duration::from_secs(15);

impl Testbed {
    /// Panics unless all that a container is made of goes away by itself: tasks, containers, writable layers, processes,
    /// netns, veth, map entries, cgroups, mounts, bundles, log directories. The image may stay.
    #[track_caller]
    pub(crate) fn assert_no_container_left(&self) {
        self.wait_for_none(Self::container_leaks);
    }

    /// Panics unless, beyond that, containerd's namespace is empty and neither bridge nor nftables table is left.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        self.wait_for_none(|bed| [bed.container_leaks(), bed.node_leaks()].concat());
    }

    #[track_caller]
    fn wait_for_none(&self, look: impl Fn(&Self) -> Vec<String>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = look(self);
            if found.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "left behind after {PATIENCE:?}:\n{}",
                found.join("\n")
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What is there of containers at this moment, a line each.
    pub(crate) fn container_leaks(&self) -> Vec<String> {
        let mut found = Vec::new();
        found.extend(self.listed("container", &["containers", "ls", "-q"]));
        found.extend(self.listed("task", &["tasks", "ls", "-q"]));
        found.extend(
            self.listed("snapshot", &["snapshots", "ls"])
                .into_iter()
                .filter(|line| !line.contains("Committed")),
        );
        found.extend(self.processes());
        found.extend(self.mounts());
        found.extend(names_in("netns", &self.dir.join("run/netns")));
        found.extend(names_in("host path", &self.dir.join("run/host-paths")));
        found.extend(names_in("logs", &self.dir.join("state/logs")));
        found.extend(names_in(
            "veth",
            &Path::new("/sys/class/net").join(&self.bridge).join("brif"),
        ));
        found.extend(names_in(
            "runc state",
            &Path::new("/run/containerd/runc").join(&self.namespace),
        ));
        for bundles in self.containerd.bundles() {
            found.extend(names_in("bundle", &bundles.join(&self.namespace)));
        }
        let cgroups = run(
            "find",
            [
                "/sys/fs/cgroup",
                "-type",
                "d",
                "-path",
                &format!("*{}*/*", self.namespace),
            ],
        );
        found.extend(
            cgroups
                .unwrap_or_default()
                .lines()
                .map(|path| format!("cgroup {path}")),
        );
        let prefix = self.subnet.trim_end_matches("0/24");
        let ruleset = run("nft", ["list", "ruleset"]).expect("nft is installed");
        // The bridge's own address ends in 1 and lives as long as the bridge.
        let own = [format!("{prefix}0/24"), format!("{prefix}1 ")];
        let elements = ruleset
            .lines()
            .filter(|line| line.contains(prefix) && !own.iter().any(|own| line.contains(own)));
        found.extend(elements.map(|line| format!("nft {}", line.trim())));
        found
    }

    fn node_leaks(&self) -> Vec<String> {
        let mut found = Vec::new();
        found.extend(self.listed("image", &["images", "ls", "-q"]));
        found.extend(self.listed("lease", &["leases", "ls", "-q"]));
        found.extend(self.listed("snapshot", &["snapshots", "ls"]));
        found.extend(self.listed("content", &["content", "ls", "-q"]));
        if Path::new("/sys/class/net").join(&self.bridge).exists() {
            found.push(format!("bridge {}", self.bridge));
        }
        let tables = run("nft", ["list", "tables"]).expect("nft is installed");
        found.extend(
            tables
                .lines()
                .filter(|line| line.contains(&self.bridge))
                .map(|line| format!("nft {line}")),
        );
        found
    }

    fn listed(&self, kind: &str, arguments: &[&str]) -> Vec<String> {
        let lines = self.ctr(arguments);
        lines
            .lines()
            .filter(|line| !line.starts_with("KEY"))
            .map(|line| format!("{kind} {line}"))
            .collect()
    }

    /// Shims, logging processes and whatever else names the namespace as an argument, or lives in a cgroup of it.
    fn processes(&self) -> Vec<String> {
        let cgroup = format!("/{}/", self.namespace);
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("proc is mounted").flatten() {
            let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let mut arguments = arguments.split(|byte| *byte == 0);
            let names_it = arguments
                .clone()
                .any(|argument| argument == self.namespace.as_bytes());
            if names_it
                || fs::read_to_string(entry.path().join("cgroup"))
                    .is_ok_and(|text| text.contains(&cgroup))
            {
                let program =
                    String::from_utf8_lossy(arguments.next().unwrap_or_default()).into_owned();
                found.push(format!("process {} {program}", entry.file_name().display()));
            }
        }
        found
    }

    fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
        let own = [
            self.dir.display().to_string(),
            format!("/{}/", self.namespace),
        ];
        table
            .lines()
            .filter(|line| own.iter().any(|own| line.contains(own)))
            .map(|line| format!("mount {line}"))
            .collect()
    }
}

fn names_in(kind: &str, dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| format!("{kind} {}", entry.path().display()))
        .collect()
}
