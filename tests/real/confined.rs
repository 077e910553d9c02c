//! What a container cannot do, tried from inside, and what it can all the same.

use serde_json::json;

use crate::harness::containerd::search_path;
use crate::harness::image::Image;
use crate::harness::{Testbed, run};
use crate::stand::{Stand, eventually};

mod own_ids;

const EPERM: &str = "1";
const ENOSYS: &str = "38";

/// Image whose program tries what it must not be able to do.
async fn push_probe(stand: &Stand) {
    let directory = tempfile::tempdir().unwrap();
    let [source, program] = ["sockets.c", "sockets"].map(|name| directory.path().join(name));
    std::fs::write(&source, include_str!("confined/sockets.c")).unwrap();
    let (source, built) = (source.to_str().unwrap(), program.to_str().unwrap());
    run("cc", ["-static", "-O1", "-o", built, source]).unwrap();
    Image::busybox()
        .program("/sockets", &std::fs::read(&program).unwrap())
        .device("/tunnels", 10, 200)
        .push(&stand.registry, "probe:1")
        .await;
}

/// What the program printed in a container.
async fn tried(stand: &Stand, name: &str, user: &str) -> String {
    push_probe(stand).await;
    let more = json!({"image": stand.image("probe:1"), "user": user});
    let script =
        "/sockets; grep CapBnd /proc/self/status; ulimit -Hc; echo the-end; sleep 1000 & wait";
    stand.agent.deploy(&stand.script(name, script, &more)).await;
    stand.printed(name, "the-end").await
}

#[track_caller]
fn check(log: &str, expected: &[(&str, &str)]) {
    for (call, answer) in expected {
        let line = format!("{call}: {answer}\n");
        assert!(
            log.starts_with(&line) || log.contains(&format!("\n{line}")),
            "{line}{log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_container_opens_af_alg_in_either_word_length_nor_a_raw_socket_nor_a_tunnel() {
    let stand = Stand::new().await;
    let log = tried(&stand, "probe", "0").await;
    check(
        &log,
        &[
            ("alg", EPERM),
            ("vsock", EPERM),
            ("alg with a high bit", EPERM),
            ("vsock with a high bit", EPERM),
            ("inet with a high bit", "open"),
            ("inet", "open"),
            ("unix", "open"),
            ("netlink", "open"),
            ("raw", EPERM),
            ("packet", EPERM),
        ],
    );
    if cfg!(target_arch = "x86_64") {
        check(
            &log,
            &[
                ("narrow alg", EPERM),
                ("narrow vsock", EPERM),
                ("narrow inet", "open"),
                ("socketcall alg", ENOSYS),
                ("socketcall vsock", ENOSYS),
                ("socketcall inet", ENOSYS),
            ],
        );
    }
    // On cgroup v2 the runtime grants the device, and nothing can take it away.
    if std::path::Path::new("/sys/fs/cgroup/devices").exists() {
        check(&log, &[("tun", EPERM)]);
    }
    assert!(log.contains("CapBnd:\t00000000a00405fb\n0\n"), "{log}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ping_works_without_the_capability_for_root_and_for_others() {
    let stand = Stand::new().await;
    for (name, user) in [("root", "0"), ("other", "web")] {
        let log = tried(&stand, name, user).await;
        check(&log, &[("ping", "open"), ("raw", EPERM)]);
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_node_grants_again_is_there() {
    let variables = [
        ("CHAS_CAPABILITIES", "ALL"),
        ("CHAS_ALLOW_SOCKETCALL", "true"),
    ];
    let stand = Stand::with(Testbed::new(), &variables).await;
    let log = tried(&stand, "probe", "0").await;
    check(
        &log,
        &[
            ("alg", EPERM),
            ("vsock with a high bit", EPERM),
            ("raw", "open"),
            ("packet", "open"),
        ],
    );
    if cfg!(target_arch = "x86_64") {
        check(&log, &[("socketcall inet", "open")]);
    }
    assert!(log.contains("CapBnd:\t00000000a80425fb\n"), "{log}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_keeps_what_it_has_over_restarts_until_it_is_created_again() {
    let mut stand = Stand::with(Testbed::new(), &[("CHAS_CAPABILITIES", "ALL")]).await;
    let script = "grep CapBnd /proc/self/status; sleep 1000 & wait";
    let body = stand.script("web", script, &json!({}));
    let shown = stand.agent.deploy_and_wait(&body).await;
    let pid = stand.pid(&shown);
    stand.agent.terminate();
    stand.agent.set("CHAS_CAPABILITIES", "NONE");
    stand.agent.start_again().await;

    let same = stand.agent.deploy_and_wait(&body).await;
    assert_eq!(
        (&same["generation"], stand.pid(&same)),
        (&shown["generation"], pid)
    );
    let all = "CapBnd:\t00000000a80425fb\n";
    let restart = "/containers/web/restart?wait=running";
    stand.agent.ask("POST", restart, None).await;
    eventually("the same once more", async || {
        stand.agent.logs("web", "tail=all").await == all.repeat(2)
    })
    .await;

    let changed = stand.script("web", script, &json!({"environment": {"A": "b"}}));
    stand.agent.deploy_and_wait(&changed).await;
    stand.printed("web", "CapBnd:\t0000000000000000\n").await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_what_is_in_force() {
    let stand = Stand::new().await;
    let (_, health) = stand.agent.get("/health").await;
    let confinement = &health["confinement"];
    let withheld = json!(["CAP_MKNOD", "CAP_NET_RAW"]);
    assert_eq!(confinement["capabilities"]["withheld"], withheld);
    assert_eq!(confinement["seccomp"]["in_force"], true, "{confinement}");
    let is_loaded = std::fs::read_to_string("/sys/kernel/security/apparmor/profiles")
        .is_ok_and(|profiles| profiles.contains("chas-default (enforce)"));
    assert_eq!(confinement["apparmor"]["in_force"], is_loaded);
    let layers = ["apparmor", "selinux", "tunnels", "user_namespaces"];
    for layer in layers {
        let detail = confinement[layer]["detail"].as_str().unwrap();
        assert!(!detail.is_empty(), "{confinement}");
    }
    // Both as Debian 12 has them.
    let told = |program: &str, words: &str| {
        let output = std::process::Command::new(program)
            .arg("--version")
            .env("PATH", search_path())
            .output();
        String::from_utf8_lossy(&output.unwrap().stdout).contains(words)
    };
    if told("runc", "runc version 1.1.5") && told("containerd", " 1.6.20") {
        eventually("the alarm", async || {
            let (_, health) = stand.agent.get("/health").await;
            let alarms = health["alarms"].as_array().unwrap().iter();
            let mut ours = alarms.filter(|alarm| alarm["name"] == "RuntimeOutdated");
            ours.any(|alarm| {
                let message = alarm["message"].as_str().unwrap();
                alarm["health"] == "healthy"
                    && message.contains("runc 1.1.5")
                    && message.contains("containerd 1.6.20")
            })
        })
        .await;
    }
    stand.end().await;
}
