//! Downloads that are cut, damaged, or given up.

use super::*;

#[tokio::test]
async fn a_download_goes_on_where_it_was_cut() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let pushed = Image::busybox()
        .big_layer(Packing::Gzip, 8 * MIB, 1)
        .push(&registry, "big:1")
        .await;
    let big = pushed.layers[1].as_str();
    let proxy = Proxy::before(registry.address());
    let images = images(&bed, config(&[&proxy.address()]));
    let after_bytes = MIB as u64 + 1000;
    for fault in [
        Fault::Finish { after_bytes },
        Fault::Reset { after_bytes },
        Fault::Stall { after_bytes },
        Fault::Status {
            code: 503,
            retry_after_s: None,
        },
        Fault::Status {
            code: 500,
            retry_after_s: None,
        },
        Fault::Status {
            code: 429,
            retry_after_s: Some(1),
        },
        Fault::Finish { after_bytes: 0 },
        Fault::Stall { after_bytes: 0 },
    ] {
        proxy.inject(big, 1, fault);
    }
    // More cuts than tries in vain are allowed: those that advance do not count.
    proxy.inject(
        big,
        5,
        Fault::Finish {
            after_bytes: 300_000,
        },
    );
    proxy.inject("/manifests/", 2, Fault::Reset { after_bytes: 10 });
    proxy.inject(&pushed.config, 2, Fault::Finish { after_bytes: 10 });
    let progress = PullProgress::default();
    let setting = RegistryConfig {
        attempts_max: 6,
        ..config(&[&proxy.address()])
    };
    drop(images);
    let images = super::images(&bed, setting);
    let image = format!("{}/big:1", proxy.address());
    let digest = images
        .ensure(
            &reference(&image),
            (ImagePull::IfNotPresent, &[]),
            &progress,
            &CancellationToken::new(),
        )
        .await;
    assert_eq!(digest.expect("a pull"), pushed.digest);
    runs(&bed, &image, "/www/index.html");

    let requests = proxy.requests(big);
    let sent: u64 = requests.iter().map(|request| request.sent_bytes).sum();
    assert!(
        sent < 14 * MIB as u64,
        "{sent} bytes for a layer of 8 MiB: {requests:#?}"
    );
    assert!(
        requests
            .iter()
            .skip(1)
            .all(|request| request.range.is_some()),
        "{requests:#?}"
    );
    let (fetched, total) = progress.get();
    assert!(
        fetched == total && total > 8 * MIB as u64,
        "{fetched} of {total}"
    );
    assert_eq!(leases(&bed), 0);
}

#[tokio::test]
async fn a_corrupted_layer_is_fetched_again_from_the_start() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let pushed = Image::busybox()
        .big_layer(Packing::Plain, 2 * MIB, 2)
        .push(&registry, "big:1")
        .await;
    let proxy = Proxy::before(registry.address());
    let images = images(&bed, config(&[&proxy.address()]));
    let image = format!("{}/big:1", proxy.address());
    proxy.inject(&pushed.layers[1], 1, Fault::Corrupt { at_byte: 500_000 });
    proxy.inject("/manifests/sha256", 1, Fault::Corrupt { at_byte: 5 });
    proxy.inject(&pushed.config, 1, Fault::Corrupt { at_byte: 5 });
    assert_eq!(
        pull(&images, &image)
            .await
            .expect("the second time it is good"),
        pushed.digest
    );
    let ranges: Vec<_> = proxy
        .requests(&pushed.layers[1])
        .into_iter()
        .map(|request| request.range)
        .collect();
    assert_eq!(ranges, [None, None]);

    let pushed = Image::busybox()
        .big_layer(Packing::Plain, 2 * MIB, 3)
        .push(&registry, "bad:1")
        .await;
    let image = format!("{}/bad:1", proxy.address());
    proxy.inject(&pushed.layers[1], 100, Fault::Corrupt { at_byte: 500_000 });
    failed(pull(&images, &image).await, Reason::DigestMismatch);
    proxy.heal();
    assert_eq!(
        pull(&images, &image).await.expect("a clean start"),
        pushed.digest
    );
    assert_eq!(leases(&bed), 0);
}

#[tokio::test]
async fn a_cancelled_pull_ends_at_once_and_what_it_fetched_is_kept() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let pushed = Image::busybox()
        .big_layer(Packing::Gzip, 8 * MIB, 4)
        .push(&registry, "big:1")
        .await;
    let big = pushed.layers[1].as_str();
    let proxy = Proxy::before(registry.address());
    let images = images(&bed, config(&[&proxy.address()]));
    let image = format!("{}/big:1", proxy.address());
    proxy.inject(
        big,
        1,
        Fault::Slow {
            bytes_per_s: 4 * MIB as u64,
        },
    );
    let (cancel, progress) = (CancellationToken::new(), PullProgress::default());
    let cancelled = async {
        fetched(&progress, 4 * MIB).await;
        cancel.cancel();
        Instant::now()
    };
    let wanted = reference(&image);
    let (result, cancelled) = tokio::join!(
        images.ensure(&wanted, (ImagePull::IfNotPresent, &[]), &progress, &cancel),
        cancelled
    );
    assert!(matches!(result, Err(RuntimeError::Cancelled)), "{result:?}");
    assert!(cancelled.elapsed() < Duration::from_millis(100));
    assert_eq!(leases(&bed), 1);

    assert_eq!(
        images
            .sweep(&[(reference(&image), None)])
            .await
            .expect("a sweep"),
        [""; 0]
    );
    let progress = PullProgress::default();
    let digest = images
        .ensure(
            &reference(&image),
            (ImagePull::IfNotPresent, &[]),
            &progress,
            &CancellationToken::new(),
        )
        .await;
    assert_eq!(digest.expect("a pull"), pushed.digest);
    let range = proxy.requests(big)[1].range.clone().expect("a range");
    let start: usize = range
        .trim_start_matches("bytes=")
        .trim_end_matches('-')
        .parse()
        .expect("a number");
    assert!(start >= 2 * MIB, "{range}");
    assert_eq!(progress.get().0, progress.get().1);
    assert_eq!(leases(&bed), 0);
}
