//! Signatures that a policy demands of images: whose keys, and of which images. The signatures
//! themselves are looked at where an image is fetched.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde_json::Value;

use super::images::ImagePattern;
use super::{Denial, Policy};
use crate::desired::{Owner, Record};
use crate::digest::sha256;
use crate::id::ContainerName;
use crate::reference::ImageReference;
use crate::spec::Spec;
use crate::spec::fields::{list, text};

/// Keys of one rule.
const KEYS_MAX: usize = 8;

const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

/// Beginning of an ECDSA key on the curve P-256 in DER (RFC 5480); the point follows, uncompressed.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Beginning of an Ed25519 key in DER (RFC 8410).
const ED25519_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Key whose signature makes an image acceptable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageKey {
    /// Way of signing.
    pub kind: ImageKeyKind,
    /// Public key, as those who verify take it: a point, or 32 bytes.
    pub bytes: Vec<u8>,
    /// Hash of the key in DER, by which it is told from others.
    pub fingerprint: String,
}

/// Way in which a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageKeyKind {
    /// ECDSA on P-256 with SHA-256, as `cosign generate-key-pair` makes it.
    EcdsaP256,
    /// Ed25519.
    Ed25519,
}

/// Signatures that one rule demands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signers {
    /// Keys, of which one has to have signed. Empty: no signature is demanded.
    pub keys: Vec<ImageKey>,
    /// Images that have to be signed. `None`: all.
    pub images: Option<Vec<ImagePattern>>,
}

impl Signers {
    pub(super) fn are_for(&self, image: &ImageReference) -> bool {
        let fit = |patterns: &Vec<ImagePattern>| patterns.iter().any(|p| p.fits(image));
        !self.keys.is_empty() && self.images.as_ref().is_none_or(fit)
    }
}

/// Demand of one rule that an image be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureDemand {
    /// Name of the rule.
    pub rule: String,
    /// Keys, of which one has to have signed; not empty.
    pub keys: Vec<ImageKey>,
}

impl SignatureDemand {
    /// Whether one of the keys, by their fingerprints, is among those that signed.
    pub fn is_met_by<'a>(&self, signed_by: impl IntoIterator<Item = &'a String>) -> bool {
        let mut signed_by = signed_by.into_iter();
        signed_by.any(|signer| self.keys.iter().any(|key| key.fingerprint == *signer))
    }

    /// Keys in a few words.
    #[must_use]
    pub fn keys_told(&self) -> String {
        let keys: Vec<_> = self
            .keys
            .iter()
            .map(|key| key.fingerprint.as_str())
            .collect();
        keys.join(" or ")
    }

    /// Denial of an image that nobody of them signed.
    #[must_use]
    pub fn denial(&self, message: impl Into<String>) -> Denial {
        Denial::new(&self.rule, "image", message)
    }
}

impl Policy {
    /// Signatures that the image of what is stored needs to be started.
    #[must_use]
    pub fn signatures_for(&self, record: &Record) -> Vec<SignatureDemand> {
        self.signatures(&record.name, &record.spec, record.owner)
    }

    /// Signatures that the image of what `owner` asks for needs.
    #[must_use]
    pub fn signatures(
        &self,
        name: &ContainerName,
        spec: &Spec,
        owner: Owner,
    ) -> Vec<SignatureDemand> {
        let rules = self.rules_for(name, owner);
        let rules = rules.filter(|rule| rule.bounds.signers.are_for(&spec.image));
        rules
            .map(|rule| SignatureDemand {
                rule: rule.name.clone(),
                keys: rule.bounds.signers.keys.clone(),
            })
            .collect()
    }

    /// Whether any rule demands a signature.
    #[must_use]
    pub fn demands_signatures(&self) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|rule| !rule.bounds.signers.keys.is_empty())
    }
}

