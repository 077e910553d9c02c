//! Signature of a set: whoever answers in place of CHaS, without its key he lists nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use ring::signature::{ED25519, UnparsedPublicKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use state::digest::sha256;
use state::ownership::SetSignature;

use crate::config::owned::{self, Others};

/// Header of an answer with a set, as in `Chas-Signature: ed25519=<base64>`. It may stand there
/// several times, as while a key is replaced.
pub const HEADER: &str = "chas-signature";

/// Keys and signatures that are tried with each other.
const KEYS_MAX: usize = 8;

/// Beginning of an Ed25519 key in the form of `openssl pkey -pubout` (RFC 8410); 32 bytes follow.
const ED25519_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Keys of those who may sign sets; read for every set, so that they can be replaced.
#[derive(Clone, Debug)]
pub struct SetKeys {
    file: PathBuf,
}

/// Part of a set that is signed beside the bytes of all of it.
#[derive(Deserialize)]
struct Envelope {
    epoch: String,
    generation: u64,
}

/// Text that is signed for a set of `node_id` whose bytes are `body`. The tag is part of it, so that
/// no set keeps the node from a newer one by that one's tag; that it became a weak one, as behind a
/// server that packs answers, changes nothing.
#[must_use]
pub fn message(epoch: &str, generation: u64, node_id: &str, body: &[u8], etag: &str) -> String {
    let etag = etag.strip_prefix("W/").unwrap_or(etag);
    format!("{epoch}\n{generation}\n{node_id}\n{}\n{etag}", sha256(body))
}

/// Fault of a check, cut by whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SignatureFault {
    /// The file of keys on this node cannot be used.
    Keys(String),
    /// None of the keys signed the set.
    Set(String),
}

impl SetKeys {
    /// Keys in a file, one or several of `openssl pkey -pubout`.
    #[must_use]
    pub const fn new(file: PathBuf) -> Self {
        Self { file }
    }

    /// Keys as they are now. Blocks.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn read(&self) -> Result<Vec<Vec<u8>>, String> {
        let file = self.file.display();
        let text = owned::read(&self.file, Others::MayRead)?;
        let text = text.ok_or_else(|| format!("{file}: there is no such file"))?;
        let blocks = SubjectPublicKeyInfoDer::pem_slice_iter(text.as_bytes());
        let keys: Option<Vec<_>> = blocks.map(|block| key(block.ok()?.as_ref())).collect();
        let keys = keys.ok_or_else(|| {
            format!("{file} holds a key that is not of ed25519; write `openssl pkey -pubout` of such keys into it")
        })?;
        if keys.is_empty() || keys.len() > KEYS_MAX {
            return Err(format!(
                "{file} holds {} public keys (PEM), and 1 to {KEYS_MAX} are needed",
                keys.len()
            ));
        }
        Ok(keys)
    }

    /// Whether one of these keys, by their fingerprints, still counts. Blocks.
    pub(super) fn have(&self, signed_by: &BTreeSet<String>) -> bool {
        let keys = self.read().unwrap_or_default();
        keys.iter().any(|key| signed_by.contains(&sha256(key)))
    }

    /// Checks that one of the keys signed a set for this node, and says which. Blocks.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub(super) fn check(
        &self,
        body: &[u8],
        node_id: &str,
        etag: Option<&str>,
        signatures: &[String],
    ) -> Result<SetSignature, SignatureFault> {
        let keys = self.read().map_err(SignatureFault::Keys)?;
        let by = self.check_by(&keys, body, node_id, etag, signatures);
        Ok(SetSignature {
            by: by.map_err(SignatureFault::Set)?,
            keys: keys.iter().map(|key| sha256(key)).collect(),
        })
    }

    fn check_by(
        &self,
        keys: &[Vec<u8>],
        body: &[u8],
        node_id: &str,
        etag: Option<&str>,
        signatures: &[String],
    ) -> Result<BTreeSet<String>, String> {
        if signatures.is_empty() {
            return Err(format!(
                "the set bears no Chas-Signature, which chas.set_key_file ({}) asks for",
                self.file.display()
            ));
        }
        let envelope: Envelope = serde_json::from_slice(body)
            .map_err(|_| "the signed answer has no one epoch and generation".to_owned())?;
        let Envelope { epoch, generation } = &envelope;
        let message = message(epoch, *generation, node_id, body, etag.unwrap_or_default());
        let signatures = signatures.iter().flat_map(|value| value.split(','));
        let signatures = signatures.filter_map(|value| value.trim().strip_prefix("ed25519="));
        let signatures = signatures.filter_map(|value| BASE64.decode(value).ok());
        let signatures: Vec<_> = signatures.take(KEYS_MAX).collect();
        let has_signed = |key: &&Vec<u8>| {
            let key = UnparsedPublicKey::new(&ED25519, key);
            let mut signatures = signatures.iter();
            signatures.any(|signature| key.verify(message.as_bytes(), signature).is_ok())
        };
        let by: BTreeSet<_> = keys
            .iter()
            .filter(has_signed)
            .map(|key| sha256(key))
            .collect();
        if !by.is_empty() {
            return Ok(by);
        }
        Err(format!(
            "no key in {} signed this set (epoch {epoch:?}, generation {generation}) for \
             {node_id:?} with this ETag",
            self.file.display(),
        ))
    }
}

