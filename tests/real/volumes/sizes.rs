//! Sizes of volumes: refused where this kernel has no project quotas, and kept by ext4 and XFS on one that has.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::Testbed;
use crate::harness::image::{Image, Packing};
use crate::harness::qemu::{SOON, VirtualComputer};
use crate::harness::registry::Registry;
use crate::stand::Stand;

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_size_is_refused_where_the_disk_cannot_keep_it() {
    let stand = Stand::new().await;
    let volume = json!({"volume": "data", "path": "/data", "size": "10m"});
    let body = stand.script("a", "sleep 1000 & wait", &json!({"volumes": [volume]}));
    for (method, path, body) in [
        ("POST", "/containers/deploy", body.clone()),
        ("POST", "/containers/deploy?dry_run=true", body.clone()),
        ("PUT", "/desired-state", json!({"containers": [body]})),
    ] {
        let (status, refused) = stand.agent.ask(method, path, Some(&body)).await;
        assert_eq!(status, 422, "{refused}");
        let fault = &refused["errors"][0];
        assert!(
            fault["field"]
                .as_str()
                .unwrap()
                .ends_with("volumes[0].size"),
            "{refused}"
        );
        let message = fault["message"].as_str().unwrap();
        assert!(message.contains("cannot be kept by this node"), "{refused}");
        assert!(message.contains("prjquota"), "{refused}");
    }
    stand.end().await;
}

/// The computer with project quotas, and what it is asked.
struct Sized {
    computer: VirtualComputer,
    _registry: Registry,
    _bed: Testbed,
}

/// An image with programs of this host, and with what they are linked with.
fn with_programs(mut image: Image, programs: &[&str]) -> Image {
    for program in programs {
        let linked = Command::new("ldd").arg(program).output().unwrap();
        let linked = String::from_utf8(linked.stdout).unwrap();
        let libraries = linked
            .split_whitespace()
            .filter(|word| word.starts_with('/'));
        for file in libraries.chain([*program]) {
            image = image.program(file, &fs::read(file).unwrap());
        }
    }
    image
}

impl Sized {
    async fn new(kind: &'static str) -> Self {
        let bed = Testbed::new();
        let registry = Registry::open(&bed);
        let image = Image::busybox().layer(Packing::Gzip, &[("/data/of-image", b"x")]);
        let image = with_programs(image, &["/usr/bin/chattr", "/usr/bin/lsattr"]);
        image.push(&registry, "box:1").await;
        let computer = VirtualComputer::new(&bed, kind, registry.address());
        Self {
            computer,
            _registry: registry,
            _bed: bed,
        }
    }

    fn body(&self, name: &str, volume: &str, size: Option<&str>) -> Value {
        let volume = json!({"volume": volume, "path": "/data", "size": size});
        json!({"name": name, "image": self.computer.image("box:1"), "command": ["sleep", "100000"], "network": "none",
            "stop": {"timeout": "0s"}, "volumes": [volume]})
    }

    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let answer = self.computer.call(method, path, body).await;
        answer.unwrap_or_else(|| panic!("{method} {path}: {}", self.computer.console()))
    }

    async fn get(&self, path: &str) -> Value {
        self.ask("GET", path, None).await.1
    }

    async fn deploy(&self, body: &Value) -> Value {
        let path = "/containers/deploy?wait=running&timeout=60s";
        let (status, shown) = self.ask("POST", path, Some(body)).await;
        assert!(status < 300, "{body}: {status} {shown}");
        shown
    }

    /// What a script does in a container: its code, and what it printed.
    async fn sh(&self, name: &str, script: &str) -> (i64, String) {
        let order = json!({"command": ["sh", "-c", script], "timeout": "60s"});
        let (status, ended) = self
            .ask("POST", &format!("/containers/{name}/exec"), Some(&order))
            .await;
        assert_eq!(status, 200, "{script}: {ended}");
        let text = |of: &str| ended[of].as_str().unwrap_or_default().to_owned();
        (
            ended["exit_code"].as_i64().unwrap(),
            text("stdout") + &text("stderr"),
        )
    }

    /// Writes so many MiB to a file of the volume.
    async fn write(&self, name: &str, file: &str, mebibytes: u64) -> (i64, String) {
        self.sh(
            name,
            &format!("dd if=/dev/zero of=/data/{file} bs=1M count={mebibytes}"),
        )
        .await
    }

    async fn eventually(&self, path: &str, is: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + SOON;
        loop {
            let shown = self.get(path).await;
            if is(&shown) {
                return shown;
            }
            assert!(
                Instant::now() < deadline,
                "{path}: {shown}\n{}",
                self.computer.console()
            );
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }

    async fn limited(&self, volume: &str, bytes: Option<u64>) -> Value {
        let limit = json!(bytes);
        self.eventually(&format!("/volumes/{volume}"), |shown| {
            shown["limit_bytes"] == limit
        })
        .await
    }
}

