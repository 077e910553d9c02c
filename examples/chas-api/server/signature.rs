//! Signature of a set, so that nodes need not trust whatever stands between.

use std::fmt::Write as _;

use anyhow::Context as _;
use axum::body::Bytes;
use axum::http::HeaderValue;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use ring::signature::Ed25519KeyPair;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

/// Key of the form of `openssl genpkey -algorithm ed25519`.
#[allow(
    dead_code,
    reason = "only for those who run the server in a process of its own"
)]
pub(crate) fn key(pem: &[u8]) -> anyhow::Result<Ed25519KeyPair> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem).context("it is no private key (PEM)")?;
    let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der());
    key.map_err(|error| anyhow::anyhow!("it is no key of ed25519: {error}"))
}

/// `Chas-Signature` of a set for `node_id`, whose bytes are `parts`.
pub(super) fn header(
    key: &Ed25519KeyPair,
    epoch: &str,
    generation: u64,
    node_id: &str,
    parts: &[Bytes],
    etag: &str,
) -> HeaderValue {
    let mut digest = Sha256::new();
    parts.iter().for_each(|part| digest.update(part));
    let mut hex = String::new();
    for byte in digest.finalize() {
        write!(hex, "{byte:02x}").expect("memory takes it");
    }
    let message = format!("{epoch}\n{generation}\n{node_id}\nsha256:{hex}\n{etag}");
    let signature = BASE64.encode(key.sign(message.as_bytes()));
    HeaderValue::from_str(&format!("ed25519={signature}")).expect("base64 is visible ASCII")
}