/// Bytes of an Ed25519 key.
fn key(der: &[u8]) -> Option<Vec<u8>> {
    let key = der.strip_prefix(&ED25519_PREFIX)?;
    (key.len() == 32).then(|| key.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use ring::rand::SystemRandom;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    const TAG: &str = "\"7\"";

    fn pair() -> Ed25519KeyPair {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap()
    }

    fn pem(pair: &Ed25519KeyPair) -> String {
        let der = [&ED25519_PREFIX[..], pair.public_key().as_ref()].concat();
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            BASE64.encode(der)
        )
    }

    fn signed(pair: &Ed25519KeyPair, message: &str) -> String {
        format!("ed25519={}", BASE64.encode(pair.sign(message.as_bytes())))
    }

    #[test]
    fn a_set_is_believed_with_a_signature_over_all_of_it_and_with_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.pem");
        let (old, new, other) = (pair(), pair(), pair());
        std::fs::write(&file, pem(&old) + &pem(&new)).unwrap();
        let keys = SetKeys::new(file.clone());
        let body = br#"{"epoch": "e", "generation": 7, "containers": []}"#;
        let good = signed(&new, &message("e", 7, "n", body, TAG));
        for (what, signatures, part) in [
            ("one", vec![good.clone()], None),
            ("several", vec![signed(&other, "x"), good.clone()], None),
            ("in one line", vec![format!("ed25519=, {good}")], None),
            ("none", vec![], Some("no Chas-Signature")),
            (
                "another key",
                vec![signed(&other, &message("e", 7, "n", body, TAG))],
                Some("no key in"),
            ),
            (
                "another node",
                vec![signed(&new, &message("e", 7, "m", body, TAG))],
                Some("no key in"),
            ),
            (
                "another epoch",
                vec![signed(&new, &message("f", 7, "n", body, TAG))],
                Some("no key in"),
            ),
            (
                "another generation",
                vec![signed(&new, &message("e", 8, "n", body, TAG))],
                Some("no key in"),
            ),
            (
                "another body",
                vec![signed(&new, &message("e", 7, "n", b"{}", TAG))],
                Some("no key in"),
            ),
            (
                "another tag",
                vec![signed(&new, &message("e", 7, "n", body, "\"8\""))],
                Some("no key in"),
            ),
            ("no base64", vec!["ed25519=!".to_owned()], Some("no key in")),
            (
                "another kind",
                vec![good.replace("ed25519", "none")],
                Some("no key in"),
            ),
        ] {
            for tag in [TAG, "W/\"7\""] {
                let found = keys.check(body, "n", Some(tag), &signatures).err();
                let is_told = match (&found, part) {
                    (None, None) => true,
                    (Some(SignatureFault::Set(found)), Some(part)) => found.contains(part),
                    _ => false,
                };
                assert!(is_told, "{what}: {found:?}");
            }
        }
        // No tag is none that is signed.
        assert!(
            keys.check(body, "n", None, std::slice::from_ref(&good))
                .is_err()
        );
        // Each key that signed it is named, of all that are in the file.
        let by_old = signed(&old, &message("e", 7, "n", body, TAG));
        let checked = keys
            .check(body, "n", Some(TAG), &[by_old, good.clone()])
            .unwrap();
        assert_eq!((checked.by.len(), &checked.keys), (2, &checked.by));
        let checked = keys
            .check(body, "n", Some(TAG), std::slice::from_ref(&good))
            .unwrap();
        assert_eq!((checked.by.len(), checked.keys.len()), (1, 2));
        assert!(keys.have(&checked.by) && !keys.have(&BTreeSet::new()));
        std::fs::write(&file, pem(&old)).unwrap();
        assert!(!keys.have(&checked.by), "its key is gone");
        std::fs::write(&file, "").unwrap();
        assert!(!keys.have(&checked.by), "nobody's key counts");
        std::fs::write(&file, pem(&old) + &pem(&new)).unwrap();
        let twice = br#"{"epoch": "e", "epoch": "f", "generation": 7}"#;
        assert!(
            keys.check(twice, "n", Some(TAG), &[good]).is_err(),
            "which of them is signed?"
        );
    }

    #[test]
    fn a_file_that_holds_no_such_key_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.pem");
        let rsa = "-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n";
        for (text, part) in [
            ("", "0 public keys"),
            ("no PEM", "0 public keys"),
            (rsa, "not of ed25519"),
        ] {
            std::fs::write(&file, text).unwrap();
            let fault = SetKeys::new(file.clone()).read().unwrap_err();
            assert!(
                fault.contains(part) && fault.contains("keys.pem"),
                "{fault}"
            );
        }
        let absent = SetKeys::new(dir.path().join("absent"));
        let fault = absent.check(b"{}", "n", None, &[]).unwrap_err();
        assert!(
            matches!(&fault, SignatureFault::Keys(text) if text.contains("absent")),
            "{fault:?}"
        );
        // Whoever may write the file signs sets.
        std::fs::write(&file, pem(&pair())).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
        let fault = SetKeys::new(file).read().unwrap_err();
        assert!(fault.contains("chmod"), "{fault}");
    }
}
