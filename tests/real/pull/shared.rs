//! Layers that several registries have: none of these spoils or holds up what another sends.

use super::*;

#[tokio::test]
async fn a_registry_that_sends_something_else_spoils_no_download_of_another() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let (wrong, right) = (
        Proxy::before(registry.address()),
        Proxy::before(registry.address()),
    );
    let pushed = Image::busybox()
        .big_layer(Packing::Gzip, MIB, 6)
        .push(&registry, "web:1")
        .await;
    let layer = &pushed.layers[1];
    wrong.inject(layer, usize::MAX, Fault::Corrupt { at_byte: 1000 });
    right.inject(
        layer,
        usize::MAX,
        Fault::Slow {
            bytes_per_s: 3_000_000,
        },
    );
    let images = images(
        &bed,
        RegistryConfig {
            retry_initial: Duration::from_millis(10),
            ..config(&[&wrong.address(), &right.address()])
        },
    );
    let name = |proxy: &Proxy| format!("{}/web:1", proxy.address());
    let (lying, honest) = (name(&wrong), name(&right));
    let progress = PullProgress::default();
    let (lying, never) = (reference(&lying), CancellationToken::new());
    let first = images.ensure(&lying, (ImagePull::IfNotPresent, &[]), &progress, &never);
    let second = async {
        fetched(&progress, 1).await;
        tokio::time::timeout(Duration::from_mins(1), pull(&images, &honest)).await
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(second.expect("in time").expect("a pull"), pushed.digest);
    // It may find the layer there, or give up before that.
    if let Err(error) = first {
        failed(Err(error), Reason::DigestMismatch);
    }
}

#[tokio::test]
async fn a_registry_that_drips_holds_up_no_layer_of_another() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let (dripping, quick) = (Proxy::before(registry.address()), registry.address());
    let pushed = Image::busybox()
        .big_layer(Packing::Gzip, MIB, 11)
        .push(&registry, "web:1")
        .await;
    dripping.inject(
        &pushed.layers[1],
        usize::MAX,
        Fault::Drip {
            every: Duration::from_millis(200),
        },
    );
    let images = images(
        &bed,
        RegistryConfig {
            idle_after: Duration::from_millis(500),
            stall_timeout: Duration::from_mins(1),
            ..config(&[&dripping.address(), quick])
        },
    );
    let slow = reference(&format!("{}/web:1", dripping.address()));
    let (progress, never) = (PullProgress::default(), CancellationToken::new());
    let first = images.ensure(&slow, (ImagePull::IfNotPresent, &[]), &progress, &never);
    let second = async {
        fetched(&progress, 1).await;
        let image = format!("{quick}/web:1");
        tokio::time::timeout(Duration::from_secs(30), pull(&images, &image)).await
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(second.expect("in time").expect("a pull"), pushed.digest);
    assert_eq!(first.expect("it finds the layer"), pushed.digest);
}
