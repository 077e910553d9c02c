//! What quickstart chooses on the host, held against hosts of every kind: `ip` and `ss` are stand-ins here.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

const DEFAULT: &str = "default via 192.0.2.1 dev eth0\n";

/// Runs lines of shell after `contrib/node.sh` in a new node, where `ip` prints these routes and `ss` nothing.
fn run_in_node(node: &Path, routes: &str, lines: &str) -> Result<String, String> {
    let programs = node.join("programs");
    std::fs::create_dir_all(&programs).unwrap();
    std::fs::write(node.join("routes"), routes).unwrap();
    // Line by line, as `ip` prints: a reader that ends early ends it by a signal.
    let ip = format!(
        "#!/bin/sh\nwhile IFS= read -r line; do printf '%s\\n' \"$line\"; done <{}\n",
        node.join("routes").display()
    );
    for (name, text) in [("ip", ip.as_str()), ("ss", "#!/bin/sh\n")] {
        std::fs::write(programs.join(name), text).unwrap();
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(programs.join(name), executable).unwrap();
    }
    let script = format!(
        "set -euo pipefail; PATH={}:$PATH NODE={}; source {}/contrib/node.sh; BRIDGE=own; {lines}",
        programs.display(),
        node.display(),
        env!("CARGO_MANIFEST_DIR")
    );
    let done = Command::new("bash").args(["-c", &script]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if done.status.success() {
        Ok(text(&done.stdout))
    } else {
        Err(text(&done.stderr))
    }
}

#[test]
fn quickstart_takes_the_first_subnet_that_nobody_has() {
    #[track_caller]
    fn check(routes: &str, chosen: &str) {
        let node = tempfile::tempdir().unwrap();
        let found = run_in_node(node.path(), routes, "choose_subnet");
        assert_eq!(found.as_deref(), Ok(chosen), "{routes:.300}");
    }
    check(DEFAULT, "10.231.0.0/24");
    check(
        "10.231.0.0/24 dev eth1 scope link\n10.231.1.0/26 dev eth2\n",
        "10.231.2.0/24",
    );
    check(
        "local 10.231.0.9 dev lo table local scope host\n",
        "10.231.1.0/24",
    );
    check("10.231.0.0/23 via 192.0.2.9 dev eth0\n", "10.231.0.0/24");
    check("10.231.0.0/16 dev chas0 scope link\n", "172.30.0.0/24");
    check(
        "10.0.0.0/8 dev eth0 scope link\n172.16.0.0/12 dev wg0 scope link\n",
        "192.168.0.0/24",
    );
    check("10.0.0.0/8 via 192.0.2.9 dev eth0\n", "10.231.0.0/24");
    check(
        "10.231.0.0/24 via 192.0.2.9 dev eth0 table 55\n",
        "10.231.1.0/24",
    );
    check("blackhole 10.231.0.128/25\n", "10.231.1.0/24");
    check(
        "10.231.0.0/24 dev own scope link\nbroadcast 10.231.0.255 dev own\n",
        "10.231.0.0/24",
    );
    // However long the list is: who reads only up to the first match ends `ip` with an error.
    let many: String = (0..5000)
        .map(|n| format!("100.{}.{}.0/24 dev v{n}\n", n / 250, n % 250))
        .collect();
    check(&format!("10.231.0.0/24 dev eth1\n{many}"), "10.231.1.0/24");
}

#[test]
fn quickstart_keeps_its_subnet_and_says_so_if_another_has_it_now() {
    let node = tempfile::tempdir().unwrap();
    let choose = |routes: &str| run_in_node(node.path(), routes, "choose_subnet");
    assert_eq!(choose("10.231.0.0/24 dev eth1\n").unwrap(), "10.231.1.0/24");
    assert_eq!(choose(DEFAULT).unwrap(), "10.231.1.0/24");
    let refused = choose("10.231.1.0/24 dev eth1\n").unwrap_err();
    assert!(
        refused.contains("10.231.1.0/24") && refused.contains("--down"),
        "{refused}"
    );
}

#[test]
fn quickstart_passes_over_a_port_at_which_something_answers() {
    let node = tempfile::tempdir().unwrap();
    // `ss` shows nothing of it, as of a port that a rule of another program publishes.
    let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = theirs.local_addr().unwrap().port();
    let choose = format!("choose_port agent {port}");
    let chosen = run_in_node(node.path(), DEFAULT, &choose).unwrap();
    assert!(
        chosen.parse::<u16>().unwrap() > port,
        "{chosen} instead of {port}"
    );

    // As long as nothing is configured by the port, it may be another one.
    std::fs::write(node.path().join("agent.port"), port.to_string()).unwrap();
    let chosen = run_in_node(node.path(), DEFAULT, &choose).unwrap();
    assert_ne!(chosen, port.to_string());
    assert_eq!(run_in_node(node.path(), DEFAULT, &choose), Ok(chosen));

    std::fs::write(node.path().join("agent.port"), port.to_string()).unwrap();
    std::fs::write(node.path().join("node-agent.yaml"), "node: {}").unwrap();
    let refused = run_in_node(node.path(), DEFAULT, &choose).unwrap_err();
    assert!(
        refused.contains(&port.to_string()) && refused.contains("another program's"),
        "{refused}"
    );
}
