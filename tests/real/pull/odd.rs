//! Images as some tools write them: what can be run is pulled, and what contradicts itself is told with both of its sides.

use serde_json::json;

use super::*;
use crate::harness::image::Pushed;

/// Parts of blobs that containerd keeps for a later try.
fn unfinished(bed: &Testbed) -> usize {
    bed.ctr(&["content", "active"]).lines().skip(1).count()
}

#[tokio::test]
async fn an_index_in_an_index_is_followed_and_a_chain_of_them_is_not() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let push = async |tag: &str, image: Image| image.push(&registry, &format!("a:{tag}")).await;
    let ours = push(
        "ours",
        Image::busybox().layer(Packing::Plain, &[("/x", b"ours")]),
    )
    .await;
    let other = push("other", Image::busybox().architecture("s390x")).await;
    let index =
        async |tag: &str, of: &[&Pushed]| push_index(&registry, &format!("a:{tag}"), of).await;
    let inner = index("inner", &[&ours, &other]).await;
    let outer = index("outer", &[&inner, &other]).await;
    let images = images(&bed, config(&[registry.address()]));
    let name = format!("{}/a:outer", registry.address());
    assert_eq!(pull(&images, &name).await.expect("a pull"), outer.digest);
    assert_eq!(runs(&bed, &name, "/x"), "ours");
    // Collected is only what no name leads to.
    bed.ctr(&["content", "prune", "references"]);
    images.invalidate(&outer.digest);
    let local = images.local(&reference(&name), &outer.digest).await;
    assert_eq!(local.expect("all of it is kept").config.cmd, ["sh"]);

    let mut deep = outer;
    for n in 0..3 {
        deep = index(&format!("deep{n}"), &[&deep]).await;
    }
    let name = format!("{}/a:deep2", registry.address());
    let message = failed(pull(&images, &name).await, Reason::ImageInvalid);
    assert!(message.contains("more than 4 indexes"), "{message}");
    assert_eq!(deep.media_type, inner.media_type);
}

#[tokio::test]
async fn a_platform_may_be_named_in_other_words_but_is_to_be_named() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let images = images(&bed, config(&[registry.address()]));
    let arch = std::env::consts::ARCH;
    let odd = Image::busybox()
        .top("architecture", json!(arch))
        .top("os", json!("Linux"));
    let named = odd
        .clone()
        .architecture(arch)
        .push(&registry, "a:named")
        .await;
    push_index(&registry, "a:index", &[&named]).await;
    let silent = Image::busybox().top("architecture", json!(""));
    let untold = silent.push(&registry, "a:untold").await;
    push_index(&registry, "a:told", &[&untold]).await;
    for tag in ["named", "index", "told"] {
        let name = format!("{}/a:{tag}", registry.address());
        pull(&images, &name)
            .await
            .unwrap_or_else(|error| panic!("{tag}: {error}"));
    }
    let name = format!("{}/a:untold", registry.address());
    let message = failed(pull(&images, &name).await, Reason::ImagePlatformMismatch);
    assert!(message.contains("\"architecture\" is \"\""), "{message}");
}

#[tokio::test]
async fn a_configuration_of_docker_1_10_and_one_with_odd_fields_are_read() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let images = images(&bed, config(&[registry.address()]));
    let old = Image::busybox().config_type("application/octet-stream");
    old.clone()
        .dialect(Dialect::Docker)
        .push(&registry, "old:1")
        .await;
    let name = |name: &str| format!("{}/{name}:1", registry.address());
    pull(&images, &name("old")).await.expect("as docker does");
    old.push(&registry, "any:1").await;
    failed(
        pull(&images, &name("any")).await,
        Reason::ImageFormatUnsupported,
    );

    let odd = Image::busybox()
        .top("history", json!([{"created": 5}, null]))
        .top("created", json!(""))
        .config("Labels", json!({"a": null, "b": 1}))
        .config("ExposedPorts", json!(["80"]))
        .config("Entrypoint", json!(null));
    odd.push(&registry, "odd:1").await;
    pull(&images, &name("odd"))
        .await
        .expect("what is not used does not matter");
    let wrong = Image::busybox()
        .config("Env", json!({"A": "b"}))
        .config("User", json!(5));
    wrong.push(&registry, "wrong:1").await;
    let message = failed(pull(&images, &name("wrong")).await, Reason::ImageInvalid);
    assert!(
        message.contains("Env is an object") && message.contains("User is a number"),
        "{message}"
    );
}

#[tokio::test]
async fn a_layer_of_another_size_than_promised_is_told_with_both_and_leaves_nothing() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let setting = RegistryConfig {
        attempts_max: 2,
        ..config(&[registry.address()])
    };
    let images = images(&bed, setting);
    for (name, more) in [("longer", -5), ("shorter", 5)] {
        for (kind, bytes) in [("small", 3000), ("large", 3 * MIB)] {
            let seed = bytes as u64 + u64::from(more > 0);
            let image = Image::busybox().big_layer(Packing::Plain, bytes, seed);
            let name = format!("{name}-{kind}:1");
            let real = image.clone().push(&registry, &name).await;
            image.claims_bytes(more).push(&registry, &name).await;
            let url = format!(
                "http://{}/v2/{}/blobs/{}",
                registry.push_address(),
                name.trim_end_matches(":1"),
                real.layers[1]
            );
            let head = crate::harness::http::client()
                .head(url)
                .send()
                .await
                .unwrap();
            let has: i64 = head.headers()["content-length"]
                .to_str()
                .unwrap()
                .parse()
                .unwrap();
            let image = format!("{}/{name}", registry.address());
            let message = failed(pull(&images, &image).await, Reason::DigestMismatch);
            for part in [&format!("has {has} bytes"), &format!("says {}", has + more)] {
                assert!(message.contains(part.as_str()), "{name}: {message}");
            }
            assert_eq!(unfinished(&bed), 0, "{name}");
        }
    }
}
