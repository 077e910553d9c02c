//! Signatures in the form of cosign 2 ("simple signing"): a manifest beside the image, each layer
//! of which is a signed payload. Pure; all of it comes from registries that are not trusted.

use std::collections::HashMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey};
use serde::Deserialize;
use state::digest::is_digest;
use state::policy::signers::{ImageKey, ImageKeyKind};

/// Bytes of the longest payload; they have some 250, and what the signer adds to them.
pub(super) const PAYLOAD_BYTES_MAX: usize = 32 << 10;
/// Signatures of one image that are looked at: the newest, which come last.
const SIGNATURES_MAX: usize = 64;
/// Characters of the longest signature.
const SIGNATURE_CHARS_MAX: usize = 512;

const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE_KEY: &str = "dev.cosignproject.cosign/signature";
const SIGNED_TYPE: &str = "cosign container image signature";

/// Signature, and the blob that it is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImageSignature {
    /// Digest of the payload.
    pub(super) payload: String,
    /// Signature of its bytes.
    pub(super) bytes: Vec<u8>,
}

/// Tag under which the signatures of an image stand in its repository. `None`: the digest is none.
pub(super) fn tag(digest: &str) -> Option<String> {
    is_digest(digest).then(|| format!("{}.sig", digest.replacen(':', "-", 1)))
}

#[derive(Deserialize)]
struct SignatureManifest {
    #[serde(default)]
    layers: Vec<SignatureLayer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SignatureLayer {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

impl SignatureLayer {
    fn signature(&self) -> Option<ImageSignature> {
        let text = self.annotations.get(SIGNATURE_KEY)?;
        let is_payload = self.media_type == PAYLOAD_TYPE
            && is_digest(&self.digest)
            && self.size <= PAYLOAD_BYTES_MAX as u64
            && text.len() <= SIGNATURE_CHARS_MAX;
        let bytes = BASE64.decode(text).ok().filter(|_| is_payload)?;
        Some(ImageSignature {
            payload: self.digest.clone(),
            bytes,
        })
    }
}

/// Signatures that a manifest lists, the newest first, as far as they can be used.
///
/// # Errors
/// It is no such manifest, in a few words.
pub(super) fn signatures(manifest: &[u8]) -> Result<Vec<ImageSignature>, String> {
    let manifest: SignatureManifest =
        serde_json::from_slice(manifest).map_err(|error| error.to_string())?;
    let newest = manifest.layers.iter().rev();
    let signatures = newest.filter_map(SignatureLayer::signature);
    Ok(signatures.take(SIGNATURES_MAX).collect())
}

/// Whether the key signed the payload.
pub(super) fn has_signed(key: &ImageKey, payload: &[u8], signature: &[u8]) -> bool {
    let verified = match key.kind {
        ImageKeyKind::EcdsaP256 => {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &key.bytes).verify(payload, signature)
        }
        ImageKeyKind::Ed25519 => {
            UnparsedPublicKey::new(&ED25519, &key.bytes).verify(payload, signature)
        }
    };
    verified.is_ok()
}

#[derive(Deserialize)]
struct SignedPayload {
    critical: SignedPart,
}

#[derive(Deserialize)]
struct SignedPart {
    image: SignedImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct SignedImage {
    #[serde(rename = "docker-manifest-digest", alias = "Docker-manifest-digest")]
    digest: String,
}

/// Whether a payload says that the image of this digest is signed. What else it says, as the name
/// of a repository, counts for nothing: an image may be copied with its signatures.
pub(super) fn is_about(payload: &[u8], digest: &str) -> bool {
    let payload: Result<SignedPayload, _> = serde_json::from_slice(payload);
    payload.is_ok_and(|payload| {
        payload.critical.kind == SIGNED_TYPE && payload.critical.image.digest == digest
    })
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    };
    use serde_json::{Value, json};

    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn key(kind: ImageKeyKind, bytes: &[u8]) -> ImageKey {
        ImageKey {
            kind,
            bytes: bytes.to_owned(),
            fingerprint: String::new(),
        }
    }

