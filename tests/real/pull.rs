//! Pulls from real registries into a real containerd, over a line on which everything goes wrong.

use std::time::Duration;

use chas_node_agent::runtime::containerd::client::Client;
use chas_node_agent::runtime::containerd::image::Images;
use chas_node_agent::runtime::containerd::registry::RegistryConfig;
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
    Images::new(Client::new(&bed.containerd.socket(), &bed.namespace), config).expect("the configuration is good")
}

/// Waits until so much is on the node; not for ever, should the pull have failed instead.
async fn fetched(progress: &PullProgress, bytes: usize) {
    let arrived = async {
        while progress.get().0 < bytes as u64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), arrived).await.expect("the pull goes on");
}

async fn ensure(images: &Images, image: &str, pull: ImagePull) -> Result<String, RuntimeError> {
    images.ensure(&reference(image), pull, &PullProgress::default(), &CancellationToken::new()).await
}

async fn pull(images: &Images, image: &str) -> Result<String, RuntimeError> {
    ensure(images, image, ImagePull::IfNotPresent).await
}

#[track_caller]
fn failed(result: Result<String, RuntimeError>, expected: Reason) -> String {
    match result {
        Err(RuntimeError::Failed { reason, message, .. }) if reason == expected => message,
        other => panic!("{expected} expected: {other:?}"),
    }
}

/// containerd's own client finds the image complete, and what is in it runs.
fn runs(bed: &Testbed, image: &str, file: &str) -> String {
    let check = bed.ctr(&["images", "check"]);
    let line = check.lines().find(|line| line.starts_with(image)).unwrap_or_else(|| panic!("{image} in {check}"));
    assert!(line.contains("complete") && line.trim_end().ends_with("true"), "{line}");
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
            let image = Image::busybox().layer(packing, &[("/more", name.as_bytes())]).dialect(dialect);
            let pushed = image.push(&registry, &name).await;
            let image = format!("{}/{name}", registry.address());
            assert_eq!(pull(&images, &image).await.expect("a pull"), pushed.digest);
            assert_eq!(runs(&bed, &image, "/more"), name);
            let local = images.local(&reference(&image), &pushed.digest).await.expect("it is there");
            let config = local.config.config().as_ref().expect("busybox has one");
            assert_eq!(config.cmd().as_deref(), Some(&["sh".to_owned()][..]));
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
    let digest = pull(&images(&bed, config(&[registry.address()])), &image).await.expect("a pull");
    drop(registry);
    for how in [ImagePull::IfNotPresent, ImagePull::Never] {
        // Another one, which remembers nothing.
        let again = images(&bed, config(&[]));
        assert_eq!(ensure(&again, &image, how).await.expect("it is there"), digest);
        assert_eq!(ensure(&again, &format!("{image}@{digest}"), how).await.expect("it is there"), digest);
    }
    let again = images(&bed, config(&[]));
    failed(ensure(&again, &image, ImagePull::Always).await, Reason::RegistryUnreachable);
    failed(ensure(&again, "127.0.0.1:1/other:1", ImagePull::Never).await, Reason::ImageNotPresent);
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
    assert_eq!(ensure(&images, &image, ImagePull::Never).await.expect("its blobs are there"), pushed.digest);
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
    let first = base.clone().layer(Packing::Gzip, &[("/v", b"1")]).push(&registry, "web:1").await;
    assert_eq!(pull(&images, &image).await.expect("a pull"), first.digest);
    let second = base.layer(Packing::Gzip, &[("/v", b"2")]).push(&registry, "web:1").await;
    assert_eq!(pull(&images, &image).await.expect("it is there"), first.digest);
    assert_eq!(ensure(&images, &image, ImagePull::Always).await.expect("a pull"), second.digest);
    let before = proxy.requests("").len();
    assert_eq!(ensure(&images, &image, ImagePull::Always).await.expect("no pull"), second.digest);
    assert_eq!(proxy.requests("").len(), before, "nothing but a HEAD");
    assert_eq!(proxy.requests(&first.layers[1]).len(), 1, "the shared layer is fetched once");

    let reference = reference(&image);
    let wanted = [(reference.clone(), Some(first.digest.clone())), (reference.clone(), Some(second.digest.clone()))];
    assert_eq!(images.sweep(&wanted).await.expect("a sweep"), [""; 0]);
    for pushed in [&first, &second] {
        images.forget(&pushed.digest);
        images.local(&reference, &pushed.digest).await.expect("both are there");
    }
    assert_eq!(runs(&bed, &image, "/v"), "2");
}