fn is_full((code, said): &(i64, String)) -> bool {
    *code != 0 && (said.contains("No space left") || said.contains("quota exceeded"))
}

#[tokio::test(flavor = "multi_thread")]
async fn ext4_keeps_a_volume_within_its_size_and_the_others_free() {
    on_a_disk_with_quotas("ext4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn xfs_keeps_a_volume_within_its_size_and_the_others_free() {
    on_a_disk_with_quotas("xfs").await;
}

async fn on_a_disk_with_quotas(kind: &'static str) {
    let mut stand = Sized::new(kind).await;
    let options = "prjquota";
    stand.computer.boot(options).await;
    stand.deploy(&stand.body("a", "data", Some("8m"))).await;
    stand.deploy(&stand.body("b", "other", None)).await;
    a_full_volume_is_its_container_s_alone(&stand).await;
    archives_stay_within(&stand).await;
    a_size_is_live(&stand).await;
    a_volume_that_was_moved_into_the_count_of_another_gets_none_of_its_limit(&stand).await;

    stand.computer.power_off();
    stand.computer.boot(options).await;
    stand
        .eventually("/containers/a", |shown| shown["status"] == "running")
        .await;
    let shown = stand.limited("data", Some(12 * MIB)).await;
    assert!(shown["size_bytes"].as_u64().unwrap() >= 6 * MIB, "{shown}");
    assert!(is_full(&stand.write("a", "more", 20).await));

    quotas_that_are_switched_off_are_told(&mut stand, options).await;
    a_limit_goes_with_its_size_and_a_project_with_its_volume(&stand).await;
}

async fn a_full_volume_is_its_container_s_alone(stand: &Sized) {
    let shown = stand.limited("data", Some(8 * MIB)).await;
    assert!(shown["size_bytes"].as_u64().unwrap() < MIB, "{shown}");
    assert_eq!(
        stand.sh("a", "cat /data/of-image").await,
        (0, "x".to_owned())
    );
    let (_, df) = stand.sh("a", "df -k /data | tail -n 1").await;
    assert!(df.split_whitespace().any(|word| word == "8192"), "{df}");
    let links =
        "mkdir /data/d && echo y >/data/d/f && ln /data/d/f /data/g && mv /data/of-image /data/d/h";
    assert_eq!(stand.sh("a", links).await, (0, String::new()));
    let written = stand.write("a", "f", 20).await;
    assert!(is_full(&written), "{written:?}");
    let written = stand.write("b", "f", 20).await;
    assert_eq!(written.0, 0, "{written:?}");
    let shown = stand.get("/volumes").await;
    let volumes = shown["volumes"].as_array().unwrap();
    let data = volumes
        .iter()
        .find(|shown| shown["name"] == "data")
        .unwrap();
    assert_eq!(data["limit_bytes"], json!(8 * MIB), "{shown}");
    assert!(data["size_bytes"].as_u64().unwrap() > 7 * MIB, "{shown}");
    removed(stand).await;
}

/// Removes the great file, and waits until the disk has its room again: XFS takes its time with it.
async fn removed(stand: &Sized) {
    stand.sh("a", "rm -f /data/f; sync").await;
    let is_free = |shown: &Value| shown["size_bytes"].as_u64().unwrap() < 7 * MIB;
    stand.eventually("/volumes/data", is_free).await;
}

async fn archives_stay_within(stand: &Sized) {
    let archive = |mebibytes: usize| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        let content = vec![1_u8; mebibytes << 20];
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        tar.append_data(&mut header, "archived", &content[..])
            .unwrap();
        tar.into_inner().unwrap()
    };
    let path = "/volumes/data/archive";
    let (status, told) = stand.computer.put_archive(path, archive(10)).await;
    assert_eq!(status, 507, "{told}");
    removed(stand).await;
    let (status, told) = stand.computer.put_archive(path, archive(6)).await;
    assert_eq!(status, 200, "{told}");
    let (status, told) = stand
        .computer
        .put_archive("/volumes/new/archive", archive(3))
        .await;
    assert_eq!(status, 200, "{told}");
    stand.deploy(&stand.body("c", "new", Some("4m"))).await;
    let shown = stand.limited("new", Some(4 * MIB)).await;
    assert!(shown["size_bytes"].as_u64().unwrap() >= 3 * MIB, "{shown}");
    assert!(is_full(&stand.write("c", "f", 3).await));
    let moved = stand.sh("c", "mv /data/archived /data/moved").await;
    assert_eq!(moved, (0, String::new()));
}

