//! A node that loses a part of itself: programs, the bridge, containerd's directories, the room on its disk. Each comes
//! back, and what could not start runs without being asked.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use state::reason::Reason;

use super::shows;
use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::containerd::Containerd;
use crate::harness::image::{Image, Packing};
use crate::harness::registry::Registry;
use crate::harness::scratch::Scratch;
use crate::harness::{Testbed, run};
use crate::stand::Stand;

pub(super) const INDUCED: &[Reason] = &[
    Reason::LoggerFailed,
    Reason::RuntimeBroken,
    Reason::StopFailed,
    Reason::FirewallFailed,
    Reason::BridgeFailed,
    Reason::SnapshotFailed,
    Reason::DiskFull,
];

/// A directory of links to the programs that containerd and the agent start.
struct Tools(PathBuf);

impl Tools {
    fn new(dir: &Path) -> Self {
        fs::create_dir(dir).unwrap();
        let tools = Self(dir.to_owned());
        for program in [
            "containerd",
            "containerd-shim-runc-v2",
            "runc",
            "nft",
            "iptables",
        ] {
            tools.restore(program);
        }
        tools
    }

    fn restore(&self, program: &str) {
        let places = [
            "/usr/sbin",
            "/usr/bin",
            "/sbin",
            "/bin",
            "/usr/local/sbin",
            "/usr/local/bin",
        ];
        if let Some(place) = places
            .iter()
            .map(|place| Path::new(place).join(program))
            .find(|place| place.exists())
        {
            symlink(place, self.0.join(program)).unwrap();
        }
    }

    fn lose(&self, program: &str) {
        fs::remove_file(self.0.join(program)).unwrap();
    }
}

/// Breaks something, sees what a deploy says of it, mends it, and sees the container run.
async fn check(
    stand: &Stand,
    reason: Reason,
    part: &str,
    body: &Value,
    broken: impl FnOnce(),
    mended: impl FnOnce(),
) {
    broken();
    let (status, problem) = stand.agent.deploy(body).await;
    assert_eq!(status, 202, "{problem}");
    let name = body["name"].as_str().unwrap();
    let shown = shows(&stand.agent, name, reason, part).await;
    assert!(shown["next_attempt"].is_string(), "{shown}");
    mended();
    stand.agent.wait_status(name, "running", super::LATE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_of_a_node_that_breaks_has_its_own_reason() {
    let scratch = Scratch::shared();
    let tools = Tools::new(&scratch.dir().join("tools"));
    let bed = Testbed::on(Arc::new(Containerd::private_with_path(&tools.0)));
    let registry = Registry::open(&bed);
    Image::web().push(&registry, "web:1").await;
    Image::web()
        .big_layer(Packing::Gzip, 8 << 20, 99)
        .push(&registry, "big:1")
        .await;
    let program = bed.dir.join("agent-copy");
    fs::copy(PROGRAM, &program).unwrap();
    let variables = [
        ("CHAS_REGISTRY_INSECURE", registry.address()),
        ("PATH", tools.0.to_str().unwrap()),
    ];
    let agent = Agent::start_program(&bed, &program, &variables).await;
    let stand = Stand {
        agent,
        registry,
        bed,
    };
    // The image is there, and the rules for forwarding are looked at.
    stand
        .agent
        .deploy_and_wait(&stand.web("first", &json!({})))
        .await;
    let web = |name: &str| stand.web(name, &json!({}));

    let (away, bridge) = (program.with_extension("away"), stand.bed.bridge.as_str());
    let moved = |from: &Path, to: &Path| fs::rename(from, to).unwrap();
    check(
        &stand,
        Reason::LoggerFailed,
        "agent-copy",
        &web("logger"),
        || moved(&program, &away),
        || moved(&away, &program),
    )
    .await;
    check(
        &stand,
        Reason::RuntimeBroken,
        "runc",
        &web("runc"),
        || tools.lose("runc"),
        || tools.restore("runc"),
    )
    .await;
    tools.lose("runc");
    stand.agent.ask("POST", "/containers/runc/stop", None).await;
    assert!(
        shows(&stand.agent, "runc", Reason::StopFailed, "runc").await["next_attempt"].is_string()
    );
    tools.restore("runc");
    stand
        .agent
        .wait_status("runc", "stopped", super::LATE)
        .await;
    check(
        &stand,
        Reason::FirewallFailed,
        "nft",
        &web("nft"),
        || tools.lose("nft"),
        || tools.restore("nft"),
    )
    .await;

    let in_the_way = || {
        run("ip", ["link", "del", bridge]).unwrap();
        run(
            "ip",
            [
                "link",
                "add",
                bridge,
                "type",
                "veth",
                "peer",
                "name",
                &format!("{bridge}p"),
            ],
        )
        .unwrap();
    };
    let gone = || drop(run("ip", ["link", "del", bridge]).unwrap());
    check(
        &stand,
        Reason::BridgeFailed,
        "no bridge",
        &web("bridge"),
        in_the_way,
        gone,
    )
    .await;

    let root = stand.bed.containerd.root();
    let snapshots = root.join("io.containerd.snapshotter.v1.overlayfs/snapshots");
    let hidden = snapshots.with_extension("away");
    let (lost, back) = (|| moved(&snapshots, &hidden), || moved(&hidden, &snapshots));
    check(
        &stand,
        Reason::SnapshotFailed,
        "snapshot",
        &web("snapshot"),
        lost,
        back,
    )
    .await;

    let store = root.join("io.containerd.content.v1.content");
    let path = store.to_str().unwrap();
    stand
        .bed
        .scratch
        .at_end(&format!("umount -l {path} 2>/dev/null"));
    let full = || {
        run("mount", ["-t", "tmpfs", "-o", "size=4m", "chas-test", path]).unwrap();
        for dir in ["ingest", "blobs/sha256"] {
            fs::create_dir_all(store.join(dir)).unwrap();
        }
    };
    let room = || drop(run("umount", ["-l", path]).unwrap());
    let mut big = web("disk");
    big["image"] = json!(stand.image("big:1"));
    // The agent says it where it looks before containerd meets the end of the disk, else containerd.
    check(&stand, Reason::DiskFull, "disk", &big, full, room).await;
    stand.end().await;
}
