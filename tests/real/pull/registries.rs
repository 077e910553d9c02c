//! What registries answer.

use super::*;
use crate::stand::{SOON, Stand};

#[tokio::test]
async fn the_variant_for_this_machine_is_chosen_or_missed_by_name() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let images = images(&bed, config(&[registry.address()]));
    let ours = Image::busybox()
        .layer(Packing::Gzip, &[("/which", b"ours")])
        .push(&registry, "multi:ours")
        .await;
    let other = Image::busybox()
        .architecture("s390x")
        .push(&registry, "multi:other")
        .await;
    let index = push_index(&registry, "multi:1", &[&other, &ours])
        .await
        .digest;
    let name = |name: &str| format!("{}/{name}", registry.address());
    assert_eq!(
        pull(&images, &name("multi:1")).await.expect("a pull"),
        index
    );
    assert_eq!(runs(&bed, &name("multi:1"), "/which"), "ours");
    let again = super::images(&bed, config(&[]));
    again
        .local(&reference(&name("multi:1")), &index)
        .await
        .expect("the index is there");
    push_index(&registry, "multi:2", &[&other]).await;
    for tag in ["multi:2", "multi:other"] {
        let message = failed(
            pull(&images, &name(tag)).await,
            Reason::ImagePlatformMismatch,
        );
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
        format!(
            r#"{{"auths": {{"{}": {{"username": "{USER}", "password": "{password}"}}}}}}"#,
            registry.address()
        )
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
    failed(
        pull(&images, &image).await,
        Reason::RegistryCredentialsRefused,
    );
    std::fs::write(&auth_file, entry(PASSWORD)).expect("a file");
    assert_eq!(pull(&images, &image).await.expect("a pull"), digest);

    let distrusting = super::images(
        &bed,
        RegistryConfig {
            ca_file: None,
            ..setting.clone()
        },
    );
    let message = failed(
        ensure(&distrusting, &image, ImagePull::Always).await,
        Reason::RegistryCertificateInvalid,
    );
    assert!(message.contains("registry.ca_file"), "{message}");
    let insecure = vec![registry.address().to_owned()];
    let in_the_clear = super::images(
        &bed,
        RegistryConfig {
            insecure,
            ..setting
        },
    );
    let message = failed(
        ensure(&in_the_clear, &image, ImagePull::Always).await,
        Reason::RegistryNotInsecure,
    );
    assert!(
        message.contains("take it out of registry.insecure"),
        "{message}"
    );
}

#[tokio::test]
async fn a_token_is_fetched_and_renewed_when_it_ends_in_a_pull() {
    let bed = Testbed::new();
    let registry = Registry::start(&bed, Access::Token { lives_s: 2 }, false);
    let pushed = Image::busybox()
        .big_layer(Packing::Gzip, 2 * MIB, 6)
        .push(&registry, "big:1")
        .await;
    let proxy = Proxy::before(registry.address());
    let tokens = registry.token_address().expect("it has a token server");
    let image = format!("{}/big:1", proxy.address());
    let auth_file = bed.dir.join("auth.json");
    let auths = format!(
        r#"{{"auths": {{"{}": {{"username": "{USER}", "password": "{PASSWORD}"}}}}}}"#,
        proxy.address()
    );
    std::fs::write(&auth_file, auths).expect("a file");
    let setting = RegistryConfig {
        auth_file: Some(auth_file),
        attempts_max: 8,
        ..config(&[&proxy.address(), &tokens])
    };

    let anonymous = images(
        &bed,
        RegistryConfig {
            auth_file: None,
            ..setting.clone()
        },
    );
    failed(pull(&anonymous, &image).await, Reason::RegistryUnauthorized);
    let unlisted = images(
        &bed,
        RegistryConfig {
            insecure: vec![proxy.address()],
            ..setting.clone()
        },
    );
    let message = failed(
        pull(&unlisted, &image).await,
        Reason::RegistryRedirectRefused,
    );
    assert!(message.contains(&tokens), "{message}");

    proxy.inject(
        &pushed.layers[1],
        1,
        Fault::Slow {
            bytes_per_s: 600_000,
        },
    );
    proxy.inject(&pushed.layers[1], 4, Fault::Stall { after_bytes: 1000 });
    proxy.inject(
        &pushed.layers[1],
        2,
        Fault::Status {
            code: 429,
            retry_after_s: Some(2),
        },
    );
    assert_eq!(
        pull(&images(&bed, setting), &image).await.expect("a pull"),
        pushed.digest
    );
}

