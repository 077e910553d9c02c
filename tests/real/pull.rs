//! Pulls from real registries into a real containerd, over a line on which everything goes wrong.

mod downloads;

mod odd;

mod registries;

mod room;

mod shared;

use std::time::Duration;

use chas_node_agent::registry::RegistryConfig;
use chas_node_agent::runtime::containerd::ContainerdClient;
use chas_node_agent::runtime::containerd::image::{Images, RoomConfig};
use chas_node_agent::runtime::{PullProgress, RuntimeError};
use state::reason::Reason;
use state::reference::ImageReference;
use state::spec::ImagePull;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::harness::Testbed;
use crate::harness::image::{Dialect, Image, Packing, push_index};
use crate::harness::proxy::{Fault, Proxy};
use crate::harness::registry::{Access, PASSWORD, Registry, USER};

const MIB: usize = 1 << 20;

fn reference(text: &str) -> ImageReference {
    text.parse().expect("a reference")
}

/// Quick to give up, and nothing but the listed hosts in the clear.
fn config(insecure: &[&str]) -> RegistryConfig {
    RegistryConfig {
        insecure: insecure.iter().map(|&host| host.to_owned()).collect(),
        stall_timeout: Duration::from_millis(500),
        retry_initial: Duration::from_millis(20),
        retry_max: Duration::from_secs(2),
        ..RegistryConfig::default()
    }
}

fn images(bed: &Testbed, config: RegistryConfig) -> Images {
    images_within(bed, config, RoomConfig::default())
}

fn images_within(bed: &Testbed, config: RegistryConfig, room: RoomConfig) -> Images {
    Images::new(
        ContainerdClient::new(&bed.containerd.socket(), &bed.namespace),
        config,
        room,
    )
    .expect("the configuration is good")
}

/// Waits until so much is on the node; not for ever, should the pull have failed instead.
async fn fetched(progress: &PullProgress, bytes: usize) {
    let arrived = async {
        while progress.get().0 < bytes as u64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), arrived)
        .await
        .expect("the pull goes on");
}

async fn ensure(images: &Images, image: &str, pull: ImagePull) -> Result<String, RuntimeError> {
    images
        .ensure(
            &reference(image),
            (pull, &[]),
            &PullProgress::default(),
            &CancellationToken::new(),
        )
        .await
}

async fn pull(images: &Images, image: &str) -> Result<String, RuntimeError> {
    ensure(images, image, ImagePull::IfNotPresent).await
}

#[track_caller]
fn failed(result: Result<String, RuntimeError>, expected: Reason) -> String {
    match result {
        Err(RuntimeError::Failed(failure)) if failure.reason == expected => failure.message,
        other => panic!("{expected} expected: {other:?}"),
    }
}

/// containerd's own client finds the image complete, and what is in it runs.
fn runs(bed: &Testbed, image: &str, file: &str) -> String {
    let check = bed.ctr(&["images", "check"]);
    let line = check
        .lines()
        .find(|line| line.starts_with(image))
        .unwrap_or_else(|| panic!("{image} in {check}"));
    assert!(
        line.contains("complete") && line.trim_end().ends_with("true"),
        "{line}"
    );
    bed.ctr(&["run", "--rm", image, "try", "cat", file])
}

fn leases(bed: &Testbed) -> usize {
    bed.ctr(&["leases", "ls", "-q"]).lines().count()
}

#[tokio::test]
async fn every_packing_and_dialect_is_pulled_and_runs() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let images = images(&bed, config(&[registry.address()]));
    for dialect in [Dialect::Oci, Dialect::Docker] {
        for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
            let name = format!("web{dialect:?}{packing:?}:1").to_lowercase();
            let image = Image::busybox()
                .layer(packing, &[("/more", name.as_bytes())])
                .dialect(dialect);
            let pushed = image.push(&registry, &name).await;
            let image = format!("{}/{name}", registry.address());
            assert_eq!(pull(&images, &image).await.expect("a pull"), pushed.digest);
            assert_eq!(runs(&bed, &image, "/more"), name);
            let local = images
                .local(&reference(&image), &pushed.digest)
                .await
                .expect("it is there");
            assert_eq!(local.config.cmd, ["sh"]);
        }
    }
    assert_eq!(leases(&bed), 0);
}

#[tokio::test]
async fn an_image_that_is_there_needs_no_registry() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    Image::busybox().push(&registry, "web:1").await;
    let image = format!("{}/web:1", registry.address());
    let digest = pull(&images(&bed, config(&[registry.address()])), &image)
        .await
        .expect("a pull");
    drop(registry);
    for how in [ImagePull::IfNotPresent, ImagePull::Never] {
        // Another one, which remembers nothing.
        let again = images(&bed, config(&[]));
        assert_eq!(
            ensure(&again, &image, how).await.expect("it is there"),
            digest
        );
        assert_eq!(
            ensure(&again, &format!("{image}@{digest}"), how)
                .await
                .expect("it is there"),
            digest
        );
    }
    let again = images(&bed, config(&[]));
    failed(
        ensure(&again, &image, ImagePull::Always).await,
        Reason::RegistryUnreachable,
    );
    failed(
        ensure(&again, "127.0.0.1:1/other:1", ImagePull::Never).await,
        Reason::ImageNotPresent,
    );
}

