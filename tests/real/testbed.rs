//! The testbed itself: what the other tests rely on, tried with containerd's own `ctr` in the agent's place.

use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use crate::harness::image::{Dialect, Image, Packing, architecture, push_index};
use crate::harness::proxy::{Fault, Proxy};
use crate::harness::registry::{Access, PASSWORD, Registry, USER};
use crate::harness::scratch::Sweeper;
use crate::harness::{Testbed, eventually, run};

#[tokio::test]
async fn an_image_that_was_pushed_runs() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    Image::busybox()
        .layer(Packing::Zstd, &[("/www/more", b"more\n")])
        .push(&registry, "busybox:1")
        .await;
    let reference = format!("{}/busybox:1", registry.address());
    bed.ctr(&["images", "pull", "--plain-http", &reference]);
    let said = bed.ctr(&[
        "run",
        "--rm",
        "--env",
        "A=b",
        &reference,
        "one",
        "sh",
        "-c",
        "cat /www/*; echo $A",
    ]);
    assert_eq!(said, "hello from busybox\nmore\nb\n");
    bed.assert_no_container_left();
    bed.ctr(&["images", "rm", "--sync", &reference]);
    bed.assert_nothing_left();
}

#[tokio::test]
async fn a_container_that_still_runs_counts_as_left() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    Image::busybox()
        .dialect(Dialect::Docker)
        .push(&registry, "busybox:1")
        .await;
    let reference = format!("{}/busybox:1", registry.address());
    bed.ctr(&["images", "pull", "--plain-http", &reference]);
    bed.ctr(&["run", "-d", &reference, "one", "sleep", "1000"]);
    let left = bed.container_leaks();
    for kind in [
        "container one",
        "task one",
        "snapshot one",
        "process ",
        "cgroup ",
        "runc state ",
    ] {
        assert!(
            left.iter().any(|line| line.starts_with(kind)),
            "{kind} in {left:?}"
        );
    }
    bed.ctr(&["tasks", "rm", "-f", "one"]);
    bed.ctr(&["containers", "rm", "one"]);
    bed.assert_no_container_left();
}

#[test]
fn the_sweeper_takes_what_is_left_and_says_so() {
    let bed = Testbed::new();
    let dir = bed.dir.join("left");
    let (mount, file) = (dir.join("mount"), dir.join("file"));
    fs::create_dir_all(&mount).expect("a directory");
    fs::write(file, "no find: the directory goes in any case").expect("a file");
    run(
        "mount",
        [
            "-t".as_ref(),
            "tmpfs".as_ref(),
            "none".as_ref(),
            mount.as_os_str(),
        ],
    )
    .expect("root mounts");
    let mut sweeper = Sweeper::start(&dir);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sweeper.sweep()));
    let message = *panicked
        .expect_err("something is left")
        .downcast::<String>()
        .expect("a message");
    assert!(
        message.ends_with(&format!(":\nmount {}\n", mount.display())),
        "{message}"
    );
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_container_outlives_its_containerd() {
    let bed = Testbed::with_private_containerd();
    let registry = Registry::open(&bed);
    Image::busybox().push(&registry, "busybox:1").await;
    let reference = format!("{}/busybox:1", registry.address());
    bed.ctr(&["images", "pull", "--plain-http", &reference]);
    bed.ctr(&["run", "-d", &reference, "one", "sleep", "1000"]);
    bed.containerd.kill_9();
    bed.try_ctr(&["version"]).expect_err("nobody answers");
    bed.containerd.start();
    assert!(bed.ctr(&["tasks", "ls"]).contains("RUNNING"));
}

#[tokio::test]
async fn a_download_that_was_cut_goes_on_where_it_ended() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let image = Image::busybox()
        .big_layer(Packing::Gzip, 3 << 20, 1)
        .push(&registry, "big:1")
        .await;
    let big = image.layers[1].as_str();
    let proxy = Proxy::before(registry.address());
    let reference = format!("{}/big:1", proxy.address());
    proxy.inject(
        "/manifests/",
        1,
        Fault::Status {
            code: 503,
            retry_after_s: Some(1),
        },
    );
    proxy.inject(
        big,
        1,
        Fault::Reset {
            after_bytes: 1 << 20,
        },
    );
    proxy.inject(
        big,
        1,
        Fault::Finish {
            after_bytes: 1 << 20,
        },
    );
    let attempts = (1..).find(|_| {
        bed.try_ctr(&["images", "pull", "--plain-http", &reference])
            .is_ok()
    });
    assert!(attempts > Some(1), "the registry was busy at first");

    let requests = proxy.requests(big);
    let cut: Vec<_> = requests
        .iter()
        .filter(|request| request.faulty)
        .map(|request| request.sent_bytes)
        .collect();
    assert_eq!(cut, [1 << 20, 1 << 20], "{requests:?}");
    let resumed: Vec<_> = requests
        .iter()
        .filter(|request| request.status == 206)
        .collect();
    assert!(!resumed.is_empty(), "{requests:?}");
    assert!(
        resumed.iter().all(|request| request
            .range
            .as_deref()
            .is_some_and(|range| range != "bytes=0-")),
        "{resumed:?}"
    );
}

