//! Room on the disks of the images: what an image may take, what pulls leave free, and what is given
//! back when one is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chas_node_agent::runtime::containerd::image::DiskReserve;
use serde_json::{Value, json};

use super::*;
use crate::harness::agent::Agent;
use crate::harness::containerd::Containerd;
use crate::harness::{eventually, run};

const MIB: u64 = 1 << 20;

/// What the disk's own bookkeeping and containerd's may differ by.
const SLACK: u64 = 8 * MIB;

/// A file system in a file, at a directory of a containerd's. It ends that containerd when it goes.
struct SmallDisk {
    containerd: Arc<Containerd>,
    dir: PathBuf,
}

impl SmallDisk {
    /// At this directory below the root of a fresh containerd.
    fn below(bed: &Testbed, dir: &str, mib: u64) -> Self {
        let containerd = Arc::clone(&bed.containerd);
        let dir = containerd.root().join(dir);
        containerd.stop();
        std::fs::create_dir_all(&dir).unwrap();
        let file = bed.dir.join("disk");
        let image = std::fs::File::create(&file).unwrap();
        image.set_len(mib * MIB).unwrap();
        let (file, at) = (file.to_str().unwrap(), dir.to_str().unwrap());
        run("mkfs.ext4", ["-q", "-m", "0", file]).expect("e2fsprogs are installed");
        bed.scratch.at_end(&format!("umount -l {at} 2>/dev/null"));
        run("mount", ["-o", "loop", file, at]).expect("root may");
        containerd.start();
        Self { containerd, dir }
    }

    fn free(&self) -> u64 {
        free(&self.dir)
    }

    /// Takes all room but so many bytes.
    fn fill_but(&self, bytes: u64) -> PathBuf {
        let (file, size) = (self.dir.join("fill"), self.free().saturating_sub(bytes));
        let path = file.to_str().unwrap();
        run("fallocate", ["-l", &size.to_string(), path]).expect("there is so much");
        file
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.containerd.stop();
        let unmounted = run("umount", [self.dir.to_str().unwrap()]);
        assert!(
            unmounted.is_ok() || std::thread::panicking(),
            "{unmounted:?}"
        );
    }
}

fn free(dir: &Path) -> u64 {
    let disk = rustix::fs::statvfs(dir).expect("it is there");
    disk.f_bavail * disk.f_frsize
}

/// Layer of two kilobytes that stands for a file of a tebibyte, all hole.
fn hole() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let records = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "hole"),
        ("GNU.sparse.realsize", "1099511627776"),
    ];
    let records = records.map(|(key, value)| (key, value.as_bytes()));
    tar.append_pax_extensions(records).expect("memory takes it");
    // A map of no part that holds data.
    let map = [b'0', b'\n'].repeat(256);
    let mut header = tar::Header::new_ustar();
    header.set_size(map.len() as u64);
    let added = tar.append_data(&mut header, "hole", &*map);
    added
        .and_then(|()| tar.into_inner())
        .expect("memory takes it")
}

/// Layer of so many empty files.
fn crowd(files: usize) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(0);
    for n in 0..files {
        let added = tar.append_data(&mut header, format!("crowd/{}/{n}", n / 1000), &[][..]);
        added.expect("memory takes it");
    }
    tar.into_inner().expect("memory takes it")
}

fn room(image_bytes_max: u64, reserve: DiskReserve) -> RoomConfig {
    RoomConfig {
        image_bytes_max,
        reserve,
    }
}

/// All that a namespace has of images; busybox alone when nothing else was pulled.
fn stored(bed: &Testbed) -> [usize; 3] {
    [
        &["snapshots", "ls"][..],
        &["content", "ls", "-q"],
        &["leases", "ls", "-q"],
    ]
    .map(|list| bed.ctr(list).lines().count())
}

