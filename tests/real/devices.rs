//! Devices that containers are given, by their nodes and by CDI files, and other runtimes than runc.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::{Value, json};
use state::reason::Reason;

use crate::harness::Testbed;
use crate::reasons::shows;
use crate::stand::{Stand, eventually};

/// Files of this test below the host's own directories, removed with it.
struct HostFiles(Vec<PathBuf>);

impl Drop for HostFiles {
    fn drop(&mut self) {
        for path in &self.0 {
            fs::remove_file(path).ok();
        }
        // If no other test has a file there.
        fs::remove_dir("/run/cdi").ok();
    }
}

/// Node of the kernel's log, to which no container may write by itself, under a name of this test.
fn kernel_log(path: &Path) {
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(1, 11)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
}

/// Prints whether each of these can be opened for writing.
fn tries(paths: &[&str]) -> String {
    let one = |path: &&str| {
        format!(
            "if true 2>/dev/null > {path}; then echo {path} is open; else echo {path} is shut; fi"
        )
    };
    let tries: Vec<_> = paths.iter().map(one).collect();
    format!("{}; echo the-end; sleep 1000 & wait", tries.join("; "))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_given_to_who_asks_and_is_permitted_and_found_anew_with_each_start() {
    let bed = Testbed::new();
    let node = PathBuf::from(format!("/dev/chas-test-{}", bed.namespace));
    let files = HostFiles(vec![node.clone()]);
    kernel_log(&node);
    let name = node.to_str().unwrap();
    let permitted = format!("{name},/dev/chas-none-*,/dev/net/tun");
    let stand = Stand::with(bed, &[("CHAS_DEVICES", &permitted)]).await;
    let script = tries(&["/dev/given", "/dev/net/tun"]);
    let asked = |devices: Value| stand.script("a", &script, &json!({"devices": devices}));
    let (status, denied) = stand
        .agent
        .deploy(&asked(json!(["/dev/mem", "v.com/gpu=0"])))
        .await;
    assert_eq!(
        (status, &denied["rule"]),
        (403, &json!("node-devices")),
        "{denied}"
    );
    let given = format!("{name}:/dev/given:w");
    let shown = stand.agent.deploy_and_wait(&asked(json!([given]))).await;
    assert_eq!(shown["spec"]["devices"], json!([given]), "{shown}");
    let log = stand.printed("a", "the-end").await;
    assert!(
        log.contains("/dev/given is open") && log.contains("/dev/net/tun is shut"),
        "{log}"
    );
    // The host has it under another number by now, as after a restart.
    fs::remove_file(&node).unwrap();
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, &node, FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
    stand
        .agent
        .ask("POST", "/containers/a/restart?wait=running", None)
        .await;
    eventually("the other device", async || {
        let path = "/containers/a/exec";
        let body = json!({"command": ["stat", "-c", "%t:%T", "/dev/given"]});
        let (_, answer) = stand.agent.ask("POST", path, Some(&body)).await;
        answer["stdout"] == "1:3\n"
    })
    .await;
    let tunnels = json!(["/dev/net/tun"]);
    stand.agent.deploy_and_wait(&asked(tunnels)).await;
    stand.printed("a", "/dev/net/tun is open").await;
    stand
        .agent
        .deploy(&asked(json!(["/dev/chas-none-1"])))
        .await;
    shows(&stand.agent, "a", Reason::DeviceMissing, "/dev/chas-none-1").await;
    stand.end().await;
    drop(files);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cdi_device_brings_its_node_mount_variable_and_hook() {
    let bed = Testbed::new();
    let kind = format!("test.example/{}", bed.namespace);
    let file = PathBuf::from(format!("/run/cdi/{}.json", bed.namespace));
    let node = PathBuf::from(format!("/dev/chas-test-{}", bed.namespace));
    let files = HostFiles(vec![file.clone(), node.clone()]);
    kernel_log(&node);
    let (mounted, hooked) = (bed.dir.join("mounted"), bed.dir.join("hooked"));
    fs::write(&mounted, "from the vendor\n").unwrap();
    let hook = bed.dir.join("hook");
    fs::write(&hook, format!("#!/bin/sh\ncat > {}\n", hooked.display())).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let permitted = format!("{kind}=*");
    let stand = Stand::with(bed, &[("CHAS_DEVICES", &permitted)]).await;
    let script = format!(
        "echo D=$DRIVER V=$VENDOR; echo C=$CARD; cat /vendor/file; id -G; {}",
        tries(&["/dev/vendor0"])
    );
    let device = format!("{kind}=0");
    let body = stand.script(
        "a",
        &script,
        &json!({"devices": [device], "environment": {"VENDOR": "mine"}}),
    );
    stand.agent.deploy(&body).await;
    shows(&stand.agent, "a", Reason::DeviceMissing, &device).await;
    let edits = json!({
        "deviceNodes": [{"path": "/dev/vendor0", "hostPath": node}],
        "mounts": [{"hostPath": mounted, "containerPath": "/vendor/file", "options": ["ro"]}],
        "env": ["VENDOR=0", "CARD=0"], "additionalGids": [4321],
    });
    let whole = json!({"cdiVersion": "0.7.0", "kind": kind, "devices": [{"name": "0", "containerEdits": edits}],
        "containerEdits": {"env": ["DRIVER=7"], "hooks": [{"hookName": "createRuntime", "path": hook, "args": ["hook"]}]}});
    fs::create_dir_all("/run/cdi").unwrap();
    fs::write(&file, whole.to_string()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let log = stand.printed("a", "the-end").await;
    for part in [
        "D=7 V=mine\n",
        "from the vendor\n",
        "C=0\n",
        "4321",
        "/dev/vendor0 is open",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    let state: Value = serde_json::from_str(&fs::read_to_string(&hooked).unwrap()).unwrap();
    assert!(state["pid"].as_u64().is_some_and(|pid| pid > 0), "{state}");
    stand.end().await;
    drop(files);
}

/// A program that is called as runc is, and writes down that it was.
fn wrapper(directory: &Path, name: &str, command: &str) -> PathBuf {
    let (program, calls) = (
        directory.join(name),
        directory.join(format!("{name}.calls")),
    );
    let text = format!("#!/bin/sh\necho \"$@\" >> {}\n{command}\n", calls.display());
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_run_by_the_runtime_that_it_asks_for_and_by_no_other() {
    let bed = Testbed::new();
    // crun refuses a host of both versions of control groups as long as it sees the second.
    let unified = Path::new("/sys/fs/cgroup/unified");
    let crun = if unified.exists() {
        let hidden = "umount /sys/fs/cgroup/unified; exec crun \"$@\"";
        format!("exec unshare -m --propagation slave sh -c '{hidden}' crun \"$@\"")
    } else {
        "exec crun \"$@\"".to_owned()
    };
    let crun = wrapper(&bed.dir, "crun-as-it-is", &crun);
    let gone = bed.dir.join("gone");
    let runtimes = format!("crun={},gone={}", crun.display(), gone.display());
    let mut stand = Stand::with(bed, &[("CHAS_RUNTIMES", &runtimes)]).await;
    let script = "echo begun; sleep 1000 & wait";
    let body = |runtime: &str| stand.script("a", script, &json!({"runtime": runtime}));
    let (status, denied) = stand.agent.deploy(&body("kata")).await;
    assert_eq!(
        (status, &denied["rule"]),
        (403, &json!("node-runtimes")),
        "{denied}"
    );
    let (limited, other) = (body("crun"), body("gone"));
    let shown = stand.agent.deploy_and_wait(&limited).await;
    assert_eq!(shown["spec"]["runtime"], "crun", "{shown}");
    stand.printed("a", "begun").await;
    let calls = fs::read_to_string(crun.with_extension("calls")).unwrap();
    assert!(
        calls.contains(" create ") && calls.contains(" start "),
        "{calls}"
    );
    let exec = json!({"command": ["sh", "-c", "echo in; exit 7"]});
    let (_, answer) = stand
        .agent
        .ask("POST", "/containers/a/exec", Some(&exec))
        .await;
    assert_eq!(
        (&answer["exit_code"], &answer["stdout"]),
        (&json!(7), &json!("in\n")),
        "{answer}"
    );
    let before = stand.pid(&shown);
    let mut live = limited.clone();
    live["resources"] = json!({"memory": "80m", "pids": 77});
    stand.agent.deploy_and_wait(&live).await;
    stand.agent.kill_9();
    stand.agent.start_again().await;
    stand
        .agent
        .wait_status("a", "running", crate::stand::SOON)
        .await;
    assert_eq!(stand.pid(&shown), before, "the same process");
    stand.agent.deploy(&other).await;
    shows(&stand.agent, "a", Reason::RuntimeBroken, "gone").await;
    stand.end().await;
}