async fn a_size_is_live(stand: &Sized) {
    let pid = "cat /proc/1/stat | cut -d ' ' -f 22";
    let before = stand.sh("a", pid).await;
    stand.deploy(&stand.body("a", "data", Some("16m"))).await;
    stand.limited("data", Some(16 * MIB)).await;
    let written = stand.write("a", "f", 8).await;
    assert_eq!(written.0, 0, "{written:?}");
    stand.sh("a", "sync").await;

    // Smaller than what is used: it is told, and nothing is taken away.
    let path = "/containers/deploy?wait=running&timeout=60s";
    let small = stand.body("a", "data", Some("12m"));
    let (status, told) = stand.ask("POST", path, Some(&small)).await;
    assert_eq!(
        (status, &told["code"]),
        (422, &json!("LimitRefused")),
        "{told}"
    );
    assert!(
        told["detail"].as_str().unwrap().contains("bytes are used"),
        "{told}"
    );
    stand.limited("data", Some(16 * MIB)).await;
    removed(stand).await;
    stand.limited("data", Some(12 * MIB)).await;
    stand
        .eventually("/containers/a", |shown| shown["reason"].is_null())
        .await;
    assert_eq!(stand.sh("a", pid).await, before, "the same process");

    let other = stand.body("second", "data", Some("1g"));
    let (status, told) = stand.ask("POST", "/containers/deploy", Some(&other)).await;
    assert_eq!(status, 409, "{told}");
    assert!(
        told["detail"]
            .as_str()
            .unwrap()
            .contains("container a says 12m"),
        "{told}"
    );
}

async fn a_volume_that_was_moved_into_the_count_of_another_gets_none_of_its_limit(stand: &Sized) {
    let project = "/usr/bin/lsattr -dp /data | sed 's/^ *//' | cut -d ' ' -f 1";
    let (_, own) = stand.sh("b", project).await;
    let (_, others) = stand.sh("a", project).await;
    let moves = |to: &str| format!("/usr/bin/chattr -p {} /data && sync", to.trim());
    assert_eq!(stand.sh("b", &moves(&others)).await, (0, String::new()));
    let path = "/containers/deploy?wait=running&timeout=60s";
    let sized = stand.body("b", "other", Some("100m"));
    let (status, told) = stand.ask("POST", path, Some(&sized)).await;
    assert_eq!(status, 422, "{told}");
    let detail = told["detail"].as_str().unwrap();
    assert!(detail.contains("both counted as project"), "{told}");
    stand.limited("data", Some(12 * MIB)).await;
    assert_eq!(stand.sh("b", &moves(&own)).await, (0, String::new()));
    stand.deploy(&stand.body("b", "other", None)).await;
}

async fn quotas_that_are_switched_off_are_told(stand: &mut Sized, options: &str) {
    stand.computer.power_off();
    stand.computer.boot("noatime").await;
    let refused = |shown: &Value| shown["reason"] == "LimitRefused";
    let shown = stand.eventually("/containers/a", refused).await;
    assert!(
        shown["message"].as_str().unwrap().contains("quota"),
        "{shown}"
    );
    let (status, told) = stand
        .ask(
            "POST",
            "/containers/deploy",
            Some(&stand.body("d", "late", Some("4m"))),
        )
        .await;
    assert_eq!(status, 422, "{told}");
    stand.deploy(&stand.body("d", "late", None)).await;

    stand.computer.power_off();
    stand.computer.boot(options).await;
    stand
        .eventually("/containers/a", |shown| {
            shown["status"] == "running" && shown["reason"].is_null()
        })
        .await;
    let path = "/containers/deploy?wait=running&timeout=60s";
    let (status, told) = stand
        .ask("POST", path, Some(&stand.body("d", "late", Some("4m"))))
        .await;
    assert_eq!(
        (status, &told["code"]),
        (422, &json!("LimitRefused")),
        "{told}"
    );
    assert!(
        told["detail"].as_str().unwrap().contains("not counted"),
        "{told}"
    );
}

async fn a_limit_goes_with_its_size_and_a_project_with_its_volume(stand: &Sized) {
    stand.deploy(&stand.body("a", "data", None)).await;
    stand.limited("data", None).await;
    let written = stand.write("a", "f", 30).await;
    assert_eq!(written.0, 0, "{written:?}");
    for name in ["a", "c"] {
        stand
            .ask("DELETE", &format!("/containers/{name}"), None)
            .await;
    }
    for volume in ["data", "new"] {
        let deadline = Instant::now() + SOON;
        let path = format!("/volumes/{volume}");
        while stand.ask("DELETE", &path, None).await.0 != 200 {
            assert!(Instant::now() < deadline, "{volume} can be removed");
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }
    stand.deploy(&stand.body("e", "again", Some("2m"))).await;
    stand.limited("again", Some(2 * MIB)).await;
    assert!(is_full(&stand.write("e", "f", 3).await));
}