#[tokio::test]
async fn a_sweep_takes_what_nobody_wants_and_nothing_else() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let setting = config(&[registry.address()]);
    for name in ["keep:1", "drop:1", "other:1"] {
        Image::busybox().layer(Packing::Gzip, &[("/name", name.as_bytes())]).push(&registry, name).await;
    }
    let name = |name: &str| format!("{}/{name}", registry.address());
    bed.ctr(&["images", "pull", "--plain-http", &name("other:1")]);
    let puller = images(&bed, setting.clone());
    let keep = pull(&puller, &name("keep:1")).await.expect("a pull");
    let lost = pull(&puller, &name("drop:1")).await.expect("a pull");
    let wanted = [(reference(&name("keep:1")), Some(keep.clone()))];
    assert_eq!(puller.sweep(&wanted).await.expect("a sweep"), [""; 0], "it was pulled just now");

    let sweeper = images(&bed, setting);
    let mut removed = sweeper.sweep(&wanted).await.expect("a sweep");
    removed.sort();
    assert_eq!(removed, [format!("image {}", name("drop:1")), format!("image {}/drop@{lost}", registry.address())]);
    let left = bed.ctr(&["images", "ls", "-q"]);
    assert_eq!(left.lines().filter(|line| line.contains("/other:1")).count(), 1, "{left}");
    assert_eq!(runs(&bed, &name("keep:1"), "/name"), "keep:1");
    let gone = sweeper.local(&reference(&name("drop:1")), &lost).await;
    assert!(matches!(gone, Err(RuntimeError::ImageLost(_))), "{gone:?}");
    assert!(!bed.ctr(&["content", "ls", "-q"]).contains(&lost));
}

#[tokio::test]
async fn a_download_goes_on_where_it_was_cut() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let pushed = Image::busybox().big_layer(Packing::Gzip, 8 * MIB, 1).push(&registry, "big:1").await;
    let big = pushed.layers[1].as_str();
    let proxy = Proxy::before(registry.address());
    let images = images(&bed, config(&[&proxy.address()]));
    let after_bytes = MIB as u64 + 1000;
    for fault in [
        Fault::Finish { after_bytes },
        Fault::Reset { after_bytes },
        Fault::Stall { after_bytes },
        Fault::Status { code: 503, retry_after_s: None },
        Fault::Status { code: 500, retry_after_s: None },
        Fault::Status { code: 429, retry_after_s: Some(1) },
        Fault::Finish { after_bytes: 0 },
        Fault::Stall { after_bytes: 0 },
    ] {
        proxy.inject(big, 1, fault);
    }
    // More cuts than tries in vain are allowed: those that advance do not count.
    proxy.inject(big, 5, Fault::Finish { after_bytes: 300_000 });
    proxy.inject("/manifests/", 2, Fault::Reset { after_bytes: 10 });
    proxy.inject(&pushed.config, 2, Fault::Finish { after_bytes: 10 });
    let progress = PullProgress::default();
    let setting = RegistryConfig { attempts_max: 6, ..config(&[&proxy.address()]) };
    drop(images);
    let images = super::pull::images(&bed, setting);
    let image = format!("{}/big:1", proxy.address());
    let digest = images.ensure(&reference(&image), ImagePull::IfNotPresent, &progress, &CancellationToken::new()).await;
    assert_eq!(digest.expect("a pull"), pushed.digest);
    runs(&bed, &image, "/www/index.html");

    let requests = proxy.requests(big);
    let sent: u64 = requests.iter().map(|request| request.sent_bytes).sum();
    assert!(sent < 14 * MIB as u64, "{sent} bytes for a layer of 8 MiB: {requests:#?}");
    assert!(requests.iter().skip(1).all(|request| request.range.is_some()), "{requests:#?}");
    let (fetched, total) = progress.get();
    assert!(fetched == total && total > 8 * MIB as u64, "{fetched} of {total}");
    assert_eq!(leases(&bed), 0);
}