    #[test]
    fn a_signature_is_its_key_s_and_over_these_bytes_alone() {
        let random = SystemRandom::new();
        let signing = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(signing, pkcs8.as_ref(), &random).unwrap();
        let ecdsa = pair.sign(&random, b"payload").unwrap();
        let ecdsa_key = key(ImageKeyKind::EcdsaP256, pair.public_key().as_ref());
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let edward = pair.sign(b"payload");
        let edward_key = key(ImageKeyKind::Ed25519, pair.public_key().as_ref());
        for (key, payload, signature, is) in [
            (&ecdsa_key, "payload", ecdsa.as_ref(), true),
            (&edward_key, "payload", edward.as_ref(), true),
            (&ecdsa_key, "payloae", ecdsa.as_ref(), false),
            (&edward_key, "payloae", edward.as_ref(), false),
            (&ecdsa_key, "payload", edward.as_ref(), false),
            (&edward_key, "payload", ecdsa.as_ref(), false),
            (&ecdsa_key, "payload", b"", false),
        ] {
            let found = has_signed(key, payload.as_bytes(), signature);
            assert_eq!(found, is, "{:?} {payload}", key.kind);
        }
        // No point of the curve.
        let none = key(ImageKeyKind::EcdsaP256, &[4; 65]);
        assert!(!has_signed(&none, b"payload", ecdsa.as_ref()));
    }

    #[test]
    fn a_payload_is_about_one_digest() {
        let other = DIGEST.replace('0', "1");
        for (payload, is) in [
            (json!({"critical": {"identity": {"docker-reference": "x"}, "image": {"docker-manifest-digest": DIGEST},
                "type": SIGNED_TYPE}, "optional": null}).to_string(), true),
            (json!({"critical": {"image": {"Docker-manifest-digest": DIGEST}, "type": SIGNED_TYPE}}).to_string(), true),
            (json!({"critical": {"image": {"docker-manifest-digest": other}, "type": SIGNED_TYPE}}).to_string(), false),
            (json!({"critical": {"image": {"docker-manifest-digest": DIGEST}, "type": "atomic container signature"}}).to_string(), false),
            (json!({"critical": {"image": {"docker-manifest-digest": DIGEST}}}).to_string(), false),
            (json!({"image": {"docker-manifest-digest": DIGEST}, "type": SIGNED_TYPE}).to_string(), false),
            // Which of them is signed?
            (format!(r#"{{"critical": {{"image": {{"docker-manifest-digest": "{other}", "docker-manifest-digest": "{DIGEST}"}}, "type": "{SIGNED_TYPE}"}}}}"#), false),
            (format!(r#"{{"critical": {{"image": {{"docker-manifest-digest": "{DIGEST}"}}, "type": "{SIGNED_TYPE}"}}}} {{}}"#), false),
            (DIGEST.to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_about(payload.as_bytes(), DIGEST), is, "{payload}");
        }
    }

    fn layer(digest: &str, more: &Value) -> Value {
        let mut layer = json!({"mediaType": PAYLOAD_TYPE, "digest": digest, "size": 250, "annotations": {SIGNATURE_KEY: "AAAA"}});
        let members = more.as_object().unwrap().clone();
        layer.as_object_mut().unwrap().extend(members);
        layer
    }

    #[test]
    fn of_a_manifest_the_newest_signatures_count_and_of_those_what_can_be_one() {
        let listed = |layers: &[Value]| {
            let manifest = json!({"schemaVersion": 2, "layers": layers}).to_string();
            signatures(manifest.as_bytes()).unwrap()
        };
        let odd = [
            json!({"size": PAYLOAD_BYTES_MAX + 1}),
            json!({"digest": "sha256:00"}),
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar"}),
            json!({"annotations": {SIGNATURE_KEY: "!"}}),
            json!({"annotations": {SIGNATURE_KEY: "A".repeat(SIGNATURE_CHARS_MAX + 4)}}),
            json!({"annotations": {}}),
        ];
        let mut layers: Vec<_> = odd.iter().map(|more| layer(DIGEST, more)).collect();
        assert_eq!(listed(&layers), []);
        let other = DIGEST.replace('0', "1");
        layers.extend([layer(DIGEST, &json!({})), layer(&other, &json!({}))]);
        let found: Vec<_> = listed(&layers).into_iter().map(|one| one.payload).collect();
        assert_eq!(found, [other.as_str(), DIGEST]);
        let many = vec![layer(DIGEST, &json!({})); 1000];
        assert_eq!(listed(&many).len(), SIGNATURES_MAX);
        assert_eq!(listed(&[]), []);
        for manifest in ["", "[]x", "{\"layers\": 7}", "<html>", "{\"layers\": [{}]}"] {
            assert!(signatures(manifest.as_bytes()).is_err(), "{manifest}");
        }
    }

    #[test]
    fn the_tag_of_signatures_is_made_of_a_digest_only() {
        let expected = format!("{}.sig", DIGEST.replace(':', "-"));
        assert_eq!(tag(DIGEST), Some(expected));
        assert_eq!(tag("latest"), None);
    }
}