#[tokio::test]
async fn a_layer_that_fills_the_disk_ends_at_the_reserve_and_gives_all_of_it_back() {
    for dir in ["", "io.containerd.snapshotter.v1.overlayfs"] {
        let bed = Testbed::with_private_containerd();
        let disk = SmallDisk::below(&bed, dir, 400);
        let registry = Registry::open(&bed);
        let reserve = DiskReserve::Bytes(128 * MIB);
        let setting = config(&[registry.address()]);
        let images = images_within(&bed, setting, room(u64::MAX, reserve));
        let name = |name: &str| format!("{}/{name}:1", registry.address());
        Image::busybox().push(&registry, "box:1").await;
        pull(&images, &name("box")).await.expect("a pull");
        let (before, all) = (disk.free(), stored(&bed));
        for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
            let image = format!("hole{packing:?}").to_lowercase();
            let evil = Image::busybox().raw_layer(packing, hole());
            evil.push(&registry, &format!("{image}:1")).await;
            let message = failed(pull(&images, &name(&image)).await, Reason::DiskFull);
            assert!(message.contains("image.disk_reserve keeps"), "{message}");
            assert_eq!(stored(&bed), all, "nothing of it is left");
            let (is, was) = (disk.free() / MIB, before / MIB);
            assert!(is + SLACK / MIB >= was, "{is} MiB of {was}");
        }
        Image::busybox()
            .layer(Packing::Gzip, &[("/more", b"more")])
            .push(&registry, "more:1")
            .await;
        pull(&images, &name("more")).await.expect("a pull");
        assert_eq!(runs(&bed, &name("more"), "/more"), "more");
        drop(images);
        drop(disk);
    }
}

#[tokio::test]
async fn a_layer_of_nothing_but_names_ends_at_the_reserve_of_inodes() {
    let bed = Testbed::with_private_containerd();
    let disk = SmallDisk::below(&bed, "", 200);
    let registry = Registry::open(&bed);
    let images = images(&bed, config(&[registry.address()]));
    let image = format!("{}/crowd:1", registry.address());
    let crowd = Image::busybox().raw_layer(Packing::Gzip, crowd(60_000));
    crowd.push(&registry, "crowd:1").await;
    let before = rustix::fs::statvfs(&disk.dir).unwrap().f_favail;
    let message = failed(pull(&images, &image).await, Reason::DiskFull);
    assert!(message.contains("inodes free"), "{message}");
    eventually("the files are gone", Duration::from_secs(20), || {
        rustix::fs::statvfs(&disk.dir).unwrap().f_favail + 500 >= before
    });
    drop(disk);
}

#[tokio::test]
async fn an_image_that_takes_too_much_is_refused_and_not_fetched_again() {
    let bed = Testbed::with_private_containerd();
    let registry = Registry::open(&bed);
    let proxy = Proxy::before(registry.address());
    let most = room(64 * MIB, DiskReserve::Usual);
    let images = images_within(&bed, config(&[&proxy.address()]), most);
    let name = |name: &str| format!("{}/{name}:1", proxy.address());
    let zeros = vec![0; 40 << 20];
    let sparse = Image::busybox().raw_layer(Packing::Gzip, hole());
    let summed = Image::busybox()
        .layer(Packing::Gzip, &[("/a", &zeros)])
        .layer(Packing::Gzip, &[("/b", &zeros)]);
    let told = Image::busybox()
        .layer(Packing::Gzip, &[("/told", b"x")])
        .claims_bytes(64 << 20);
    for (image, evil) in [("sparse", sparse), ("summed", summed), ("told", told)] {
        let pushed = evil.push(&registry, &format!("{image}:1")).await;
        // The second time it is known before anything is fetched.
        for _ in 0..2 {
            let message = failed(pull(&images, &name(image)).await, Reason::ImageTooLarge);
            assert!(message.contains("image.max_unpacked"), "{message}");
            assert_eq!(stored(&bed), [1, 0, 0], "{image}");
        }
        let top = pushed.layers.last().unwrap();
        let asked = proxy.requests(top).len();
        assert_eq!(asked, usize::from(image != "told"), "{image}");
    }
    let fits = Image::busybox().layer(Packing::Gzip, &[("/a", &zeros)]);
    fits.push(&registry, "fits:1").await;
    pull(&images, &name("fits")).await.expect("a pull");
}