#[tokio::test]
async fn a_corrupted_layer_is_fetched_again_from_the_start() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let pushed = Image::busybox().big_layer(Packing::Plain, 2 * MIB, 2).push(&registry, "big:1").await;
    let proxy = Proxy::before(registry.address());
    let images = images(&bed, config(&[&proxy.address()]));
    let image = format!("{}/big:1", proxy.address());
    proxy.inject(&pushed.layers[1], 1, Fault::Corrupt { at_byte: 500_000 });
    proxy.inject("/manifests/sha256", 1, Fault::Corrupt { at_byte: 5 });
    proxy.inject(&pushed.config, 1, Fault::Corrupt { at_byte: 5 });
    assert_eq!(pull(&images, &image).await.expect("the second time it is good"), pushed.digest);
    let ranges: Vec<_> = proxy.requests(&pushed.layers[1]).into_iter().map(|request| request.range).collect();
    assert_eq!(ranges, [None, None]);

    let pushed = Image::busybox().big_layer(Packing::Plain, 2 * MIB, 3).push(&registry, "bad:1").await;
    let image = format!("{}/bad:1", proxy.address());
    proxy.inject(&pushed.layers[1], 100, Fault::Corrupt { at_byte: 500_000 });
    failed(pull(&images, &image).await, Reason::DigestMismatch);
    proxy.heal();
    assert_eq!(pull(&images, &image).await.expect("a clean start"), pushed.digest);
    assert_eq!(leases(&bed), 0);
}

#[tokio::test]
async fn a_cancelled_pull_ends_at_once_and_what_it_fetched_is_kept() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let pushed = Image::busybox().big_layer(Packing::Gzip, 8 * MIB, 4).push(&registry, "big:1").await;
    let big = pushed.layers[1].as_str();
    let proxy = Proxy::before(registry.address());
    let images = images(&bed, config(&[&proxy.address()]));
    let image = format!("{}/big:1", proxy.address());
    proxy.inject(big, 1, Fault::Slow { bytes_per_s: 4 * MIB as u64 });
    let (cancel, progress) = (CancellationToken::new(), PullProgress::default());
    let cancelled = async {
        fetched(&progress, 4 * MIB).await;
        cancel.cancel();
        Instant::now()
    };
    let wanted = reference(&image);
    let (result, cancelled) = tokio::join!(images.ensure(&wanted, ImagePull::IfNotPresent, &progress, &cancel), cancelled);
    assert!(matches!(result, Err(RuntimeError::Cancelled)), "{result:?}");
    assert!(cancelled.elapsed() < Duration::from_millis(100));
    assert_eq!(leases(&bed), 1);

    assert_eq!(images.sweep(&[(reference(&image), None)]).await.expect("a sweep"), [""; 0]);
    let progress = PullProgress::default();
    let digest = images.ensure(&reference(&image), ImagePull::IfNotPresent, &progress, &CancellationToken::new()).await;
    assert_eq!(digest.expect("a pull"), pushed.digest);
    let range = proxy.requests(big)[1].range.clone().expect("a range");
    let start: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().expect("a number");
    assert!(start >= 2 * MIB, "{range}");
    assert_eq!(progress.get().0, progress.get().1);
    assert_eq!(leases(&bed), 0);
}

#[tokio::test]
async fn pulls_at_once_share_what_they_have_in_common() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let base = Image::busybox().big_layer(Packing::Gzip, 4 * MIB, 5);
    let pushed = base.push(&registry, "a:1").await;
    base.clone().layer(Packing::Gzip, &[("/b", b"b")]).push(&registry, "b:1").await;
    base.layer(Packing::Gzip, &[("/c", b"c")]).push(&registry, "c:1").await;
    let proxy = Proxy::before(registry.address());
    let images = images(&bed, config(&[&proxy.address()]));
    let names = ["a:1", "b:1", "c:1", "a:1", "b:1", "c:1", "a:1"].map(|name| format!("{}/{name}", proxy.address()));
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
async fn the_variant_for_this_machine_is_chosen_or_missed_by_name() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let images = images(&bed, config(&[registry.address()]));
    let ours = Image::busybox().layer(Packing::Gzip, &[("/which", b"ours")]).push(&registry, "multi:ours").await;
    let other = Image::busybox().architecture("s390x").push(&registry, "multi:other").await;
    let index = push_index(&registry, "multi:1", &[&other, &ours]).await;
    let name = |name: &str| format!("{}/{name}", registry.address());
    assert_eq!(pull(&images, &name("multi:1")).await.expect("a pull"), index);
    assert_eq!(runs(&bed, &name("multi:1"), "/which"), "ours");
    let again = super::pull::images(&bed, config(&[]));
    again.local(&reference(&name("multi:1")), &index).await.expect("the index is there");
    push_index(&registry, "multi:2", &[&other]).await;
    for tag in ["multi:2", "multi:other"] {
        let message = failed(pull(&images, &name(tag)).await, Reason::ImagePlatformMismatch);
        assert!(message.contains("linux/s390x"), "{message}");
    }
}