#[tokio::test]
async fn a_corrupted_download_is_refused() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let image = Image::busybox()
        .big_layer(Packing::Plain, 1 << 20, 2)
        .push(&registry, "big:1")
        .await;
    let proxy = Proxy::before(registry.address());
    proxy.inject(&image.layers[1], 1, Fault::Corrupt { at_byte: 500_000 });
    let pull = bed.try_ctr(&[
        "images",
        "pull",
        "--plain-http",
        &format!("{}/big:1", proxy.address()),
    ]);
    let refused = pull.expect_err("a byte is wrong");
    assert!(refused.contains("digest"), "{refused}");
}

#[tokio::test]
async fn a_stalled_download_lasts_until_the_client_gives_up() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let image = Image::busybox().push(&registry, "busybox:1").await;
    let proxy = Proxy::before(registry.address());
    let url = format!(
        "http://{}/v2/busybox/blobs/{}",
        proxy.address(),
        image.layers[0]
    );
    proxy.inject("/blobs/", 1, Fault::Stall { after_bytes: 1000 });
    proxy.inject(
        "/blobs/",
        1,
        Fault::Slow {
            bytes_per_s: 100_000,
        },
    );
    for _ in 0..2 {
        let client = crate::harness::http::client();
        let body = client
            .get(&url)
            .timeout(Duration::from_millis(500))
            .send()
            .await
            .expect("a head")
            .bytes()
            .await;
        body.expect_err("not all of it within half a second");
    }
    let sent: Vec<_> = proxy
        .requests("/blobs/")
        .iter()
        .map(|request| request.sent_bytes)
        .collect();
    assert!(
        sent[0] == 1000 && (1000..200_000).contains(&sent[1]),
        "{sent:?}"
    );
}

#[tokio::test]
async fn registries_ask_for_what_they_were_told_to() {
    let bed = Testbed::new();
    let user = format!("{USER}:{PASSWORD}");
    for (access, tls) in [
        (Access::Password, false),
        (Access::Token { lives_s: 60 }, false),
        (Access::Password, true),
    ] {
        let registry = Registry::start(&bed, access, tls);
        Image::busybox().push(&registry, "busybox:1").await;
        let reference = format!("{}/busybox:1", registry.address());
        let hosts = bed.dir.join(registry.address());
        fs::create_dir(&hosts).expect("a port of its own");
        // Without this, `ctr` takes for granted that a loopback address speaks plain HTTP.
        let (scheme, authority) = match registry.authority() {
            Some(path) => ("https", format!("ca = {path:?}\n")),
            None => ("http", String::new()),
        };
        let capabilities = "capabilities = [\"pull\", \"resolve\"]";
        let rules = format!(
            "[host.\"{scheme}://{}\"]\n{capabilities}\n{authority}",
            registry.address()
        );
        fs::write(hosts.join("hosts.toml"), rules).expect("the disk takes it");
        let hosts_dir = bed.dir.display().to_string();
        let pull = |more: &[&str]| {
            bed.try_ctr(
                &[
                    &["images", "pull", "--hosts-dir", &hosts_dir],
                    more,
                    &[&reference],
                ]
                .concat(),
            )
        };
        let refused = pull(&[]).expect_err("without a password");
        assert!(
            refused.contains("401") || refused.contains("authorization failed"),
            "{access:?}: {refused}"
        );
        pull(&["--user", &user]).unwrap_or_else(|error| panic!("{access:?}: {error}"));
        bed.ctr(&["images", "rm", "--sync", &reference]);
        bed.assert_nothing_left();
    }
}

#[tokio::test]
async fn an_index_offers_the_image_of_this_machine() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let ours = Image::busybox().push(&registry, "many:ours").await;
    let other = Image::busybox()
        .architecture("riscv64")
        .push(&registry, "many:other")
        .await;
    let digest = push_index(&registry, "many:1", &[&other, &ours])
        .await
        .digest;
    let reference = format!("{}/many:1", registry.address());
    bed.ctr(&["images", "pull", "--plain-http", &reference]);
    let listed = bed.ctr(&["images", "ls"]);
    assert!(
        listed.contains(&digest) && listed.contains(&format!("linux/{}", architecture())),
        "{listed}"
    );
    assert!(bed.ctr(&["content", "ls", "-q"]).contains(&ours.layers[0]));
}

#[tokio::test]
async fn the_web_image_serves_its_page() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let port = bed.port();
    let listen = format!("127.0.0.1:{port}");
    let entrypoint = serde_json::json!(["httpd", "-f", "-p", &listen, "-h", "/www"]);
    Image::web()
        .config("Entrypoint", entrypoint)
        .push(&registry, "web:1")
        .await;
    let reference = format!("{}/web:1", registry.address());
    bed.ctr(&["images", "pull", "--plain-http", &reference]);
    bed.ctr(&["run", "-d", "--net-host", &reference, "one"]);
    eventually("the port answers", Duration::from_secs(10), || {
        TcpStream::connect(&listen).is_ok()
    });
    let page = reqwest_page(&format!("http://{listen}/")).await;
    assert_eq!(page, "hello from busybox\n");
}

async fn reqwest_page(url: &str) -> String {
    crate::harness::http::client()
        .get(url)
        .send()
        .await
        .expect("it answers")
        .text()
        .await
        .expect("text")
}