/// Keys in PEM: one text or a list of them, each with one key or several.
pub(super) fn keys(value: &Value) -> Result<Vec<ImageKey>, String> {
    let texts = if let Value::String(text) = value {
        vec![text.as_str()]
    } else {
        let items = list(value, KEYS_MAX)?.iter();
        items.map(text).collect::<Result<_, _>>()?
    };
    let mut keys: Vec<ImageKey> = Vec::new();
    for text in texts {
        for key in pem(text)? {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    if keys.is_empty() || keys.len() > KEYS_MAX {
        return Err(format!("must hold 1 to {KEYS_MAX} public keys (PEM)"));
    }
    Ok(keys)
}

fn pem(text: &str) -> Result<Vec<ImageKey>, String> {
    if text.contains("PRIVATE KEY") {
        return Err(
            "holds a private key, which belongs elsewhere; write the public one \
                    (cosign.pub) here"
                .to_owned(),
        );
    }
    let wrong = || {
        "must be public keys in PEM (the text of cosign.pub itself, not the name of a file)"
            .to_owned()
    };
    let (mut rest, mut keys) = (text.trim(), Vec::new());
    while !rest.is_empty() {
        let body = rest.strip_prefix(BEGIN).ok_or_else(wrong)?;
        let (body, after) = body.split_once(END).ok_or_else(wrong)?;
        let body: String = body.split_whitespace().collect();
        let der = BASE64.decode(body).map_err(|_| wrong())?;
        keys.push(key(&der)?);
        rest = after.trim_start();
    }
    Ok(keys)
}

fn key(der: &[u8]) -> Result<ImageKey, String> {
    let point = der.strip_prefix(&P256_PREFIX);
    let point = point.filter(|point| point.len() == 65 && point[0] == 4);
    let short = der.strip_prefix(&ED25519_PREFIX);
    let short = short.filter(|key| key.len() == 32);
    let (kind, bytes) = match (point, short) {
        (Some(point), _) => (ImageKeyKind::EcdsaP256, point),
        (None, Some(key)) => (ImageKeyKind::Ed25519, key),
        (None, None) => {
            return Err(
                "holds a key that is neither of ECDSA on P-256 (as cosign makes them) \
                        nor of Ed25519"
                    .to_owned(),
            );
        }
    };
    Ok(ImageKey {
        kind,
        bytes: bytes.to_owned(),
        fingerprint: sha256(der),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::desired::set::Desired;
    use crate::spec::parse::deploy;

    const P256: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEmT7rT8urH53xaa/O2CvCbDBvSLrV
q5hjU0qzL5G4QEXatF1Zc6iycr1qX3xM9B9kKrE7S16UwmYigm7yVNNhOw==
-----END PUBLIC KEY-----
";
    const ED25519: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA8YP/P/4nD8uqNrnaoTc95yrQDFOgxQs/f8Nrv/5RAHI=
-----END PUBLIC KEY-----
";
    const P384: &str = "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEOveyzTAyGwxsb6NZU+vzXV4vu076+eg6
y3Z//LKLwZuMhtnperuJxsqNpDD4IewCqUgTVWdY6b87P/bwuG/iAqZ9ewvNZDPZ
cVlYyoZQ3dbX7kc99yL+D8SkPrr7G/0y
-----END PUBLIC KEY-----
";

    #[test]
    fn keys_are_read_from_pem_as_cosign_and_openssl_write_it() {
        let both = format!("\n{P256}{ED25519}");
        for (value, lengths) in [
            (json!(P256), &[65][..]),
            (json!([P256]), &[65]),
            (json!([ED25519, P256]), &[32, 65]),
            (json!(both), &[65, 32]),
            (json!([P256, P256]), &[65]),
        ] {
            let keys = keys(&value).unwrap();
            let found: Vec<_> = keys.iter().map(|key| key.bytes.len()).collect();
            assert_eq!(found, lengths, "{value}");
        }
        // As `openssl pkey -pubin -outform DER | sha256sum` tells it.
        let key = &keys(&json!(P256)).unwrap()[0];
        assert_eq!(key.kind, ImageKeyKind::EcdsaP256);
        assert_eq!(
            key.fingerprint,
            "sha256:ff028a3513dd586de73bac8dd900676414f2f5a170c8aaaf2bcd3b4ed1b5cf30"
        );
        for (value, part) in [
            (json!([]), "1 to 8"),
            (json!(""), "1 to 8"),
            (json!("/etc/chas/cosign.pub"), "not the name of a file"),
            (json!(P384), "neither of ECDSA"),
            (json!(P256.replace("MFkw", "MFkx")), "neither of ECDSA"),
            (json!(P256.replace("END", "BEGIN")), "in PEM"),
            (json!(P256.replace("MFkw", "!!!!")), "in PEM"),
            (
                json!(P256.replace("PUBLIC", "ENCRYPTED SIGSTORE PRIVATE")),
                "private key",
            ),
            (json!(vec![P256; 9]), "8"),
            (json!([7]), "must be"),
            (json!({}), "must be"),
        ] {
            let fault = keys(&value).unwrap_err();
            assert!(fault.contains(part), "{value}: {fault}");
        }
    }

    #[test]
    fn a_rule_demands_signatures_of_its_containers_and_images_alone() {
        let file = json!({"rules": [
            {"name": "all", "owner": "chas", "signed_by": P256},
            {"name": "team", "signed_by": [ED25519, P256], "signed_images": ["r.example/team/*"]},
        ]});
        let policy = super::super::read(&file).unwrap();
        assert!(policy.demands_signatures() && !Policy::default().demands_signatures());
        for (image, owner, rules) in [
            ("nginx", Owner::Push, &[][..]),
            ("nginx", Owner::Chas, &["all"]),
            ("r.example/team/web@sha256:00", Owner::Push, &["team"]),
            ("r.example/team/web:1", Owner::Chas, &["all", "team"]),
            ("r.example/teams/web", Owner::Push, &[]),
        ] {
            let image = image.replace("00", &"00".repeat(32));
            let asked = deploy(&json!({"name": "web", "image": image})).unwrap();
            let demands = policy.signatures(&asked.name, &asked.spec, owner);
            let found: Vec<_> = demands.iter().map(|demand| demand.rule.as_str()).collect();
            assert_eq!(found, rules, "{image}");
            // Who signed is not known yet: nobody is turned away before the registry is asked.
            assert_eq!(policy.judge(&asked, owner, &Desired::default()), []);
        }
        let demand = &policy.signatures_for(&record("r.example/team/web"))[0];
        let [ed25519, p256] = [0, 1].map(|n| demand.keys[n].fingerprint.clone());
        for (signed_by, is_met) in [
            (vec![], false),
            (vec!["sha256:00".to_owned()], false),
            (vec![ed25519], true),
            (vec!["sha256:00".to_owned(), p256], true),
        ] {
            assert_eq!(demand.is_met_by(&signed_by), is_met, "{signed_by:?}");
        }
    }

    #[test]
    fn a_rule_that_names_images_names_signers_too() {
        for (rule, field) in [
            (
                json!({"signed_images": ["r.example/*"]}),
                "rules[0].signed_images",
            ),
            (
                json!({"signed_images": [], "signed_by": P256}),
                "rules[0].signed_images",
            ),
            (json!({"signed_by": "cosign.pub"}), "rules[0].signed_by"),
            (json!({"signed_by": null}), "rules[0].signed_by"),
        ] {
            let mut rule = rule;
            rule["name"] = json!("r");
            let faults = super::super::read(&json!({"rules": [rule]})).unwrap_err();
            assert_eq!(faults[0].field, field, "{faults:?}");
        }
    }

    fn record(image: &str) -> Record {
        let spec = deploy(&json!({"name": "web", "image": image}))
            .unwrap()
            .spec;
        Record {
            spec,
            ..crate::desired::tests::record("web", 1)
        }
    }
}
