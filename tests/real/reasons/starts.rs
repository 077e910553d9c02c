//! What goes wrong while a container is created and started.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use serde_json::{Value, json};
use state::reason::Reason;

use super::{shows, tried_as_announced};
use crate::harness::image::{Image, Packing};
use crate::stand::Stand;

pub(super) const INDUCED: &[Reason] = &[
    Reason::NoCommand,
    Reason::CommandNotFound,
    Reason::CommandNotExecutable,
    Reason::WorkingDirInvalid,
    Reason::UserNotFound,
    Reason::GroupNotFound,
    Reason::MountFailed,
    Reason::LimitRefused,
    Reason::SysctlRefused,
    Reason::NameTaken,
    Reason::PortTaken,
    Reason::NetnsFailed,
    Reason::NameFilesFailed,
    Reason::CreateFailed,
];

/// Only version 1 of control groups refuses a quota above that of the group around it.
fn limit_cpu(stand: &Stand) -> bool {
    let around = Path::new("/sys/fs/cgroup/cpu").join(&stand.bed.namespace);
    if !Path::new("/sys/fs/cgroup/cpu").exists() {
        eprintln!("left out: this host's control groups refuse no quota");
        return false;
    }
    fs::create_dir_all(&around).unwrap();
    fs::write(around.join("cpu.cfs_quota_us"), "100000").unwrap();
    true
}

fn boxed(stand: &Stand, more: &Value) -> Value {
    let mut body = json!({"image": stand.image("box:1"), "command": ["sleep", "1000"], "stop": {"timeout": "0s"}});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body
}

/// What is in the way of containers that were deployed to rest, and are started then.
struct Obstacles {
    /// The name of a container that is not ours.
    stranger: String,
    /// On the host port.
    listener: TcpListener,
    /// A directory in the place of the netns' file.
    netns: PathBuf,
    /// A file in the place of the directory for names.
    files: PathBuf,
    /// A container that runc believes to know.
    runc: PathBuf,
}

impl Obstacles {
    async fn place(stand: &Stand) -> Self {
        let rest = async |name: &str, more: Value| {
            let mut body = boxed(stand, &more);
            body["name"] = json!(name);
            body["state"] = json!("stopped");
            let (status, shown) = stand.agent.deploy(&body).await;
            assert_eq!(status, 202, "{shown}");
            format!("{}-1", shown["id"].as_str().unwrap())
        };
        let (port, run) = (stand.bed.port(), stand.bed.dir.join("run"));
        let stranger = rest("stranger", json!({})).await;
        stand.bed.ctr(&[
            "containers",
            "create",
            "--rootfs",
            stand.bed.dir.to_str().unwrap(),
            &stranger,
            "true",
        ]);
        rest(
            "port",
            json!({"exposed_ports": [{"container": 80, "host": port}]}),
        )
        .await;
        let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
        let netns = run.join("netns").join(rest("netns", json!({})).await);
        fs::create_dir_all(&netns).unwrap();
        let files = run.join("files").join(rest("files", json!({})).await);
        fs::write(&files, "in the way").unwrap();
        let runc = Path::new("/run/containerd/runc")
            .join(&stand.bed.namespace)
            .join(rest("known", json!({})).await);
        fs::create_dir_all(&runc).unwrap();
        Self {
            stranger,
            listener,
            netns,
            files,
            runc,
        }
    }

    fn clear(self, stand: &Stand) {
        drop(self.listener);
        stand.bed.ctr(&["containers", "delete", &self.stranger]);
        fs::remove_dir(self.netns).unwrap();
        fs::remove_file(self.files).unwrap();
        // If it is empty: runc's records of what runs by now may be in it.
        fs::remove_dir(self.runc).ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_to_start_has_its_own_reason() {
    let stand = Stand::new().await;
    let limited = limit_cpu(&stand);
    Image::busybox()
        .config("Cmd", Value::Null)
        .push(&stand.registry, "nothing:1")
        .await;
    Image::busybox()
        .layer(Packing::Gzip, &[("/etc/hosts/in-the-way", b"x")])
        .push(&stand.registry, "hosts:1")
        .await;
    let image = |name: &str| json!({"image": stand.image(name)});
    let boxed = |more: Value| boxed(&stand, &more);
    let plain = [
        (
            Reason::NoCommand,
            "nothing",
            image("nothing:1"),
            "neither an entrypoint",
        ),
        (
            Reason::CommandNotFound,
            "command",
            boxed(json!({"command": ["/no/such/program"]})),
            "/no/such/program",
        ),
        (
            Reason::CommandNotExecutable,
            "executable",
            boxed(json!({"command": ["/etc/passwd"]})),
            "permission denied",
        ),
        (
            Reason::WorkingDirInvalid,
            "dir",
            boxed(json!({"working_dir": "/etc/passwd"})),
            "/etc/passwd",
        ),
        (
            Reason::UserNotFound,
            "user",
            boxed(json!({"user": "nobody-here"})),
            "nobody-here",
        ),
        (
            Reason::GroupNotFound,
            "group",
            boxed(json!({"user": "root:nobody-here"})),
            "nobody-here",
        ),
        (Reason::MountFailed, "mount", image("hosts:1"), "/etc/hosts"),
        (
            Reason::LimitRefused,
            "limit",
            boxed(json!({"resources": {"cpu": "64"}})),
            "cfs_quota",
        ),
        (
            Reason::SysctlRefused,
            "sysctl",
            boxed(json!({"sysctls": {"kernel.sem": "none"}})),
            "sysctls.kernel.sem",
        ),
    ];
    let plain: Vec<_> = plain
        .into_iter()
        .filter(|(reason, ..)| limited || *reason != Reason::LimitRefused)
        .collect();
    let deployed = join_all(plain.iter().map(async |(_, name, body, _)| {
        let mut body = body.clone();
        body["name"] = json!(name);
        stand.agent.deploy(&body).await
    }));
    assert!(deployed.await.iter().all(|(status, _)| *status == 202));

    let obstacles = Obstacles::place(&stand).await;
    let prepared = [
        (Reason::NameTaken, "stranger", "not the agent's"),
        (Reason::PortTaken, "port", "in use"),
        (Reason::NetnsFailed, "netns", "netns"),
        (Reason::NameFilesFailed, "files", "files"),
        (Reason::CreateFailed, "known", "already exists"),
    ];
    let started = join_all(prepared.map(async |(reason, name, part)| {
        stand
            .agent
            .ask("POST", &format!("/containers/{name}/start"), None)
            .await;
        shows(&stand.agent, name, reason, part).await
    }));
    started.await;
    for (reason, name, _, part) in &plain {
        shows(&stand.agent, name, *reason, part).await;
    }
    let mut induced: Vec<_> = plain
        .iter()
        .map(|(reason, ..)| *reason)
        .chain(prepared.map(|(reason, ..)| reason))
        .collect();
    if !limited {
        induced.insert(7, Reason::LimitRefused);
    }
    assert_eq!(induced, INDUCED);

    let names: Vec<_> = plain
        .iter()
        .map(|(_, name, ..)| *name)
        .chain(["stranger", "port", "netns", "files"])
        .collect();
    tried_as_announced(&stand.agent, &names).await;

    // They run without being asked.
    obstacles.clear(&stand);
    for name in ["stranger", "port", "netns", "files", "known"] {
        stand.agent.wait_status(name, "running", super::LATE).await;
    }
    stand.end().await;
}
