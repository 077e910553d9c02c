use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn part(media_type: &str) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{HASH}"), "size": 7})
}

fn image(media_type: Option<&str>, config: &str, layer: &str, layers: usize) -> Value {
    let mut image =
        json!({"schemaVersion": 2, "config": part(config), "layers": vec![part(layer); layers]});
    if let Some(media_type) = media_type {
        image["mediaType"] = media_type.into();
    }
    image
}

fn variant(platform: Option<&str>) -> Value {
    let mut variant = part(OCI_MANIFEST);
    if let Some((os, architecture)) = platform.and_then(|text| text.split_once('/')) {
        variant["platform"] = json!({"os": os, "architecture": architecture});
    }
    variant
}

fn read(document: &Value, declared: &str) -> Result<(Document, String), Failure> {
    parse(document.to_string().as_bytes(), declared)
}

#[track_caller]
fn refused(result: Result<(Document, String), Failure>, expected: Reason, part: &str) {
    match result {
        Err(Failure {
            reason, message, ..
        }) => {
            assert!(
                reason == expected && message.contains(part),
                "{reason}: {message}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn manifests_of_every_dialect_are_read_also_without_a_type_of_their_own() {
    for (own, declared, config, layer, media_type) in [
        (
            Some(OCI_MANIFEST),
            OCI_MANIFEST,
            OCI_CONFIG,
            LAYERS[1],
            OCI_MANIFEST,
        ),
        (None, OCI_MANIFEST, OCI_CONFIG, LAYERS[0], OCI_MANIFEST),
        (None, "", OCI_CONFIG, LAYERS[2], OCI_MANIFEST),
        (
            None,
            DOCKER_MANIFEST,
            DOCKER_CONFIG,
            LAYERS[7],
            DOCKER_MANIFEST,
        ),
        (
            Some(DOCKER_MANIFEST),
            "text/plain",
            DOCKER_CONFIG,
            LAYERS[9],
            DOCKER_MANIFEST,
        ),
    ] {
        let (document, found) = read(&image(own, config, layer, 2), declared).unwrap();
        let Document::Manifest(manifest) = document else {
            panic!("{document:?}")
        };
        assert_eq!((found.as_str(), manifest.layers.len()), (media_type, 2));
    }
}

#[test]
fn what_cannot_be_run_is_refused_by_its_name() {
    let (invalid, unsupported) = (Reason::ImageInvalid, Reason::ImageFormatUnsupported);
    refused(
        read(&json!({"schemaVersion": 1, "fsLayers": []}), ""),
        unsupported,
        "schema 1",
    );
    refused(
        read(&json!({"schemaVersion": 3}), ""),
        unsupported,
        "schema 3",
    );
    refused(
        read(
            &image(
                None,
                "application/vnd.cncf.helm.config.v1+json",
                LAYERS[0],
                1,
            ),
            "",
        ),
        unsupported,
        "helm",
    );
    refused(
        read(&image(None, OCI_CONFIG, "application/x-encrypted", 1), ""),
        unsupported,
        "x-encrypted",
    );
    refused(
        read(&image(None, OCI_CONFIG, LAYERS[0], 0), ""),
        invalid,
        "0 layers",
    );
    refused(
        read(&image(None, OCI_CONFIG, LAYERS[0], LAYERS_MAX + 1), ""),
        invalid,
        "129 layers",
    );
    refused(
        read(
            &json!({"schemaVersion": 2, "manifests": vec![variant(None); VARIANTS_MAX + 1]}),
            "",
        ),
        invalid,
        "513",
    );
    let mut both = image(None, OCI_CONFIG, LAYERS[0], 1);
    both["manifests"] = json!([]);
    refused(read(&both, ""), invalid, "at once");
    let mut disguised = image(Some(OCI_INDEX), OCI_CONFIG, LAYERS[0], 1);
    refused(read(&disguised, OCI_MANIFEST), unsupported, "is no image");
    for digest in ["sha256:0", "md5:00", "sha256:../../../../etc/passwd", ""] {
        disguised = image(None, OCI_CONFIG, LAYERS[0], 1);
        disguised["layers"][0]["digest"] = digest.into();
        refused(read(&disguised, ""), invalid, "no sha256 digest");
    }
    refused(
        parse(b"<html>log in</html>", "text/html"),
        Reason::RegistryAnswerInvalid,
        "login page",
    );
    refused(parse(b"", ""), Reason::RegistryAnswerInvalid, "proxy");
}

#[test]
fn the_first_suiting_variant_is_chosen_and_one_without_a_platform_last() {
    let index = |platforms: &[Option<&str>]| {
        let mut variants: Vec<_> = platforms
            .iter()
            .map(|platform| variant(*platform))
            .collect();
        for (n, variant) in variants.iter_mut().enumerate() {
            variant["size"] = n.into();
        }
        match read(&json!({"schemaVersion": 2, "manifests": variants}), "")
            .unwrap()
            .0
        {
            Document::Index(index) => index,
            Document::Manifest(_) => panic!("an index"),
        }
    };
    let amd64 = Platform {
        os: "linux".to_owned(),
        architecture: "amd64".to_owned(),
        variant: None,
    };
    let choose = |platforms: &[Option<&str>]| index(platforms).choose(&amd64).map(|blob| blob.size);
    assert_eq!(
        choose(&[
            Some("unknown/unknown"),
            Some("linux/amd64"),
            Some("linux/amd64")
        ])
        .unwrap(),
        1
    );
    assert_eq!(
        choose(&[None, Some("linux/arm64"), Some("linux/amd64")]).unwrap(),
        2
    );
    assert_eq!(choose(&[Some("linux/arm64"), None]).unwrap(), 1);
    let error = choose(&[
        Some("linux/arm64"),
        Some("unknown/unknown"),
        Some("windows/amd64"),
    ])
    .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("linux/arm64, windows/amd64") && !text.contains("unknown"),
        "{text}"
    );
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), declared in ".{0,40}") {
        let _ = parse(&bytes, &declared);
    }
}
