//! `doctor` by the program itself: on a sound node, and with faults planted into one.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::agent::PROGRAM;
use crate::harness::{Testbed, run};
use crate::stand::{SOON, Stand};

/// Runs it with what the agent is started with, and more; the exit code and the answer.
fn examined(stand: &Stand, before: &[&str], more: &[(&str, &str)]) -> (i32, Value) {
    let line = [before, &["timeout", "60", PROGRAM, "doctor", "--json"]].concat();
    let output = Command::new(line[0])
        .args(&line[1..])
        .env_clear()
        .envs(stand.agent.environment())
        .envs(more.iter().copied())
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    let answer = serde_json::from_slice(&output.stdout);
    let answer = answer.unwrap_or_else(|_| panic!("{output:?}"));
    (output.status.code().unwrap(), answer)
}

fn examine(stand: &Stand) -> (i32, Value) {
    tokio::task::block_in_place(|| examined(stand, &[], &[]))
}

/// Verdicts of a check with their messages.
fn of(report: &Value, check: &str) -> Vec<(String, String)> {
    let checks = report["checks"].as_array().unwrap();
    let own = checks.iter().filter(|one| one["check"] == check);
    own.map(|one| {
        let word = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
        let is_faulty = ["warn", "fail"].contains(&word("verdict").as_str());
        assert_eq!(is_faulty, !word("remedy").is_empty(), "{one}");
        (word("verdict"), word("message"))
    })
    .collect()
}

#[track_caller]
fn found(report: &Value, check: &str, verdict: &str, part: &str) {
    let answers = of(report, check);
    let is_found = |(word, message): &(String, String)| word == verdict && message.contains(part);
    assert!(
        answers.iter().any(is_found),
        "{check} {verdict} {part}: {answers:?}"
    );
}