#[tokio::test]
async fn an_imported_image_is_unpacked_without_a_registry() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let pushed = Image::busybox().push(&registry, "web:1").await;
    let image = format!("{}/web:1", registry.address());
    bed.ctr(&["content", "fetch", "--plain-http", &image]);
    drop(registry);
    let images = images(&bed, config(&[]));
    assert_eq!(
        ensure(&images, &image, ImagePull::Never)
            .await
            .expect("its blobs are there"),
        pushed.digest
    );
    runs(&bed, &image, "/www/index.html");
}

#[tokio::test]
async fn a_moved_tag_is_followed_when_asked_and_the_old_image_stays() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let proxy = Proxy::before(registry.address());
    let images = images(&bed, config(&[&proxy.address()]));
    let image = format!("{}/web:1", proxy.address());
    // Busybox itself may be there already, from another test's namespace.
    let base = Image::busybox().layer(Packing::Gzip, &[("/base", b"of the tag that moves")]);
    let first = base
        .clone()
        .layer(Packing::Gzip, &[("/v", b"1")])
        .push(&registry, "web:1")
        .await;
    assert_eq!(pull(&images, &image).await.expect("a pull"), first.digest);
    let second = base
        .layer(Packing::Gzip, &[("/v", b"2")])
        .push(&registry, "web:1")
        .await;
    assert_eq!(
        pull(&images, &image).await.expect("it is there"),
        first.digest
    );
    assert_eq!(
        ensure(&images, &image, ImagePull::Always)
            .await
            .expect("a pull"),
        second.digest
    );
    let before = proxy.requests("").len();
    assert_eq!(
        ensure(&images, &image, ImagePull::Always)
            .await
            .expect("no pull"),
        second.digest
    );
    assert_eq!(proxy.requests("").len(), before, "nothing but a HEAD");
    assert_eq!(
        proxy.requests(&first.layers[1]).len(),
        1,
        "the shared layer is fetched once"
    );

    let reference = reference(&image);
    let wanted = [
        (reference.clone(), Some(first.digest.clone())),
        (reference.clone(), Some(second.digest.clone())),
    ];
    assert_eq!(images.sweep(&wanted).await.expect("a sweep"), [""; 0]);
    for pushed in [&first, &second] {
        images.invalidate(&pushed.digest);
        images
            .local(&reference, &pushed.digest)
            .await
            .expect("both are there");
    }
    assert_eq!(runs(&bed, &image, "/v"), "2");
}

#[tokio::test]
async fn a_sweep_takes_what_nobody_wants_and_nothing_else() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let setting = config(&[registry.address()]);
    for name in ["keep:1", "drop:1", "other:1"] {
        Image::busybox()
            .layer(Packing::Gzip, &[("/name", name.as_bytes())])
            .push(&registry, name)
            .await;
    }
    let name = |name: &str| format!("{}/{name}", registry.address());
    bed.ctr(&["images", "pull", "--plain-http", &name("other:1")]);
    let puller = images(&bed, setting.clone());
    let keep = pull(&puller, &name("keep:1")).await.expect("a pull");
    let lost = pull(&puller, &name("drop:1")).await.expect("a pull");
    let wanted = [(reference(&name("keep:1")), Some(keep.clone()))];
    assert_eq!(
        puller.sweep(&wanted).await.expect("a sweep"),
        [""; 0],
        "it was pulled just now"
    );

    let sweeper = images(&bed, setting);
    let mut removed = sweeper.sweep(&wanted).await.expect("a sweep");
    removed.sort();
    assert_eq!(
        removed,
        [
            format!("image {}", name("drop:1")),
            format!("image {}/drop@{lost}", registry.address())
        ]
    );
    let left = bed.ctr(&["images", "ls", "-q"]);
    assert_eq!(
        left.lines()
            .filter(|line| line.contains("/other:1"))
            .count(),
        1,
        "{left}"
    );
    assert_eq!(runs(&bed, &name("keep:1"), "/name"), "keep:1");
    let gone = sweeper.local(&reference(&name("drop:1")), &lost).await;
    assert!(matches!(gone, Err(RuntimeError::ImageLost(_))), "{gone:?}");
    assert!(!bed.ctr(&["content", "ls", "-q"]).contains(&lost));
}