#[tokio::test]
async fn what_cannot_be_pulled_says_why_and_what_would_help() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let pushed = Image::busybox().push(&registry, "web:1").await;
    let proxy = Proxy::before(registry.address());
    let listed = images(&bed, config(&[&proxy.address(), "127.0.0.1:1"]));
    let name = |name: &str| format!("{}/{name}", proxy.address());
    for absent in [
        "web:2",
        "nothing:1",
        &format!("web@sha256:{}", "0".repeat(64)),
    ] {
        failed(pull(&listed, &name(absent)).await, Reason::ImageNotFound);
    }
    let message = failed(
        pull(&listed, "127.0.0.1:1/web:1").await,
        Reason::RegistryUnreachable,
    );
    assert!(
        message.contains("127.0.0.1:1") && message.contains("refused"),
        "{message}"
    );
    for plain in [registry.address(), &proxy.address()] {
        let message = failed(
            pull(&images(&bed, config(&[])), &format!("{plain}/web:1")).await,
            Reason::RegistryNotTls,
        );
        assert!(
            message.contains("list it under registry.insecure"),
            "{message}"
        );
    }

    proxy.inject(
        "/blobs/",
        100,
        Fault::Status {
            code: 503,
            retry_after_s: None,
        },
    );
    failed(pull(&listed, &name("web:1")).await, Reason::RegistryError);
    proxy.heal();
    proxy.inject(
        "/manifests/",
        100,
        Fault::Status {
            code: 429,
            retry_after_s: Some(3600),
        },
    );
    let limited = pull(&listed, &format!("{}@{}", name("web:1"), pushed.digest)).await;
    let hour = Some(Duration::from_secs(3600));
    assert!(
        matches!(limited, Err(RuntimeError::Failed(ref failure)) if failure.retry_after == hour),
        "{limited:?}"
    );
}

/// Takes connections and says nothing.
fn silent() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    (listener, address)
}