#[track_caller]
fn well(report: &Value, checks: &[&str]) {
    for check in checks {
        for (verdict, message) in of(report, check) {
            assert_eq!(verdict, "ok", "{check}: {message}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_node_is_well_and_each_planted_fault_is_found_with_its_remedy() {
    let bed = Testbed::with_private_containerd();
    let mut stand = Stand::on(bed).await;
    let body = stand.script("web", "sleep 1000 & wait", &json!({}));
    stand.agent.deploy_and_wait(&body).await;
    let sound = [
        "configuration",
        "namespaces",
        "overlayfs",
        "seccomp",
        "control-groups",
        "nf-tables",
        "containerd-reachable",
        "snapshotter",
        "runtime-programs",
        "containerd-namespace",
        "forwarding",
        "firewall",
        "subnet",
        "file-modes",
        "certificates",
        "registries",
        "left-overs",
        "agent",
        "api-port",
    ];
    let (_, report) = examine(&stand);
    well(&report, &sound);
    found(&report, "registries", "ok", "box:1");
    let before = stand.bed.try_ctr(&["containers", "ls"]);
    let listing = tree(&stand);
    well(&examine(&stand).1, &sound);
    assert_eq!(
        stand.bed.try_ctr(&["containers", "ls"]),
        before,
        "it changes nothing"
    );
    assert_eq!(tree(&stand), listing, "it changes nothing");

    // An alarm of the agent that runs.
    let policy = stand.bed.dir.join("policy.yaml");
    fs::write(&policy, "no rule: [").unwrap();
    stand.agent.terminate();
    stand
        .agent
        .set("CHAS_POLICY_FILE", policy.to_str().unwrap());
    stand.agent.start_again().await;
    let (code, report) = examine(&stand);
    assert_eq!(code, 1, "{report}");
    found(&report, "alarms", "fail", "PolicyUnusable");
    found(&report, "configured-files", "fail", "policy.yaml");
    fs::remove_file(&policy).unwrap();

    // From here on no agent runs that would mend it.
    stand.agent.terminate();
    let (_, report) = examine(&stand);
    found(&report, "agent", "warn", "no agent answers");
    found(&report, "left-overs", "ok", "none");
    found(&report, "registries", "ok", "box:1");

    let state = stand.bed.dir.join("state");
    let chmod = |mode| fs::set_permissions(&state, Permissions::from_mode(mode)).unwrap();
    chmod(0o755);
    let token = state.join("admin-token");
    fs::write(&token, "a-token-0123456789-0123456789").unwrap();
    fs::set_permissions(&token, Permissions::from_mode(0o644)).unwrap();
    let (code, report) = examine(&stand);
    assert_eq!(code, 1, "{report}");
    found(&report, "file-modes", "fail", "(mode 0755)");
    found(&report, "file-modes", "fail", "admin-token");
    fs::remove_file(&token).unwrap();
    chmod(0o700);

    let subnet = stand.bed.subnet.clone();
    let route = subnet.replace(".0/24", ".128/25");
    run("ip", ["route", "add", "blackhole", &route]).unwrap();
    let report = examine(&stand).1;
    run("ip", ["route", "del", "blackhole", &route]).unwrap();
    found(&report, "subnet", "fail", &route);

    let netns = stand.bed.dir.join("run/netns/ffffffffffff-1");
    File::create(&netns).unwrap();
    let netns = netns.to_str().unwrap();
    run("mount", ["--bind", "/proc/self/ns/net", netns]).unwrap();
    let report = examine(&stand).1;
    run("umount", [netns]).unwrap();
    fs::remove_file(netns).unwrap();
    found(&report, "left-overs", "warn", "netns ffffffffffff-1");

    let taken = std::net::TcpListener::bind(stand.agent.address()).unwrap();
    found(&examine(&stand).1, "api-port", "fail", "listens on");
    drop(taken);

    stand.bed.containerd.stop();
    let (code, report) = examine(&stand);
    stand.bed.containerd.start();
    assert_eq!(code, 1, "{report}");
    found(&report, "containerd-reachable", "fail", "containerd.sock");
    found(&report, "snapshotter", "skip", "does not answer");

    stand.agent.start_again().await;
    stand.agent.wait_status("web", "running", SOON).await;
    stand.end().await;
}

/// Names, sizes and times of the files that the agent keeps.
fn tree(stand: &Stand) -> String {
    let dirs = ["state", "run"].map(|dir| stand.bed.dir.join(dir).display().to_string());
    let words = ["-name", "*.json*", "-prune", "-o", "-printf", "%p %m %y\n"];
    let arguments: Vec<&str> = dirs.iter().map(String::as_str).chain(words).collect();
    let mut lines: Vec<_> = run("find", arguments)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_that_is_off_and_certificates_that_are_over_are_found() {
    let mut stand = Stand::new().await;
    stand.agent.terminate();
    let dir = &stand.bed.dir;
    let [certificate, key] = ["x.crt", "x.key"].map(|name| dir.join(name).display().to_string());
    let script = r#"
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1" -out "$1.csr" -subj /CN=x
        printf 'basicConstraints=CA:FALSE\n' >"$1.ext"
        openssl x509 -req -in "$1.csr" -signkey "$1" -days 0 -out "$0" -extfile "$1.ext"
    "#;
    run("sh", ["-ec", script, &certificate, &key]).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let more = [
        ("CHAS_TLS_CERT_FILE", certificate.as_str()),
        ("CHAS_TLS_KEY_FILE", &key),
    ];
    let (code, report) = tokio::task::block_in_place(|| examined(&stand, &[], &more));
    assert_eq!(code, 1, "{report}");
    found(&report, "certificates", "fail", "x.crt does not count now");

    // CHaS that is not there.
    let more = [("CHAS_API_URL", "http://user:planted-password@127.0.0.1:1/")];
    let (code, report) = tokio::task::block_in_place(|| examined(&stand, &[], &more));
    assert_eq!(code, 1, "{report}");
    assert!(!report.to_string().contains("planted-password"), "{report}");

    // A host of its own, with the agent's bridge, and no forwarding.
    let host = format!("{}d", stand.bed.namespace);
    let bridge = stand.bed.bridge.clone();
    run("ip", ["netns", "add", &host]).unwrap();
    let inside = |words: &[&str]| {
        run("ip", [&["netns", "exec", &host][..], words].concat()).unwrap();
    };
    inside(&["ip", "link", "add", &bridge, "type", "bridge"]);
    inside(&["sysctl", "-qw", "net.ipv4.ip_forward=0"]);
    let before = ["ip", "netns", "exec", &host];
    let off = tokio::task::block_in_place(|| examined(&stand, &before, &[])).1;
    inside(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
    let rule = "add table ip beside; add chain ip beside gate { type filter hook forward priority 0; policy drop; }";
    inside(&["nft", rule]);
    let closed = tokio::task::block_in_place(|| examined(&stand, &before, &[])).1;
    run("ip", ["netns", "del", &host]).unwrap();
    found(&off, "forwarding", "fail", "off, although");
    found(&closed, "forwarding", "ok", "on");
    found(&closed, "firewall", "fail", "beside");

    // As nobody: told what was not looked at, and no failure of the whole.
    let before = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let report = tokio::task::block_in_place(|| examined(&stand, &before, &[])).1;
    found(&report, "nf-tables", "skip", "only root");
    found(&report, "runtime-programs", "skip", "only root");
    stand.agent.start_again().await;
    stand.end().await;
}
