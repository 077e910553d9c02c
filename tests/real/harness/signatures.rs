//! Signatures of images as cosign 2 makes them, by keys that a test makes.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::image::{digest, push_blob, push_manifest};
use super::registry::Registry;

const P256_PREFIX: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200";

/// A key that signs images.
#[derive(Debug)]
pub(crate) struct Signer(EcdsaKeyPair);

/// A signature and what it is over, as it lies in a registry.
#[derive(Clone, Debug)]
pub(crate) struct Signature {
    payload: Vec<u8>,
    text: String,
}

impl Signer {
    pub(crate) fn new() -> Self {
        let (random, kind) = (SystemRandom::new(), &ECDSA_P256_SHA256_ASN1_SIGNING);
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("a key");
        Self(EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &random).expect("just made"))
    }

    /// The public key in PEM, as `cosign.pub` has it.
    pub(crate) fn pem(&self) -> String {
        let byte = |at: usize| u8::from_str_radix(&P256_PREFIX[at..at + 2], 16).expect("it is hex");
        let mut der: Vec<u8> = (0..P256_PREFIX.len()).step_by(2).map(byte).collect();
        der.extend(self.0.public_key().as_ref());
        let text = BASE64.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    pub(crate) fn sign(&self, image: &str) -> Signature {
        let payload = json!({
            "critical": {
                "identity": {"docker-reference": "registry.example/team/app"},
                "image": {"docker-manifest-digest": image},
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        let payload = payload.to_string().into_bytes();
        let signed = self.0.sign(&SystemRandom::new(), &payload);
        let text = BASE64.encode(signed.expect("it signs"));
        Signature { payload, text }
    }
}

/// Puts signatures where those of the image `of` are looked for.
pub(crate) async fn push_signatures(
    registry: &Registry,
    repository: &str,
    of: &str,
    signatures: &[Signature],
) {
    let base = format!("http://{}/v2/{repository}", registry.push_address());
    let mut layers: Vec<Value> = Vec::new();
    for Signature { payload, text } in signatures {
        layers.push(json!({
            "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
            "digest": digest(payload), "size": payload.len(),
            "annotations": {"dev.cosignproject.cosign/signature": text},
        }));
        push_blob(&base, payload.clone()).await;
    }
    let config = b"{}".to_vec();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type, "layers": layers,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": 2},
    });
    push_blob(&base, config).await;
    let tag = format!("{}.sig", of.replace(':', "-"));
    push_manifest(&base, &tag, media_type, manifest.to_string()).await;
}