#[tokio::test]
async fn registries_that_hang_hold_up_no_pull_of_another() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let pushed = Image::busybox().push(&registry, "web:1").await;
    let hanging: Vec<_> = (0..4).map(|_| silent()).collect();
    let mut listed: Vec<&str> = hanging
        .iter()
        .map(|(_, address)| address.as_str())
        .collect();
    listed.push(registry.address());
    let images = images(
        &bed,
        RegistryConfig {
            pulls_max: 3,
            idle_after: Duration::from_millis(500),
            answer_timeout: Duration::from_mins(2),
            ..config(&listed)
        },
    );
    let stuck: Vec<_> = (0..16)
        .map(|n| format!("{}/stuck{n}:1", hanging[n / 4].1))
        .collect();
    let progress = PullProgress::default();
    // Three of its registry's pulls hang, and this is the fourth.
    let (waiting, never) = (reference(&stuck[3]), CancellationToken::new());
    let stuck = stuck[..3]
        .iter()
        .chain(&stuck[4..])
        .map(|image| pull(&images, image));
    let stuck = futures_util::future::join_all(stuck);
    let fourth = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        images
            .ensure(&waiting, (ImagePull::IfNotPresent, &[]), &progress, &never)
            .await
    };
    let image = format!("{}/web:1", registry.address());
    let healthy = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let pulled = tokio::time::timeout(Duration::from_secs(30), pull(&images, &image)).await;
        (pulled, progress.noted())
    };
    let (pulled, told) = tokio::select! {
        healthy = healthy => healthy,
        _ = stuck => panic!("nobody answered them"),
        _ = fourth => panic!("nobody answered it"),
    };
    let digest = pulled.expect("it waits for nobody").expect("a pull");
    assert_eq!(digest, pushed.digest);
    let expected = format!("waits for a pull slot of registry {}", hanging[0].1);
    assert!(
        told.as_ref()
            .is_some_and(|told| told.starts_with(&expected)),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_layer_that_two_registries_have_comes_from_the_one_that_answers() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let proxy = Proxy::before(registry.address());
    let pushed = Image::busybox()
        .big_layer(Packing::Gzip, MIB, 11)
        .push(&registry, "web:1")
        .await;
    proxy.inject(
        &pushed.layers[1],
        usize::MAX,
        Fault::Stall { after_bytes: 1000 },
    );
    let images = images(
        &bed,
        RegistryConfig {
            idle_after: Duration::from_millis(300),
            stall_timeout: Duration::from_mins(1),
            answer_timeout: Duration::from_mins(1),
            ..config(&[&proxy.address(), registry.address()])
        },
    );
    let (slow, quick) = (
        format!("{}/web:1", proxy.address()),
        format!("{}/web:1", registry.address()),
    );
    let progress = PullProgress::default();
    let (slow_reference, never) = (reference(&slow), CancellationToken::new());
    let first = images.ensure(
        &slow_reference,
        (ImagePull::IfNotPresent, &[]),
        &progress,
        &never,
    );
    let second = async {
        fetched(&progress, 1).await;
        tokio::time::timeout(Duration::from_secs(30), pull(&images, &quick)).await
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(second.expect("in time").expect("a pull"), pushed.digest);
    assert_eq!(first.expect("it finds the layer"), pushed.digest);
}

#[tokio::test]
async fn a_mirror_with_a_client_certificate_serves_what_its_registry_cannot() {
    use crate::harness::certificates::{Authority, TlsDoor};

    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let pushed = Image::busybox().push(&registry, "team/web:1").await;
    let authority = Authority::new(bed.dir.join("authority"));
    let shown = authority.issue("door", "IP:127.0.0.1");
    let node = authority.issue("node", "DNS:node");
    let port = bed.port();
    let upstream = registry.address().parse().expect("an address");
    let _door = TlsDoor::open(port, &shown, &authority.certificate(), upstream);
    let hosts = bed.dir.join("certs.d");
    let file = |name: &str, text: String| {
        std::fs::create_dir_all(hosts.join(name)).expect("a directory");
        std::fs::write(hosts.join(name).join("hosts.toml"), text).expect("a file");
    };
    let setting = RegistryConfig {
        hosts_dir: Some(hosts.clone()),
        ..config(&[])
    };
    let images = images(&bed, setting);
    let image = "registry.invalid:5000/team/web:1";
    failed(pull(&images, image).await, Reason::RegistryNameUnknown);
    let mirror = |client: &str| {
        format!(
            "[host.\"https://127.0.0.1:{port}\"]\nca = {:?}\n{client}",
            authority.certificate()
        )
    };
    file(
        "registry.invalid_5000_",
        mirror("client = [[\"absent\", \"absent\"]]\n"),
    );
    let message = failed(pull(&images, image).await, Reason::RegistryConfigInvalid);
    assert!(message.contains("absent"), "{message}");
    file(
        "registry.invalid_5000_",
        mirror(&format!(
            "client = [[{:?}, {:?}]]\n",
            node.certificate, node.key
        )),
    );
    assert_eq!(pull(&images, image).await.expect("a pull"), pushed.digest);
    runs(&bed, image, "/www/index.html");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_is_an_alarm_of_the_node_until_it_is_mended() {
    let bed = Testbed::new();
    let (auth_file, hosts_dir) = (bed.dir.join("auth.json"), bed.dir.join("certs"));
    let hosts = hosts_dir.join("r.example/hosts.toml");
    std::fs::create_dir_all(hosts_dir.join("r.example")).expect("a directory");
    std::fs::write(&auth_file, r#"{"auths": {"r.example": null}}"#).expect("a file");
    std::fs::write(&hosts, "server = ").expect("a file");
    let paths = [&auth_file, &hosts_dir].map(|path| path.display().to_string());
    let variables = [
        ("CHAS_REGISTRY_AUTH_FILE", paths[0].as_str()),
        ("CHAS_REGISTRY_HOSTS_DIR", paths[1].as_str()),
        ("HEALTH_INTERVAL", "1"),
    ];
    let stand = Stand::with(bed, &variables).await;
    let told = async |is_met: fn(&str) -> bool| {
        let deadline = Instant::now() + SOON;
        loop {
            let (_, health) = stand.agent.get("/health").await;
            let alarms = health["alarms"].as_array().expect("a list").iter();
            let mut ours = alarms.filter(|alarm| alarm["name"] == "RegistryFileUnusable");
            let told = ours.next().map_or(String::new(), ToString::to_string);
            if is_met(&told) {
                return;
            }
            assert!(Instant::now() < deadline, "{health}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    told(|text| text.contains("auth.json") && text.contains("r.example/hosts.toml")).await;
    std::fs::write(&auth_file, "{}").expect("a file");
    told(|text| !text.contains("auth.json") && text.contains("r.example/hosts.toml")).await;
    std::fs::write(&hosts, "server = \"https://r.example\"\n").expect("a file");
    told(str::is_empty).await;
    stand.end().await;
}