#[tokio::test]
async fn a_layer_that_does_not_fit_is_not_begun() {
    let bed = Testbed::with_private_containerd();
    let disk = SmallDisk::below(&bed, "io.containerd.content.v1.content", 24);
    let registry = Registry::open(&bed);
    let proxy = Proxy::before(registry.address());
    let images = images(&bed, config(&[&proxy.address()]));
    let name = |name: &str| format!("{}/{name}:1", proxy.address());
    let one = Image::busybox().big_layer(Packing::Plain, 30 << 20, 5);
    // Each of them fits, and all of them do not.
    let layers = (0..3).fold(Image::busybox(), |image, seed| {
        image.big_layer(Packing::Plain, 10 << 20, seed)
    });
    for (image, evil) in [("one", one), ("layers", layers)] {
        let pushed = evil.push(&registry, &format!("{image}:1")).await;
        let message = failed(pull(&images, &name(image)).await, Reason::DiskFull);
        assert!(message.contains("the image needs 3"), "{message}");
        for layer in &pushed.layers {
            assert_eq!(proxy.requests(layer).len(), 0, "{image}");
        }
    }
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pull_that_fills_the_disk_ends_alone_and_is_not_begun_again_for_nothing() {
    let bed = Testbed::with_private_containerd();
    let disk = SmallDisk::below(&bed, "", 400);
    let registry = Registry::open(&bed);
    let proxy = Proxy::before(registry.address());
    let reserve = room(u64::MAX, DiskReserve::Bytes(128 * MIB));
    let images = images_within(&bed, config(&[&proxy.address()]), reserve);
    let name = |name: &str| format!("{}/{name}:1", proxy.address());
    let evil = Image::busybox().raw_layer(Packing::Gzip, hole());
    let evil = evil.push(&registry, "hole:1").await;
    let slow = Image::busybox().big_layer(Packing::Plain, 4 << 20, 7);
    let slow = slow.push(&registry, "slow:1").await;
    let bytes_per_s = 1 << 20;
    proxy.inject(&slow.layers[1], 1, Fault::Slow { bytes_per_s });
    let (slowly, hole) = (name("slow"), name("hole"));
    let (brought, ended) = tokio::join!(pull(&images, &slowly), async {
        while proxy.requests(&slow.layers[1]).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        pull(&images, &hole).await
    });
    brought.expect("it goes on");
    failed(ended, Reason::DiskFull);
    assert_eq!(
        proxy.requests(&slow.layers[1]).len(),
        1,
        "it was not begun anew"
    );
    let top = &evil.layers[1];
    assert_eq!(proxy.requests(top).len(), 1);
    let message = failed(pull(&images, &hole).await, Reason::DiskFull);
    assert!(message.contains("the image needs 2"), "{message}");
    assert_eq!(proxy.requests(top).len(), 1, "it does not fit now either");
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_an_image_goes_when_there_is_no_room_for_the_rest() {
    let bed = Testbed::with_private_containerd();
    let disk = SmallDisk::below(&bed, "", 200);
    let registry = Registry::open(&bed);
    let proxy = Proxy::before(registry.address());
    let reserve = room(u64::MAX, DiskReserve::Bytes(64 * MIB));
    let images = images_within(&bed, config(&[&proxy.address()]), reserve);
    let image = format!("{}/part:1", proxy.address());
    let big = Image::busybox().big_layer(Packing::Plain, 20 << 20, 9);
    let pushed = big.push(&registry, "part:1").await;
    let stall = Fault::Stall {
        after_bytes: 10 << 20,
    };
    proxy.inject(&pushed.layers[1], 1, stall);
    let (progress, before) = (PullProgress::default(), stored(&bed));
    let never = CancellationToken::new();
    let named = reference(&image);
    let wanted = (ImagePull::IfNotPresent, &[][..]);
    tokio::select! {
        ended = images.ensure(&named, wanted, &progress, &never) => panic!("{ended:?}"),
        () = fetched(&progress, 9 << 20) => {}
    }
    assert_ne!(stored(&bed), before, "a part of it is kept");
    let fill = disk.fill_but(32 * MIB);
    failed(pull(&images, &image).await, Reason::DiskFull);
    let is_given_back = || disk.free() > 40 * MIB && stored(&bed)[2] == before[2];
    eventually(
        "the part is given back",
        Duration::from_secs(10),
        is_given_back,
    );
    std::fs::remove_file(fill).unwrap();
    proxy.heal();
    pull(&images, &image).await.expect("a pull");
    drop(disk);
}

async fn held(agent: &Agent) -> Option<String> {
    let (_, health) = agent.get("/health").await;
    let alarms = health["alarms"].as_array().cloned().unwrap_or_default();
    let mut found = alarms.iter().filter(|alarm| alarm["name"] == "PullsHeld");
    found.next().map(Value::to_string)
}

#[tokio::test(flavor = "multi_thread")]
async fn below_the_reserve_nothing_is_pulled_what_is_there_starts_and_room_heals() {
    let bed = Testbed::with_private_containerd();
    let disk = SmallDisk::below(&bed, "", 200);
    let variables = [
        ("CHAS_IMAGE_DISK_RESERVE", "64Mi"),
        ("HEALTH_INTERVAL", "1"),
    ];
    let stand = crate::stand::Stand::with(bed, &variables).await;
    let agent = &stand.agent;
    agent.deploy_and_wait(&stand.web("first", &json!({}))).await;
    assert_eq!(held(agent).await, None);
    let fill = disk.fill_but(32 * MIB);
    let other = Image::busybox().layer(Packing::Gzip, &[("/other", b"x")]);
    other.push(&stand.registry, "other:1").await;
    let body = json!({"name": "other", "image": stand.image("other:1"), "args": ["sleep", "1000"], "stop": {"timeout": "0s"}});
    assert_eq!(agent.deploy(&body).await.0, 202);
    let shown = crate::reasons::shows(agent, "other", Reason::DiskFull, "image.disk_reserve").await;
    assert!(shown["next_attempt"].is_string(), "{shown}");
    let there = stand.web("second", &json!({"image_pull": "always"}));
    agent.deploy_and_wait(&there).await;
    // It is looked for with each sample of the node's facts.
    crate::stand::eventually("an alarm", async || held(agent).await.is_some()).await;
    let alarm = held(agent).await.expect("an alarm");
    assert!(
        alarm.contains("image.disk_reserve keeps 64 MiB;"),
        "{alarm}"
    );

    std::fs::remove_file(fill).unwrap();
    agent
        .wait_status("other", "running", crate::stand::SOON)
        .await;
    let deadline = Instant::now() + crate::stand::SOON;
    while let Some(alarm) = held(agent).await {
        assert!(Instant::now() < deadline, "{alarm}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stand.end().await;
    drop(disk);
}

/// Key of the snapshot that a layer is being unpacked into.
fn scratch(bed: &Testbed) -> Option<String> {
    let listed = bed.ctr(&["snapshots", "ls"]);
    let mut lines = listed.lines();
    let line = lines.find(|line| line.starts_with("chas-unpack-"))?;
    Some(line.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_ends_what_a_killed_agent_unpacked_and_the_next_one_removes_it() {
    let bed = Testbed::with_private_containerd();
    let registry = Registry::open(&bed);
    let evil = Image::busybox().raw_layer(Packing::Gzip, hole());
    evil.push(&registry, "hole:1").await;
    let variables = [("CHAS_REGISTRY_INSECURE", registry.address())];
    let mut agent = Agent::start_with(&bed, &variables).await;
    let root = bed.containerd.root();
    let body = json!({"name": "evil", "image": format!("{}/hole:1", registry.address())});
    assert_eq!(agent.deploy(&body).await.0, 202);
    let written = || used(&root);
    let begun = written();
    eventually(
        "the layer is being unpacked",
        Duration::from_secs(20),
        || written() > begun + 64 * MIB,
    );
    agent.kill_9();
    eventually(
        "containerd ends the unpacking",
        Duration::from_secs(20),
        || {
            let then = written();
            std::thread::sleep(Duration::from_millis(300));
            written() == then
        },
    );
    assert!(scratch(&bed).is_some());
    agent.start_again().await;
    agent.delete_and_wait("evil").await;
    eventually("nothing of it is left", Duration::from_secs(60), || {
        scratch(&bed).is_none() && written() < begun + SLACK
    });
    agent.terminate();
}

/// Bytes that the files below a directory take.
fn used(dir: &Path) -> u64 {
    let told = run("du", ["-s", "-B1", dir.to_str().unwrap()]).unwrap_or_default();
    let bytes = told.split_whitespace().next();
    bytes
        .and_then(|bytes| bytes.parse().ok())
        .unwrap_or_default()
}

#[tokio::test]
async fn a_layer_that_is_unpacked_in_part_goes_with_its_cancelled_pull() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let crowded = Image::busybox().raw_layer(Packing::Gzip, crowd(60_000));
    crowded.push(&registry, "crowd:1").await;
    let images = images(&bed, config(&[registry.address()]));
    let (cancel, progress) = (CancellationToken::new(), PullProgress::default());
    let wanted = reference(&format!("{}/crowd:1", registry.address()));
    let cancelled = async {
        let layers = |state: &str| {
            let listed = bed.ctr(&["snapshots", "ls"]);
            listed.lines().filter(|line| line.contains(state)).count()
        };
        while layers("Committed") == 0 || layers("chas-unpack-") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(
        images.ensure(&wanted, (ImagePull::IfNotPresent, &[]), &progress, &cancel),
        cancelled
    );
    assert!(matches!(result, Err(RuntimeError::Cancelled)), "{result:?}");
    assert_eq!(scratch(&bed), None);
    assert_eq!(leases(&bed), 1, "what was fetched is kept for the next try");
    images.sweep(&[]).await.expect("a sweep");
    bed.assert_nothing_left();
}