#[tokio::test]
async fn a_password_is_shown_when_asked_for_and_may_change() {
    let bed = Testbed::new();
    let registry = Registry::start(&bed, Access::Password, true);
    let digest = Image::busybox().push(&registry, "web:1").await.digest;
    let image = format!("{}/web:1", registry.address());
    let auth_file = bed.dir.join("auth.json");
    let entry = |password: &str| {
        format!(r#"{{"auths": {{"{}": {{"username": "{USER}", "password": "{password}"}}}}}}"#, registry.address())
    };
    let setting = RegistryConfig {
        auth_file: Some(auth_file.clone()),
        ca_file: registry.authority().map(std::path::Path::to_owned),
        ..config(&[])
    };
    let images = images(&bed, setting.clone());
    let message = failed(pull(&images, &image).await, Reason::RegistryUnauthorized);
    assert!(message.contains("auth.json"), "{message}");
    std::fs::write(&auth_file, entry("wrong")).expect("a file");
    failed(pull(&images, &image).await, Reason::RegistryCredentialsRefused);
    std::fs::write(&auth_file, entry(PASSWORD)).expect("a file");
    assert_eq!(pull(&images, &image).await.expect("a pull"), digest);

    let distrusting = super::pull::images(&bed, RegistryConfig { ca_file: None, ..setting.clone() });
    let message = failed(ensure(&distrusting, &image, ImagePull::Always).await, Reason::RegistryCertificateInvalid);
    assert!(message.contains("registry.ca_file"), "{message}");
    let insecure = vec![registry.address().to_owned()];
    let in_the_clear = super::pull::images(&bed, RegistryConfig { insecure, ..setting });
    let message = failed(ensure(&in_the_clear, &image, ImagePull::Always).await, Reason::RegistryNotInsecure);
    assert!(message.contains("take it out of registry.insecure"), "{message}");
}

#[tokio::test]
async fn a_token_is_fetched_and_renewed_when_it_ends_in_a_pull() {
    let bed = Testbed::new();
    let registry = Registry::start(&bed, Access::Token { lives_s: 2 }, false);
    let pushed = Image::busybox().big_layer(Packing::Gzip, 2 * MIB, 6).push(&registry, "big:1").await;
    let proxy = Proxy::before(registry.address());
    let tokens = registry.token_address().expect("it has a token server");
    let image = format!("{}/big:1", proxy.address());
    let auth_file = bed.dir.join("auth.json");
    let auths = format!(r#"{{"auths": {{"{}": {{"username": "{USER}", "password": "{PASSWORD}"}}}}}}"#, proxy.address());
    std::fs::write(&auth_file, auths).expect("a file");
    let setting = RegistryConfig { auth_file: Some(auth_file), attempts_max: 8, ..config(&[&proxy.address(), &tokens]) };

    let anonymous = images(&bed, RegistryConfig { auth_file: None, ..setting.clone() });
    failed(pull(&anonymous, &image).await, Reason::RegistryUnauthorized);
    let unlisted = images(&bed, RegistryConfig { insecure: vec![proxy.address()], ..setting.clone() });
    let message = failed(pull(&unlisted, &image).await, Reason::RegistryRedirectRefused);
    assert!(message.contains(&tokens), "{message}");

    proxy.inject(&pushed.layers[1], 1, Fault::Slow { bytes_per_s: 600_000 });
    proxy.inject(&pushed.layers[1], 4, Fault::Stall { after_bytes: 1000 });
    proxy.inject(&pushed.layers[1], 2, Fault::Status { code: 429, retry_after_s: Some(2) });
    assert_eq!(pull(&images(&bed, setting), &image).await.expect("a pull"), pushed.digest);
}

#[tokio::test]
async fn what_cannot_be_pulled_says_why_and_what_would_help() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let pushed = Image::busybox().push(&registry, "web:1").await;
    let proxy = Proxy::before(registry.address());
    let listed = images(&bed, config(&[&proxy.address(), "127.0.0.1:1"]));
    let name = |name: &str| format!("{}/{name}", proxy.address());
    for absent in ["web:2", "nothing:1", &format!("web@sha256:{}", "0".repeat(64))] {
        failed(pull(&listed, &name(absent)).await, Reason::ImageNotFound);
    }
    let message = failed(pull(&listed, "127.0.0.1:1/web:1").await, Reason::RegistryUnreachable);
    assert!(message.contains("127.0.0.1:1") && message.contains("refused"), "{message}");
    for plain in [registry.address(), &proxy.address()] {
        let message = failed(pull(&images(&bed, config(&[])), &format!("{plain}/web:1")).await, Reason::RegistryNotTls);
        assert!(message.contains("list it under registry.insecure"), "{message}");
    }

    proxy.inject("/blobs/", 100, Fault::Status { code: 503, retry_after_s: None });
    failed(pull(&listed, &name("web:1")).await, Reason::RegistryError);
    proxy.heal();
    proxy.inject("/manifests/", 100, Fault::Status { code: 429, retry_after_s: Some(3600) });
    let limited = pull(&listed, &format!("{}@{}", name("web:1"), pushed.digest)).await;
    let hour = Some(Duration::from_secs(3600));
    assert!(matches!(limited, Err(RuntimeError::Failed { retry_after, .. }) if retry_after == hour), "{limited:?}");
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
        let file = bed.containerd.root().join("io.containerd.content.v1.content/blobs/sha256").join(hash);
        let length = std::fs::metadata(&file).expect("the blob").len();
        std::fs::remove_file(&file).expect("root may");
        std::fs::write(&file, vec![0; usize::try_from(length).expect("small")]).expect("root may");
    }
    let images = images(&bed, config(&[registry.address()]));
    assert_eq!(pull(&images, &image).await.expect("it is fetched again"), pushed.digest);
    runs(&bed, &image, "/www/index.html");
}