#[tokio::test]
async fn pulls_at_once_share_what_they_have_in_common() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let base = Image::busybox().big_layer(Packing::Gzip, 4 * MIB, 5);
    let pushed = base.push(&registry, "a:1").await;
    base.clone()
        .layer(Packing::Gzip, &[("/b", b"b")])
        .push(&registry, "b:1")
        .await;
    base.layer(Packing::Gzip, &[("/c", b"c")])
        .push(&registry, "c:1")
        .await;
    let proxy = Proxy::before(registry.address());
    let images = images(&bed, config(&[&proxy.address()]));
    let names = ["a:1", "b:1", "c:1", "a:1", "b:1", "c:1", "a:1"]
        .map(|name| format!("{}/{name}", proxy.address()));
    let pulls = names.iter().map(|name| pull(&images, name));
    for result in futures_util::future::join_all(pulls).await {
        result.expect("a pull");
    }
    assert_eq!(proxy.requests(&pushed.layers[1]).len(), 1);
    for name in &names[..3] {
        runs(&bed, name, "/www/index.html");
    }
    assert_eq!(leases(&bed), 0);
}

#[tokio::test]
async fn damage_on_the_disk_is_found_and_mended() {
    let bed = Testbed::with_private_containerd();
    let registry = Registry::open(&bed);
    let pushed = Image::busybox().push(&registry, "web:1").await;
    let image = format!("{}/web:1", registry.address());
    bed.ctr(&["content", "fetch", "--plain-http", &image]);
    for digest in [&pushed.layers[0], &pushed.config] {
        let hash = digest.trim_start_matches("sha256:");
        let file = bed
            .containerd
            .root()
            .join("io.containerd.content.v1.content/blobs/sha256")
            .join(hash);
        let length = std::fs::metadata(&file).expect("the blob").len();
        std::fs::remove_file(&file).expect("root may");
        std::fs::write(&file, vec![0; usize::try_from(length).expect("small")]).expect("root may");
    }
    let images = images(&bed, config(&[registry.address()]));
    assert_eq!(
        pull(&images, &image).await.expect("it is fetched again"),
        pushed.digest
    );
    runs(&bed, &image, "/www/index.html");
}

#[tokio::test]
async fn a_pull_outlives_the_death_of_containerd() {
    let bed = Testbed::with_private_containerd();
    let registry = Registry::open(&bed);
    let pushed = Image::busybox()
        .big_layer(Packing::Gzip, 4 * MIB, 7)
        .push(&registry, "big:1")
        .await;
    let proxy = Proxy::before(registry.address());
    let images = images(&bed, config(&[&proxy.address()]));
    let image = format!("{}/big:1", proxy.address());
    proxy.inject(
        &pushed.layers[1],
        1,
        Fault::Slow {
            bytes_per_s: 2 * MIB as u64,
        },
    );
    let progress = PullProgress::default();
    let cancel = CancellationToken::new();
    let killed = async {
        fetched(&progress, 2 * MIB).await;
        bed.containerd.kill_9();
    };
    let reference = reference(&image);
    let (result, ()) = tokio::join!(
        images.ensure(
            &reference,
            (ImagePull::IfNotPresent, &[]),
            &progress,
            &cancel
        ),
        killed
    );
    assert!(
        matches!(result, Err(RuntimeError::Unavailable(_))),
        "{result:?}"
    );
    bed.containerd.start();
    assert_eq!(pull(&images, &image).await.expect("a pull"), pushed.digest);
    assert!(proxy.requests(&pushed.layers[1])[1].range.is_some());
    runs(&bed, &image, "/www/index.html");
}

#[tokio::test]
async fn a_full_disk_is_called_so_and_the_pull_goes_on_when_there_is_room() {
    let bed = Testbed::with_private_containerd();
    let registry = Registry::open(&bed);
    let pushed = Image::busybox()
        .big_layer(Packing::Gzip, 8 * MIB, 8)
        .push(&registry, "big:1")
        .await;
    let image = format!("{}/big:1", registry.address());
    let images = images(&bed, config(&[registry.address()]));
    let store = bed
        .containerd
        .root()
        .join("io.containerd.content.v1.content");
    let path = store.to_str().expect("plain letters");
    bed.scratch.at_end(&format!("umount -l {path} 2>/dev/null"));
    // Below the mount and in it: newer versions make them once, at the first write.
    let make = || {
        ["ingest", "blobs/sha256"]
            .map(|dir| std::fs::create_dir_all(store.join(dir)).expect("root may"))
    };
    make();
    crate::harness::run("mount", ["-t", "tmpfs", "-o", "size=4m", "chas-test", path])
        .expect("root may");
    make();
    let full = pull(&images, &image).await;
    // With it go the small blobs that containerd goes on taking for stored.
    crate::harness::run("umount", ["-l", path]).expect("it is mounted");
    let message = failed(full, Reason::DiskFull);
    assert!(message.contains("image.disk_reserve"), "{message}");
    assert_eq!(
        pull(&images, &image).await.expect("there is room again"),
        pushed.digest
    );
    runs(&bed, &image, "/www/index.html");
}
