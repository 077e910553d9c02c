//! Limits on what a container asks of a disk, as the kernel has them and as a program feels them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use state::reason::Reason;

use crate::harness::{Testbed, run};
use crate::reasons::shows;
use crate::stand::{Stand, eventually};

/// A disk of its own on a loop device, mounted where a volume lies.
struct Disk {
    device: String,
    mount: PathBuf,
}

impl Disk {
    /// Made before the agent is there.
    fn make(bed: &Testbed, volume: &str) -> Self {
        let image = bed.dir.join("disk.img");
        let mount = bed.dir.join(format!("state/volumes/{volume}"));
        fs::create_dir_all(&mount).unwrap();
        let script = "truncate --size 64M $0; mkfs.ext4 -q $0; losetup --find --show $0";
        let device = run("sh", ["-ec", script, image.to_str().unwrap()]).unwrap();
        let device = device.trim().to_owned();
        let disk = Self { device, mount };
        run("mount", [&disk.device, disk.mount.to_str().unwrap()]).unwrap();
        disk
    }

    /// As in `7:0`.
    fn number(&self) -> String {
        let number = run("lsblk", ["-dno", "MAJ:MIN", &self.device]).unwrap();
        number.trim().to_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let script = "umount --lazy $0; losetup --detach $1";
        let _ = run(
            "sh",
            ["-c", script, self.mount.to_str().unwrap(), &self.device],
        );
    }
}

/// A file of the control group of a container, which keeps its first generation's name; `None`: it is not there.
fn control(stand: &Stand, shown: &Value, v1: &str, v2: &str) -> Option<String> {
    let (controller, file) = v1.split_once('/').unwrap();
    let root = Path::new("/sys/fs/cgroup");
    let prefix = format!("{}-", shown["id"].as_str().unwrap());
    for (around, file) in [(root.join(controller), file), (root.to_owned(), v2)] {
        let groups = fs::read_dir(around.join(&stand.bed.namespace));
        for group in groups.into_iter().flatten().flatten() {
            let is_its = group.file_name().to_string_lossy().starts_with(&prefix);
            let text = fs::read_to_string(group.path().join(file));
            if let (true, Ok(text)) = (is_its, text) {
                return Some(text.trim().to_owned());
            }
        }
    }
    None
}

/// The limits that a container's control group has on a disk: bytes read, bytes written, reads, writes.
fn limits(stand: &Stand, shown: &Value, number: &str) -> [String; 4] {
    [
        ("read_bps", "rbps"),
        ("write_bps", "wbps"),
        ("read_iops", "riops"),
        ("write_iops", "wiops"),
    ]
    .map(|(v1, v2)| {
        let v1 = format!("blkio/blkio.throttle.{v1}_device");
        let found = control(stand, shown, &v1, "io.max").unwrap_or_default();
        let mut lines = found.lines();
        let line = lines.find_map(|line| line.strip_prefix(&format!("{number} ")));
        let line = line.unwrap_or_default();
        let mut words = line.split(' ');
        let word = words.find_map(|word| word.strip_prefix(&format!("{v2}=")));
        word.unwrap_or(line).replace("max", "")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_asks_of_a_disk_is_limited_from_its_start_on_changed_live_and_released() {
    let bed = Testbed::new();
    let disk = Disk::make(&bed, "slow");
    let stand = Stand::on(bed).await;
    let (device, number) = (disk.device.as_str(), disk.number());
    let script = "dd if=/dev/zero of=/data/x bs=64k count=32 oflag=direct 2>/dev/null; cut -d. -f1 /proc/uptime; \
        dd if=/dev/zero of=/data/x bs=64k count=32 oflag=direct 2>/dev/null; cut -d. -f1 /proc/uptime; echo the-end; sleep 1000 & wait";
    let body = |io: Value| {
        let more =
            json!({"volumes": [{"volume": "slow", "path": "/data"}], "resources": {"io": io}});
        stand.script("a", script, &more)
    };
    // What is no disk is told, all of it, and nothing is started.
    let wrong = json!({"read_bps": {"/dev/null": "1m"}, "write_iops": {"/dev/no-such-disk": 5}});
    stand.agent.deploy(&body(wrong)).await;
    let shown = shows(
        &stand.agent,
        "a",
        Reason::LimitRefused,
        "/dev/null: it is no disk",
    )
    .await;
    let message = shown["message"].as_str().unwrap();
    assert!(
        message.contains("/dev/no-such-disk: No such file"),
        "{message}"
    );

    let first = body(json!({"write_bps": {device: "1m"}, "read_iops": {device: 100}}));
    let shown = stand.agent.deploy_and_wait(&first).await;
    assert_eq!(limits(&stand, &shown, &number), ["", "1048576", "100", ""]);
    assert_eq!(shown["spec"]["resources"]["io"]["write_bps"][device], "1m");
    let log = stand.printed("a", "the-end").await;
    let times: Vec<u64> = log.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(times[1] - times[0] >= 1, "2 MiB at 1 MiB a second: {log}");

    // Another limit, for the same process.
    let pid = stand.pid(&shown).unwrap();
    let second = body(json!({"write_bps": {device: "16m"}, "write_iops": {device: 1000}}));
    stand.agent.deploy(&second).await;
    let wanted = ["", "16777216", "", "1000"];
    eventually("it is changed", async || {
        let (_, shown) = stand.agent.get("/containers/a").await;
        limits(&stand, &shown, &number) == wanted
    })
    .await;
    let (_, shown) = stand.agent.get("/containers/a").await;
    assert_eq!(stand.pid(&shown).as_ref(), Some(&pid), "{shown}");
    // A limit of another kind, which the OCI runtime sets, leaves these as they are; and so does the next start.
    let mut third = second.clone();
    third["resources"]["pids"] = json!(100);
    stand.agent.deploy(&third).await;
    eventually("it is changed as well", async || {
        let (_, shown) = stand.agent.get("/containers/a").await;
        control(&stand, &shown, "pids/pids.max", "pids.max").as_deref() == Some("100")
    })
    .await;
    assert_eq!(limits(&stand, &shown, &number), wanted);
    run("kill", ["-9", &pid]).unwrap();
    eventually("it runs again, with its limits", async || {
        let (_, shown) = stand.agent.get("/containers/a").await;
        let is_new = stand.pid(&shown).is_some_and(|new| new != pid);
        shown["status"] == "running" && is_new && limits(&stand, &shown, &number) == wanted
    })
    .await;

    stand.agent.deploy(&body(json!({}))).await;
    eventually("all is released", async || {
        let (_, shown) = stand.agent.get("/containers/a").await;
        limits(&stand, &shown, &number) == [""; 4]
    })
    .await;
    // What is refused later is told, and the process goes on with all else.
    let mut fourth = body(json!({"read_bps": {"/dev/null": "1m", device: "2m"}}));
    fourth["resources"]["pids"] = json!(90);
    stand.agent.deploy(&fourth).await;
    let shown = shows(
        &stand.agent,
        "a",
        Reason::LimitRefused,
        "/dev/null: it is no disk",
    )
    .await;
    assert!(stand.pid(&shown).is_some(), "{shown}");
    assert_eq!(limits(&stand, &shown, &number), ["2097152", "", "", ""]);
    let processes = control(&stand, &shown, "pids/pids.max", "pids.max");
    assert_eq!(processes.as_deref(), Some("90"));
    stand.agent.delete_and_wait("a").await;
    drop(disk);
    stand.end().await;
}