#[tokio::test]
async fn a_pull_outlives_the_death_of_containerd() {
    let bed = Testbed::with_private_containerd();
    let registry = Registry::open(&bed);
    let pushed = Image::busybox().big_layer(Packing::Gzip, 4 * MIB, 7).push(&registry, "big:1").await;
    let proxy = Proxy::before(registry.address());
    let images = images(&bed, config(&[&proxy.address()]));
    let image = format!("{}/big:1", proxy.address());
    proxy.inject(&pushed.layers[1], 1, Fault::Slow { bytes_per_s: 2 * MIB as u64 });
    let progress = PullProgress::default();
    let cancel = CancellationToken::new();
    let killed = async {
        fetched(&progress, 2 * MIB).await;
        bed.containerd.kill_9();
    };
    let reference = reference(&image);
    let (result, ()) = tokio::join!(images.ensure(&reference, ImagePull::IfNotPresent, &progress, &cancel), killed);
    assert!(matches!(result, Err(RuntimeError::Unavailable(_))), "{result:?}");
    bed.containerd.start();
    assert_eq!(pull(&images, &image).await.expect("a pull"), pushed.digest);
    assert!(proxy.requests(&pushed.layers[1])[1].range.is_some());
    runs(&bed, &image, "/www/index.html");
}

#[tokio::test]
async fn a_full_disk_is_called_so_and_the_pull_goes_on_when_there_is_room() {
    let bed = Testbed::with_private_containerd();
    let registry = Registry::open(&bed);
    let pushed = Image::busybox().big_layer(Packing::Gzip, 8 * MIB, 8).push(&registry, "big:1").await;
    let image = format!("{}/big:1", registry.address());
    let images = images(&bed, config(&[registry.address()]));
    let store = bed.containerd.root().join("io.containerd.content.v1.content");
    let path = store.to_str().expect("plain letters");
    bed.scratch.at_end(&format!("umount -l {path} 2>/dev/null"));
    // Below the mount and in it: newer versions make them once, at the first write.
    let make = || ["ingest", "blobs/sha256"].map(|dir| std::fs::create_dir_all(store.join(dir)).expect("root may"));
    make();
    crate::harness::run("mount", ["-t", "tmpfs", "-o", "size=4m", "chas-test", path]).expect("root may");
    make();
    let full = pull(&images, &image).await;
    // With it go the small blobs that containerd goes on taking for stored.
    crate::harness::run("umount", ["-l", path]).expect("it is mounted");
    let message = failed(full, Reason::DiskFull);
    assert!(message.contains("free some space"), "{message}");
    assert_eq!(pull(&images, &image).await.expect("there is room again"), pushed.digest);
    runs(&bed, &image, "/www/index.html");
}
